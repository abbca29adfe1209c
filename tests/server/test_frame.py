"""What must survive pruning: the user's words, instructions, code, data and examples."""

import json
import time

import pytest

from tokenprune_server.decide import Facts, skip_reason
from tokenprune_server.protocols import BY_ROUTE
from tokenprune_server.protocols.base import Rules, Span, splice
from tokenprune_server.protocols.shapes import (
    code_ranges,
    is_few_shot,
    is_json,
    json_ranges,
    needs_whole_text,
)

CHAT = BY_ROUTE["/v1/chat/completions"]
COMPLETIONS = BY_ROUTE["/v1/completions"]
RULES = Rules()
FACTS = (
    "The lighthouse on the northern cape was built in 1871 and automated a century later. Its lamp is "
    "visible for twenty miles. The keeper's house is a museum now, and ships pass it on their way home.",
    "Gulls nest on the rocks below the tower. The old market in the town sells bells, ribbons and hats "
    "on every rainy day of the week, as it always has done. A railway reached it in 1902 and closed again.",
    "The harbour board paid for the tower with a tax on coal. Three ships were lost in the winter of 1869, "
    "and the town council had asked for a light since then. The first keeper stayed for forty years.",
)
F = "\n\n".join(FACTS * 3)
NUMBERED = "\n\n".join(f"[{n}] {FACTS[n % 3]} Passage {n}." for n in range(1, 6))
Q = "When was the lighthouse built?"
CODE = "\n\n".join(f"def f{n}(a):\n    # Why is this slow?\n    return a*{n}" for n in range(40))
YAML = "services:\n" + "".join(
    f"  web{n}:\n    image: nginx:1.2{n}\n    ports:\n      - '80{n}:80'\n    environment:\n      A: prod\n"
    for n in range(20)
)
LOG = "\n".join(
    f"2024-05-0{n % 9 + 1} 12:00:0{n % 9} INFO worker {n} took a job off the queue" for n in range(40)
)
LOG += "\nTraceback (most recent call last):\n" + '  File "a.py", line 3, in run\n    go(x)\n' * 10
CSV = "id,name,town,born\n" + "\n".join(f"{n},Ann{n},Northtown,19{n:02d}" for n in range(80))
C_CODE = "#include <stdio.h>\n\n" + "\n\n".join(
    f"static int f{n}(int a)\n{{\n    int b = a * {n};\n    return b;\n}}" for n in range(30)
)
RECORDS = json.dumps([{"name": f"user{n}", "age": n, "town": "Northtown"} for n in range(40)], indent=1)
JSON_LINES = "\n".join(json.dumps({"name": f"user{n}", "text": "word " * 40}) for n in range(5))
FEW_SHOT = "".join(
    f"Question: Review {n}: the hat that I bought at the market was fine.\nAnswer: positive\n\n"
    for n in range(20)
)


def user(content):
    return {"role": "user", "content": content}


def tool(content):
    return {"role": "tool", "tool_call_id": "c", "content": content}


def parts(*texts):
    return user([{"type": "text", "text": text} for text in texts])


def locate(*messages, rules=RULES):
    return CHAT.locate({"messages": list(messages)}, rules)


def spans(located):
    return [span.text for job in located.jobs for span in job.spans]


def emptied(*messages, rules=RULES):
    """The messages with every document dropped, as JSON text without escapes."""
    body = {"messages": list(messages)}
    located = CHAT.locate(body, rules)
    new = CHAT.put_back(body, [(span, "") for job in located.jobs for span in job.spans])
    return [m["content"] for m in new["messages"]]


