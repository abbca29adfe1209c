"""The user's own workload files: both forms, and one clear error for a wrong line."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.bench.casefile import Line
from tokenprune.bench.workloads import load, sources
from tokenprune.errors import ConfigError, UnknownNameError
from tokenprune_server.protocols.base import Rules
from tokenprune_server.protocols.chat import ChatProtocol

LONG = "The tower was finished in 1889. " + "It is repainted every seven years. " * 40


@pytest.fixture
def file(tmp_path):
    def write(*lines, name="mine.jsonl"):
        path = tmp_path / name
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return str(path)

    return write


def test_messages_stay_as_they_are(file):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": LONG}, {"type": "text", "text": "When?"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "user", "content": "When was it finished?", "name": "ann"},
    ]
    extra = {"answers": ["1889"], "evidence": ["finished in 1889"], "group": "g", "max_tokens": 5}
    case = load(file({"messages": messages, "tokenprune": {"keep_ratio": 0.5}, **extra}))[0]
    assert list(case.messages) == messages
    assert case.question == "When was it finished?"
    assert (case.answers, case.evidence, case.group, case.max_tokens) == (
        ("1889",), ("finished in 1889",), "g", 5,
    )  # fmt: skip
    assert case.options == {"keep_ratio": 0.5}
    assert case.id == "mine-1"


def test_the_question_of_parts(file):
    content = [{"type": "text", "text": "A text."}, {"type": "image_url"}, {"type": "text", "text": "What?"}]
    assert load(file({"messages": [{"role": "user", "content": content}]}))[0].question == "A text.\n\nWhat?"


@pytest.mark.parametrize(
    "documents",
    [
        [LONG],
        [LONG, {"title": "Rain", "text": "Rain fell. " * 60}],
        [
            LONG + "\n\nSecond paragraph. " + "More of it. " * 30,
            {"title": 'A "b" <c>', "text": "Rain. " * 80},
        ],
        [
            {"title": "P", "text": f"<html><body><p>{LONG}</p></body></html>"},
            "<div><p>" + LONG + "</p></div>",
        ],
    ],
)
def test_documents_are_found_where_they_were_put(documents, file):
    source = sources(file({"question": "When was it finished?", "documents": documents, "id": 7}))[0]
    case = source.case()
    assert case.id == "7"
    place = ChatProtocol().locate({"messages": list(case.messages)}, Rules())
    assert [s.text for j in place.jobs for s in j.spans] == [d.text.strip() for d in source.documents]
    assert place.jobs[0].query == "When was it finished?"
    given = [d if isinstance(d, str) else d["text"] for d in documents]
    assert [d.text for d in source.documents] == given


def test_empty_lines_limits_and_gzip(file):
    line = {"question": "Q?", "documents": ["x"]}
    assert [c.id for c in load(file(line, "", line, name="a.jsonl.gz"))] == ["a-1", "a-3"]
    assert [c.id for c in load(file(line, "", line, "{"), 2)] == ["mine-1", "mine-3"]  # the rest is not read
    with pytest.raises(ConfigError, match="has no case"):
        load(file(""))


@pytest.mark.parametrize("name", ["b.jsonl", "b.jsonl.gz"])
def test_a_byte_order_mark_is_no_fault(file, name):
    assert [
        c.id for c in load(file("\ufeff" + json.dumps({"question": "Q?", "documents": ["x"]}), name=name))
    ] == ["b-1"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "not JSON"),
        ("[1]", ": not a JSON object; "),
        ("[" * 100_000, "nested too deeply"),
        ({}, "give either messages, or question and documents"),
        (
            {"messages": [{"role": "user", "content": "x"}], "documents": ["x"], "question": "?"},
            "give either messages",
        ),
        ({"documents": ["x"]}, "documents need a question"),
        ({"documents": [], "question": "Q?"}, "documents: "),
        ({"documents": [3], "question": "Q?"}, "documents.0"),
        ({"documents": [{"txt": "x"}], "question": "Q?"}, "documents.0.text: Field required"),
        ({"messages": [{"content": "x"}]}, "message 0 has no role"),
        ({"messages": "x"}, "messages: "),
        ({"messages": [{"role": "user"}]}, "message 0 (user) has no content"),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, "message 0 (assistant) has no content"),
        ({"messages": [{"role": "user", "content": "x"}], "answer": "x"}, "answer: Extra inputs"),
        ({"messages": [{"role": "user", "content": "x"}], "answers": "x"}, "answers: "),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "max_tokens: "),
        (
            {"messages": [{"role": "user", "content": "x"}], "id": "mine-1"},
            "the id 'mine-1' stands in line 1 already",
        ),
    ],
)
def test_a_wrong_line_is_named(line, fault, file):
    good = {"question": "Q?", "documents": ["x"]}
    with pytest.raises(ConfigError) as caught:
        load(file(good, "", line))
    message = str(caught.value)
    assert "mine.jsonl, line 3: " in message and fault in message
    assert '{"messages": [{"role", "content"}, ...]}' in message


def test_files_that_cannot_be_read(file, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the workload .*no\.jsonl: No such file"):
        load(str(tmp_path / "no.jsonl"))
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"question": "Q?", "documents": ["x"]}\n\xff\n')
    with pytest.raises(ConfigError, match=r"line [12]: not UTF-8"):
        load(str(path))
    broken = tmp_path / "b.jsonl.gz"
    broken.write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match="cannot read the workload"):
        load(str(broken))
    with pytest.raises(UnknownNameError):
        load("mine")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_fields = st.sampled_from(["messages", "question", "documents", "answers", "id", "group", "max_tokens", "x"])


@given(st.dictionaries(_fields, _json, max_size=5) | _json)
def test_any_json_is_a_case_or_one_error(value):
    try:
        source = Line.parse(value).source("n")
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        case = source.case()
        assert case.messages and all(isinstance(m["role"], str) for m in case.messages)
