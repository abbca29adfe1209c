"""The protocol adapters: locating spans, putting them back, and what they must never touch."""

import copy
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tokenprune_server.errors import RequestError
from tokenprune_server.protocols import BY_ROUTE
from tokenprune_server.protocols.base import Context, Rules, estimate_tokens
from tokenprune_server.protocols.texts import outside_fences

CHAT = BY_ROUTE["/v1/chat/completions"]
COMPLETIONS = BY_ROUTE["/v1/completions"]
RULES = Rules(min_tokens=100)
LONG = "The cape has a lighthouse from 1871. Its lamp is bright and its keeper is gone. " * 12
HTML = "<html><body>" + "".join(f"<p>Paragraph {n}. {LONG[:200]}</p>" for n in range(8)) + "</body></html>"
Q = "When was the lighthouse built?"


def chat(*messages):
    return {"model": "m", "messages": list(messages)}


def user(content):
    return {"role": "user", "content": content}


def texts(located):
    return [span.text for job in located.jobs for span in job.spans]


def drop_everything(protocol, body, rules=RULES):
    located = protocol.locate(body, rules)
    return protocol.put_back(body, [(span, "") for job in located.jobs for span in job.spans])


class TestChat:
    def test_long_text_then_question_in_one_message(self):
        located = CHAT.locate(chat(user(f"{LONG}\n\n{Q}")), RULES)
        assert texts(located) == [LONG.strip()]
        assert located.jobs[0].query == Q

    def test_documents_in_earlier_messages_and_tool_output(self):
        body = chat(
            user(HTML),
            {
                "role": "assistant",
                "content": LONG,
                "tool_calls": [{"id": "c1", "function": {"arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": LONG},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": LONG}]},
            user(Q),
        )
        located = CHAT.locate(body, RULES)
        assert texts(located) == [HTML, LONG.strip(), LONG.strip()]
        assert [s.kind for s in located.jobs[0].spans] == ["html", "text", "text"]
        assert located.jobs[0].query == Q

    def test_each_part_stands_alone(self):
        parts = [
            {"type": "text", "text": LONG},
            {"type": "image_url", "image_url": {"url": "data:x"}},
            {"type": "text", "text": HTML},
            {"type": "text", "text": Q},
        ]
        located = CHAT.locate(chat(user(parts)), RULES)
        assert texts(located) == [LONG.strip(), HTML]
        assert located.jobs[0].query == Q

    def test_never_touched(self):
        body = chat(
            {"role": "system", "content": LONG},
            {"role": "developer", "content": HTML},
            {
                "role": "assistant",
                "content": LONG,
                "tool_calls": [{"id": "x", "function": {"arguments": LONG}}],
            },
            {"role": "tool", "tool_call_id": "x", "content": json.dumps({"rows": list(range(500))})},
            user(json.dumps({"schema": {"description": LONG}})),
            user(Q),
        )
        assert texts(CHAT.locate(body, RULES)) == []

    def test_only_a_long_document_has_no_question(self):
        located = CHAT.locate(chat(user(LONG)), RULES)
        assert located.jobs[0].query is None
        assert located.jobs[0].spans

    def test_long_words_of_the_user_are_protected_when_tools_bring_documents(self):
        body = chat(user(LONG), {"role": "tool", "tool_call_id": "x", "content": HTML})
        located = CHAT.locate(body, RULES)
        assert texts(located) == [HTML]
        assert located.jobs[0].query.endswith("keeper is gone.")

    def test_the_query_of_the_request_wins(self):
        rules = Rules(min_tokens=100, query="Who kept the lamp?")
        located = CHAT.locate(chat(user(f"{LONG}\n\n{Q}")), rules)
        assert located.jobs[0].query == "Who kept the lamp?"
        assert texts(located) == [LONG.strip()]

    @pytest.mark.parametrize(
        "task", ["Summarize this page.", "Please translate it to German", "Can you rewrite it?"]
    )
    def test_tasks_about_the_whole_text_have_no_query(self, task):
        assert CHAT.locate(chat(user(LONG), user(task)), RULES).jobs[0].query is None

    def test_code_fences_are_frame_unless_asked(self):
        code = "```python\n" + "print('lighthouse')\n" * 40 + "```"
        body = chat(user(Q), {"role": "tool", "tool_call_id": "x", "content": f"{LONG}\n\n{code}\n\n{LONG}"})
        assert all("```" not in text for text in texts(CHAT.locate(body, RULES)))
        assert code in drop_everything(CHAT, body)["messages"][1]["content"]
        asked = CHAT.locate(body, Rules(min_tokens=100, prune_code_fences=True))
        assert len(texts(asked)) == 1
        assert code in texts(asked)[0]

    def test_code_fences_and_data_in_turns_are_frame(self):
        turn = f'{LONG}\n\n{{"a": "{"b" * 90}"}}\n```\nx = 1\n```\n'
        found = texts(CHAT.locate(chat(user(Q), user(turn * 30)), RULES))
        assert found == [LONG.strip()] * 30

    def test_long_strings_in_json_tool_output(self):
        output = json.dumps(
            {"url": "http://x/é", "n": 1.50, LONG: 1, "text": LONG + '"\\\n', "more": [HTML]}, indent=1
        )
        body = chat(user(Q), {"role": "tool", "tool_call_id": "x", "content": output})
        located = CHAT.locate(body, RULES)
        assert texts(located) == [LONG + '"\\\n', HTML]
        edits = [(span, 'cut "here"\n') for span in located.jobs[0].spans]
        new = CHAT.put_back(body, edits)["messages"][1]["content"]
        expected = json.loads(output) | {"text": 'cut "here"\n', "more": ['cut "here"\n']}
        assert json.loads(new) == expected
        assert "1.5," in new
        assert new.startswith('{\n "url"')

    def test_dropped_passages_take_their_label_and_leave_the_numbers(self):
        body = chat(user(f"Context:\n[1] {LONG}a\n\n[2] {LONG}b\n\n[3] {LONG}c\n\nQuestion: {Q}"))
        spans = CHAT.locate(body, RULES).jobs[0].spans
        new = CHAT.put_back(body, [(spans[0], "first"), (spans[1], ""), (spans[2], "third")])
        assert new["messages"][0]["content"] == f"Context:\n[1] first\n\n[3] third\n\nQuestion: {Q}"

    def test_contexts_come_before_the_question(self):
        contexts = [Context("one", title="T"), Context(""), Context("three")]
        body = chat({"role": "system", "content": "s"}, user(Q), {"role": "assistant", "content": "a"})
        new = CHAT.insert_contexts(body, contexts)
        assert new["messages"][1]["content"] == f"Context:\n[1] Title: T\none\n\n[3]\nthree\n\n{Q}"
        assert body["messages"][1]["content"] == Q
        parts = CHAT.insert_contexts(chat(user([{"type": "text", "text": Q}])), contexts)["messages"][0][
            "content"
        ]
        assert [p["text"] for p in parts] == ["Context:\n[1] Title: T\none\n\n[3]\nthree\n\n", Q]
        with pytest.raises(RequestError, match="user message"):
            CHAT.insert_contexts(chat({"role": "system", "content": "s"}), contexts)

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"messages": None},
            {"messages": "x"},
            {"messages": [1, None, "x", {}, {"role": "user"}, {"role": "user", "content": 7}]},
            {
                "messages": [
                    {"role": "user", "content": [1, None, {"type": "text"}, {"type": "text", "text": 3}]}
                ]
            },
            {"messages": [{"role": ["user"], "content": LONG}]},
        ],
    )
    def test_odd_bodies_hold_no_documents(self, body):
        before = copy.deepcopy(body)
        assert texts(CHAT.locate(body, RULES)) == []
        assert drop_everything(CHAT, body) == before