ASKED = "Why did the Louvre put a pyramid there, tell me about it."
FAQ = "Question: how do I get a waggle dance?\nAnswer: click on bees on the login page."
# name, prompt, what must stay, query
KEPT = [
    ("faq", f"{ASKED}\n\n{F}\n\n{FAQ}", [ASKED], ASKED),
    ("faq-q", f"{F}\n\n{FAQ}\n\n{Q}", [Q], Q),
    (
        "after-numbers",
        f"Question: {Q}\n\nContext:\n{NUMBERED}\n\nLet's think step by step. "
        'Output JSON with keys "answer" and "source".',
        ['Let\'s think step by step. Output JSON with keys "answer" and "source".'],
        Q,
    ),
    (
        "numbers-note",
        f"Question: {Q}\n\nContext:\n{NUMBERED}\n\nTwo sentences, French.",
        ["Two sentences, French."],
        Q,
    ),
    (
        "make-sure",
        f"{Q}\n\n{F}\n\nMake sure you answer in French, and output only the name.",
        ["Make sure you answer in French, and output only the name."],
        Q,
    ),
    (
        "return-json",
        f"Context:\n{F}\n\nReturn the answer as a JSON object with the key name. Answers must be in French."
        f"\n\nQuestion: {Q}",
        ["Return the answer as a JSON object with the key name. Answers must be in French."],
        Q,
    ),
    (
        "pirate",
        "You will answer as a pirate who knows the sea.\n\n"
        f"{F}\n\nSpeak like a pirate. Mention the weather.\n\n{Q}",
        ["You will answer as a pirate who knows the sea.", "Speak like a pirate. Mention the weather."],
        Q,
    ),
    ("own-words", f"I am writing about towers for my class.\n\n{F}\n\n{Q}", ["towers for my class"], Q),
    (
        "thinking",
        f"Context:\n{F}\n\nQuestion: {Q}\nAnswer: Let's think step by step.",
        [Q, "step by step"],
        None,
    ),
    (
        "refine",
        f"The original query is as follows: {Q}\nWe have provided an existing answer: In 1870.\nWe have the "
        "opportunity to refine the existing answer (only if needed) with some more context below.\n"
        f"------------\n{F}\n------------\nGiven the new context, refine the original answer to better "
        "answer the query. If the context isn't useful, return the original answer.\nRefined Answer: ",
        ["In 1870.", "below.\n------------\n", "\n------------\nGiven", "Refined Answer:"],
        Q,
    ),
    ("q-a", f"{F}\n\nQ: {Q}\nA:", [f"Q: {Q}\nA:"], Q),
]


@pytest.mark.parametrize(("name", "prompt", "kept", "query"), KEPT, ids=[case[0] for case in KEPT])
@pytest.mark.parametrize("protocol", [CHAT, COMPLETIONS])
def test_what_is_said_stays_and_the_facts_are_documents(protocol, name, prompt, kept, query):
    body = {"messages": [user(prompt)]} if protocol is CHAT else {"prompt": prompt}
    located = protocol.locate(body, RULES)
    new = protocol.put_back(body, [(span, "") for job in located.jobs for span in job.spans])
    left = new["messages"][0]["content"] if protocol is CHAT else new["prompt"]
    for words in kept:
        assert words in left
    assert FACTS[1][:60] not in left
    if query is not None:
        assert located.jobs[0].query == query


UNTOUCHED = [
    ("json-passage", user(f"Context:\n{RECORDS}\n\nQuestion: How old is user17?")),
    ("json-label", tool("Result: " + RECORDS)),
    ("json-lines", tool("\n".join(json.dumps({"name": f"u{n}", "age": n}) for n in range(60)))),
    ("json-broken", tool(RECORDS[:-30])),
    ("code-user", user(f"{CODE}\n\nWhy is this slow?")),
    ("code-tool", tool(CODE)),
    ("c-code", tool(C_CODE)),
    ("yaml", user(f"{YAML}\n\nWhich image does web3 use?")),
    ("yaml-tool", tool(YAML)),
    ("log", tool(LOG)),
    ("csv", tool(CSV)),
    ("repr", tool(repr(json.loads(RECORDS)))),
    ("few-shot", user(f"{FEW_SHOT}Question: Review 21: the bell was bad.\nAnswer:")),
    ("plain", user(F)),
    ("plain-with-frame", user("My name is Ann.\n\n" + F)),
]


@pytest.mark.parametrize(("name", "message"), UNTOUCHED, ids=[case[0] for case in UNTOUCHED])
@pytest.mark.parametrize("query", [None, "How old is user17?"])
def test_code_data_and_own_words_are_no_documents(name, message, query):
    messages = [user(Q), message] if message["role"] == "tool" else [message]
    if query is None and name.startswith("plain"):
        assert locate(*messages).jobs[0].query is None  # reported as no-query
        return
    assert spans(locate(*messages, rules=Rules(query=query))) == []


def test_code_prompts_of_completions():
    prompt = CODE + "\n\n# what does this do?"
    located = COMPLETIONS.locate({"prompt": prompt}, RULES)
    assert spans(located) == []
    assert [job.query for job in located.jobs] == [None]


def test_code_is_a_document_when_asked():
    assert spans(locate(user(Q), tool(CODE), rules=Rules(prune_code_fences=True))) == [CODE]


def test_data_and_code_within_prose_are_left_alone():
    text = f"{F}\n\nThe records:\n{RECORDS}\n\n{F}\n\nstart = 1\nstop = 2\nrun(start, stop)\n\n{F}"
    left = emptied(user(Q), tool(text))[1]
    assert RECORDS in left
    assert "start = 1\nstop = 2\nrun(start, stop)" in left
    assert FACTS[0] not in left


def test_long_strings_of_labelled_json_and_json_lines_are_documents():
    value = {"page": F, "n": 1}
    for text in ("Result: " + json.dumps(value), json.dumps(value) + "\n" + json.dumps(value)):
        assert set(spans(locate(user(Q), tool(text)))) == {F}
    assert spans(locate(user(Q), tool(JSON_LINES))) == []


@pytest.mark.parametrize(
    "text",
    [
        F,
        NUMBERED,
        "\n".join(FACTS * 5),
        "- " + "\n- ".join(FACTS * 3),
        "\n".join(f + " [3]" for f in FACTS * 3),
        ";\n".join(f"- {f[:90]}" for f in FACTS * 6),
    ],
)
def test_prose_is_not_code(text):
    assert code_ranges(text) == []
    assert json_ranges(text) == []
    assert spans(locate(user(Q), tool(text)))


@pytest.mark.parametrize(
    ("asks", "answers"), [("Q", "A"), ("Question", "Answer"), ("Input", "Output"), ("User", "Assistant")]
)
def test_examples(asks, answers):
    pairs = [f"{asks}: {FACTS[n % 3]}\n{answers}: yes\n\n" for n in range(9)]
    last = f"{asks}: And the old market?\n{answers}:"
    for prompt in ("".join(pairs) + last, "Judge each.\n\n" + "".join(pairs) + last):
        located = COMPLETIONS.locate({"prompt": prompt}, RULES)
        assert (spans(located), located.few_shot) == ([], 1)
    assert not is_few_shot(pairs[0] + last)
    assert skip_reason(Facts(documents=0, few_shot=1, short_documents=1)) == "few-shot"


EARLIER = [
    (user(f"My name is Ann, I am allergic to nuts, and always answer in Spanish. {F}"), 0),
    (user(f"Always answer in Spanish.\n\n{F}\n\nIs that clear?"), 0),
    (user(f"I have documents to sort, and I am Ann.\n\n{F}\n\nCan you help me?"), 0),
    (user(f"Context:\n{F}\n\nQuestion: {Q}"), 1),
    (user(f"{NUMBERED}\n\n{Q}"), 5),
    (
        user(
            "My name is Ann <ann@example.org>.\n<html><body>"
            + "".join(f"<p>{f}</p>" for f in FACTS * 2)
            + "</body></html>"
        ),
        1,
    ),
    (tool(F), 1),
]


@pytest.mark.parametrize(("message", "count"), EARLIER)
def test_earlier_turns(message, count):
    located = locate(message, {"role": "assistant", "content": "Yes."}, user("Who paid for it?"))
    assert len(spans(located)) == count
    assert not any(words in text for text in spans(located) for words in ("Spanish", "Ann"))