class TestCompletions:
    def test_template(self):
        located = COMPLETIONS.locate({"prompt": f"Context: {LONG}\n\nQuestion: {Q}\nAnswer:"}, RULES)
        assert texts(located) == [LONG.strip()]
        assert located.jobs[0].query == Q

    def test_a_batch_has_a_job_per_prompt(self):
        prompts = [f"Context: {LONG}{n}\n\nQuestion: {n} {Q}" for n in range(3)]
        body = {"prompt": prompts}
        located = COMPLETIONS.locate(body, RULES)
        assert [job.query for job in located.jobs] == [f"{n} {Q}" for n in range(3)]
        new = COMPLETIONS.put_back(body, [(job.spans[0], "") for job in located.jobs])
        assert [p.endswith(f"Question: {n} {Q}") for n, p in enumerate(new["prompt"])] == [True] * 3
        assert body["prompt"] is prompts

    @pytest.mark.parametrize("prompt", [[1, 2, 3], [[1], [2]], None, 7, "", [], [None]])
    def test_token_ids_and_odd_prompts_pass(self, prompt):
        assert texts(COMPLETIONS.locate({"prompt": prompt}, RULES)) == []

    def test_the_texts_of_each_prompt(self):
        texts = BY_ROUTE["/v1/completions"].prompt_texts
        assert texts({"prompt": ["a", [1, 2], "bc"]}) == [["a"], ["bc"]]
        assert texts({"prompt": "a"}) == [["a"]]
        assert texts({"prompt": [1, 2]}) == []

    def test_contexts_need_one_prompt(self):
        assert (
            COMPLETIONS.insert_contexts({"prompt": Q}, [Context("c")])["prompt"] == f"Context:\n[1]\nc\n\n{Q}"
        )
        with pytest.raises(RequestError, match="single prompt"):
            COMPLETIONS.insert_contexts({"prompt": [Q]}, [Context("c")])