@pytest.mark.parametrize("content", [F, "My name is Ann. " + F, f"{F}\n\nAlways answer in Spanish."])
def test_the_query_option_does_not_open_the_last_user_message(content):
    rules = Rules(query="Who paid for the tower?")
    assert spans(locate(user(content), rules=rules)) == []
    assert "Spanish" not in "".join(spans(locate(parts(F, content), rules=rules)))
    located = locate(user(f"Context:\n{F}\n\nQuestion: {Q}"), rules=rules)
    assert (spans(located), located.jobs[0].query) == ([F], rules.query)


WHOLE = [
    "What are the main points of the text?",
    "Give me an overview of the context.",
    "Is anything in the text wrong?",
    "How many animals are mentioned in total?",
    "List all towns.",
    "Make a quiz from this with three questions?",
    "For my class, please translate the above to German.",
    "Could you rewrite this in plain words?",
    "Proofread it, would you?",
    "tl;dr?",
    "What is this article about?",
]


@pytest.mark.parametrize("question", WHOLE)
def test_tasks_that_need_the_whole_text(question):
    for messages in ([user(f"{question}\n\n{F}")], [user(f"{F}\n\n{question}")]):
        assert locate(*messages).jobs[0].query is None
    for messages in ([user(f"Context:\n{F}\n\nQuestion: {question}")], [user(question), tool(F)]):
        job = locate(*messages).jobs[0]
        assert (job.query, job.whole_text) == (None, True)
    assert skip_reason(Facts(documents=1, has_query=False, whole_text=True)) == "whole-text"


@pytest.mark.parametrize(
    "question",
    [
        Q,
        "How do I translate a string?",
        "Who painted it?",
        "How many keepers were there?",
        "What does the board do about coal?",
        "Name the first keeper.",
    ],
)
def test_questions_that_do_not(question):
    assert not needs_whole_text(question)


def test_a_dropped_passage_leaves_with_its_outer_element():
    elements = [
        f'<document index="{n}">\n<source>s{n}.txt</source>\n<document_content>\n{FACTS[n % 3] * 2}\n'
        "</document_content>\n</document>\n"
        for n in range(1, 4)
    ]
    body = {"messages": [user(f"<documents>\n{''.join(elements)}</documents>\n\n{Q}")]}
    found = CHAT.locate(body, RULES).jobs[0].spans
    assert [span.title for span in found] == ["s1.txt", "s2.txt", "s3.txt"]
    new = CHAT.put_back(body, [(found[0], ""), (found[2], "")])["messages"][0]["content"]
    assert new == f"<documents>\n\n{elements[1]}\n</documents>\n\n{Q}"


def test_the_minimum_holds_for_the_sum():
    assert len(spans(locate(parts(*FACTS, *FACTS[:2], Q)))) == 5
    assert len(spans(locate(parts(Q, *FACTS, *FACTS[:2])))) >= 4
    assert len(spans(locate(user(Q), *[tool(f) for f in FACTS * 2]))) == 6
    assert spans(locate(user(Q), *[tool("The lighthouse was built in 1871.")] * 50)) == []
    assert spans(locate(parts(FACTS[0], FACTS[1], Q))) == []
    assert spans(locate(parts(f"Context:\n{F}", Q))) == [F]
    told = "You will answer as a pirate who knows the sea. " * 4
    assert told not in spans(locate(parts(told, F, Q)))


HOSTILE = ["{" * 400_000, "[\n" * 200_000, '{"a":\n' * 100_000, "a = " * 200_000, "a,b" * 200_000]
HOSTILE += ["  x\n" * 200_000, "Q: x\nA: y\n" * 80_000, "|" * 400_000, "- a: " * 100_000, "{}\n" * 100_000]
HOSTILE += [
    "(" * 400_000,
    "how many " * 90_000,
    "any the " * 90_000,
    "make " * 150_000,
    ("a" * 79 + " ") * 9_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_shapes_take_linear_time(text):
    start = time.process_time()
    for look in (is_json, json_ranges, code_ranges, is_few_shot, needs_whole_text):
        look(text)
    assert time.process_time() - start < 3


def _located(text, role="user"):
    """Texts of a message that may be pruned, behind a question."""
    call = {"id": "c", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    said = [{"role": "user", "content": Q}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    return spans(locate(*said, {"role": role, "content": text, "tool_call_id": "c"}))


@pytest.mark.parametrize("code", [CODE, YAML, LOG, C_CODE, CSV])
def test_code_in_a_json_string_is_code_as_well(code):
    assert not _located(json.dumps({"path": "a", "content": code}), "tool")
    assert _located(json.dumps({"path": "a", "content": F}), "tool") == [F]


@pytest.mark.parametrize(
    ("question", "pruned"),
    [
        ("Why does the Add button do nothing?", False),
        ("What is wrong with the CSS?", False),
        ("What does orders.html lack?", False),
        ("When was the lighthouse built?", True),
        ("Which form do I need to visit the lighthouse?", True),
    ],
)
def test_a_page_is_code_where_its_code_is_asked_about(question, pruned):
    page = f"<html><body><form action=/add><button>Add</button></form><p>{'</p><p>'.join(FACTS * 3)}</p></body></html>"
    found = spans(locate({"role": "user", "content": f"{question}\n\n{page}"}))
    assert found == ([page] if pruned else [])


LISTINGS = {
    "cat -n": "".join(f"{n:6}\t{line}\n" for n, line in enumerate(F.replace(". ", ".\n").splitlines(), 1)),
    "grep": "".join(f"docs/a{n}.txt:{n}:{fact}\n" for n, fact in enumerate(FACTS * 3)),
    "patch": "@@ -1,9 +1,9 @@\n" + "\n".join(f" {line}" for line in F.replace(". ", ".\n").splitlines()),
    "clickable": "".join(f"[{n}]<a role=button>{fact} />\n" for n, fact in enumerate(FACTS * 3)),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_lines_that_need_each_other_stay(name):
    assert not _located(LISTINGS[name], "tool")


def test_queries_in_lower_case_are_code():
    sql = "\n".join(
        f"select c.name, sum(o.total) as t{n}\nfrom customers c\nleft join orders o on o.customer_id = c.id\n"
        f"where o.year = 20{n}\ngroup by c.name\norder by t{n} desc;\n"
        for n in range(10, 16)
    )
    assert not _located(sql, "tool")


def test_sources_with_numbers_are_passages():
    sources = "\n".join(f'<source id="{n}" name="f{n}.txt">{f}</source>' for n, f in enumerate(FACTS * 3, 1))
    found = spans(locate({"role": "user", "content": f"<context>\n{sources}\n</context>\n\n{Q}"}))
    assert found == list(FACTS * 3)


@pytest.mark.parametrize(
    ("original", "inner", "pruned", "expected"),
    [
        ("Rooms: 5<br>7 windows<br>", "<br>7 windows<br>", "7 windows", "Rooms: 5\n7 windows"),
        ("Dear Bob,<br>x<br>the roof", "<br>x<br>", "", "Dear Bob,\nthe roof"),
        ("Of 2024\n<p>x</p>\nRegards", "<p>x</p>", "x", "Of 2024\nx\nRegards"),
        ("Of 2024<p>x</p>Regards", "<p>x</p>", "<p>x", "Of 2024\n<p>x\nRegards"),
    ],
)
def test_words_around_a_page_stay_apart(original, inner, pruned, expected):
    start = original.index(inner)
    span = Span(("content",), start, start + len(inner), inner, "html", None)
    assert splice(original, [(span, pruned)]) == expected


def test_half_a_surrogate_pair_stays_escaped():
    original = json.dumps({"text": "first words. last words \ud83d"})
    start = original.index('"first')
    span = Span(
        ("content",), start, len(original) - 1, "first words. last words \ud83d", "text", None, quoted=True
    )
    spliced = splice(original, [(span, "last words \ud83d")])
    assert spliced == '{"text": "last words \\ud83d"}'
    assert spliced.encode()