# The first draw of st.text() builds a table of all characters, which a busy machine calls slow.
patient = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)

FRAGMENT = st.sampled_from(
    [
        "Context:\n",
        "\n\nQuestion: ",
        "[1] ",
        "\n[2] ",
        "<doc>",
        "</doc>",
        "```\n",
        LONG,
        HTML,
        Q,
        "\n\n",
        "{",
        '"',
        "\\",
    ]
) | st.text(max_size=20)
TEXT = st.lists(FRAGMENT, max_size=12).map("".join)
CONTENT = (
    TEXT | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=3) | st.none()
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]), "content": CONTENT}
)


@patient
@given(st.lists(MESSAGE, max_size=5), st.booleans())
def test_putting_back_unchanged_text_is_identity(messages, fences):
    body = chat(*messages)
    before = copy.deepcopy(body)
    located = CHAT.locate(body, Rules(min_tokens=20, prune_code_fences=fences))
    new = CHAT.put_back(body, [(span, span.text) for job in located.jobs for span in job.spans])
    assert new == before == body


@patient
@example(
    [
        {
            "role": "user",
            "content": f"Context:\nContext:\nContext:\n[1] Context:\n{Q}\x80\x80\x80Context:\n{Q}",
        },
        {"role": "tool", "content": LONG},
    ],
    "",
)
@given(st.lists(MESSAGE, max_size=5), st.sampled_from(["", "kept"]))
def test_protected_messages_and_the_question_survive(messages, replacement):
    body = chat(*messages)
    located = CHAT.locate(body, Rules(min_tokens=20))
    new = CHAT.put_back(body, [(span, replacement) for job in located.jobs for span in job.spans])
    assert len(new["messages"]) == len(messages)
    for old_message, new_message in zip(messages, new["messages"], strict=True):
        if old_message["role"] in ("system", "developer", "assistant"):
            assert new_message == old_message
    query = located.jobs[0].query
    if query is not None and located.jobs[0].spans:
        last = [m for m in new["messages"] if m["role"] == "user"][-1]["content"]
        said = [last] if isinstance(last, str) else [part["text"] for part in last]
        assert any(" ".join(query.split()) in " ".join(text.split()) for text in said)


@patient
@given(TEXT)
def test_completion_prompts_come_back_the_same(prompt):
    body = {"prompt": prompt}
    located = COMPLETIONS.locate(body, Rules(min_tokens=20))
    edits = [(span, span.text) for job in located.jobs for span in job.spans]
    assert COMPLETIONS.put_back(body, edits) == {"prompt": prompt}


@patient
@given(TEXT)
def test_spans_are_the_text_they_say(text):
    body = chat(user(text), user(Q))
    for span in CHAT.locate(body, Rules(min_tokens=20)).jobs[0].spans:
        assert text[span.start : span.end] == span.text


def test_outside_fences():
    text = "a\n```\ncode\n```\nb\n~~~\nmore\n```\n~~~\nc\n```\nopen"
    assert "".join(text[a:b] for a, b in outside_fences(text)) == "a\nb\nc\n"


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a" * 40, 10), ("漢" * 40, 40), ("é" + "a" * 40, 11)])
def test_estimate(text, tokens):
    assert estimate_tokens(text) == tokens
