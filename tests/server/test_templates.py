"""The RAG templates: what is a passage, what is the question, and that the frame stays."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune_server.protocols.passages import PASSAGE_RULES
from tokenprune_server.protocols.templates import recognise

LOREM = (
    "The lighthouse on the northern cape was built in 1871 and automated a century later. "
    "Its lamp is visible for twenty miles. The keeper's house is a museum now. "
    "Ships pass it on their way to the harbour, and gulls nest on the rocks below. "
)
A, B, C = (LOREM + f"Fact {name}. " * 3 for name in ("alpha", "beta", "gamma"))
A, B, C = A.strip(), B.strip(), C.strip()
Q = "When was the lighthouse on the northern cape built?"

LANGCHAIN = (
    "Use the following pieces of context to answer the question at the end. If you don't know the answer, "
    "just say that you don't know, don't try to make up an answer."
    f"\n\n{A}\n\n{B}\n\nQuestion: {Q}\nHelpful Answer:"
)
LANGCHAIN_HUB = (
    "You are an assistant for question-answering tasks. Use the following pieces of retrieved context to "
    "answer the question. If you don't know the answer, just say that you don't know. Use three sentences "
    f"maximum and keep the answer concise.\nQuestion: {Q} \nContext: {A}\n\n{B} \nAnswer:"
)
LLAMA_INDEX = (
    f"Context information is below.\n---------------------\n{A}\n\n{B}\n---------------------\n"
    "Given the context information and not prior knowledge, answer the query.\n"
    f"Query: {Q}\nAnswer: "
)
HAYSTACK = f"Given these documents, answer the question.\nDocuments:\n{A}\n{B}\n\nQuestion: {Q}\nAnswer:"

# name, prompt, passages (text after trimming), titles
CASES = [
    (
        "intro",
        f"Answer the question based only on the following context:\n{A}\n\n{B}\n\nQuestion: {Q}\n",
        [f"{A}\n\n{B}"],
        [None],
    ),
    ("notes", f"Use these notes:\n{A}\n{B}\n\n{Q}", [f"{A}\n{B}"], [None]),
    ("short-marks", f"{A}\n\n{B}\n\nQ: {Q}\nA:", [f"{A}\n\n{B}"], [None]),
    ("context-question", f"Context: {A}\n\n{B}\n\nQuestion: {Q}", [f"{A}\n\n{B}"], [None]),
    ("one-line", f"Context: {A} Question: {Q} Answer:", [A], [None]),
    ("question-first", f"Question: {Q}\n\nContext:\n{A}\n{B}\n\nAnswer:", [f"{A}\n{B}"], [None]),
    ("bold-marks", f"**Context:**\n{A}\n\n**Question:** {Q}\n\n**Answer:**", [A], [None]),
    ("headings", f"### Context:\n{A}\n\n### Question:\n{Q}\n\n### Answer:\n", [A], [None]),
    ("langchain", LANGCHAIN, [f"{A}\n\n{B}"], [None]),
    ("langchain-hub", LANGCHAIN_HUB, [f"{A}\n\n{B}"], [None]),
    ("llama-index", LLAMA_INDEX, [f"{A}\n\n{B}"], [None]),
    ("haystack", HAYSTACK, [f"{A}\n{B}"], [None]),
    ("brackets", f"[1] {A}\n\n[2] {B}\n\n[3] {C}\n\nQuestion: {Q}", [A, B, C], [None] * 3),
    ("brackets-same-line", f"Context: [1] {A}\n[2] {B}\n\nQuestion: {Q}", [A, B], [None] * 2),
    (
        "bracket-titles",
        f"Context:\n[1] Title: Cape\n{A}\n\n[2] Title: Lamp\n{B}\n\n{Q}",
        [A, B],
        ["Cape", "Lamp"],
    ),
    (
        "lost-in-the-middle",
        "Write a high-quality answer for the given question using only the provided search results (some of "
        f"which might be irrelevant).\n\nDocument [1](Title: Cape) {A}\nDocument [2](Title: Lamp) {B}\n\n"
        f"Question: {Q}\nAnswer:",
        [A, B],
        ["Cape", "Lamp"],
    ),
    (
        "titles-with-brackets",
        f"[1] (Title: Wings (1927 film)) {A}\n\n[2] (Title: Lamp)\n{B}\n\n{Q}",
        [A, B],
        ["Wings (1927 film)", "Lamp"],
    ),
    (
        "titles-with-brackets-lost-in-the-middle",
        f"Document [1](Title: Wings (1927 film)) {A}\nDocument [2](Title: Lamp (object)) {B}\n\n{Q}",
        [A, B],
        ["Wings (1927 film)", "Lamp (object)"],
    ),
    (
        "title-lines-with-brackets",
        f"[1] Title: Wings (1927 film) and more\n{A}\n\n[2] Title: Lamp (object)\n{B}\n\n{Q}",
        [A, B],
        ["Wings (1927 film) and more", "Lamp (object)"],
    ),
    (
        "a-passage-that-talks",
        f"[1] Title: Song\nDon't tell me that you will not answer.\n\n[2] Title: Lamp\n{B}\n\nQuestion: {Q}",
        ["Don't tell me that you will not answer.", B],
        ["Song", "Lamp"],
    ),
    (
        "a-first-passage-that-is-short",
        f"Document 1: Do not read me.\n\nDocument 2: {B}\n\n{Q}",
        ["Do not read me.", B],
        [None, None],
    ),
    ("passages", f"Passage 1: {A}\nPassage 2: {B}\n\nQuestion: {Q}", [A, B], [None] * 2),
    ("numbers", f"Context:\n1. {A}\n2. {B}\n\nQuestion: {Q}", [A, B], [None] * 2),
    (
        "title-content",
        f"Title: Cape\nContent: {A}\n\nTitle: Lamp\nContent: {B}\n\nQuestion: {Q}",
        [A, B],
        ["Cape", "Lamp"],
    ),
    (
        "id-content",
        f"Here is the knowledge base:\n\nID: 0\n├── Title: Cape\n├── URL: https://a.example/b\n└── Content:\n{A}\n\n"
        f"------\n\nID: 1\n├── Title: Lamp\n└── Content:\n{B}\n\nThe above is the knowledge base.\n\nQuestion: {Q}",
        [A, B],
        ["Cape", "Lamp"],
    ),
    (
        "id-content-one",
        f"ID: 0\n├── Title: Cape\n├── 作者: 张三\n├── doc.type: {'x' * 900}\n└── Content:\n{A}\n\nQuestion: {Q}",
        [A],
        ["Cape"],
    ),
    (
        "rule-behind-a-label",
        f"Answer from the text. Cite like this:\n[1] Title of the text\n\n----------\n{A}\n\n{B}\n----------\n"
        f"Question: {Q}",
        [f"{A}\n\n{B}"],
        [None],
    ),
    (
        "id-content-plain",
        f"Context:\nID: 7a\nTitle: Cape\nContent: {A}\n\nID: 9c\nContent:\n{B}\n\nQuestion: {Q}",
        [A, B],
        ["Cape", None],
    ),
    (
        "file-heads",
        f"Context:\n--- docs/cape.txt ---\n{A}\n\n--- lamp.md ---\n{B}\n\nQuestion: {Q}",
        [A, B],
        ["docs/cape.txt", "lamp.md"],
    ),
    (
        "document-tags",
        f'<documents>\n<document title="Cape">\n{A}\n</document>\n'
        f"<document>{B}</document>\n</documents>\n\n{Q}",
        [A, B],
        ["Cape", None],
    ),
    ("doc-tags", f"<doc id=1>{A}</doc>\n<doc id=2>{B}</doc>\nQuestion: {Q}", [A, B], [None] * 2),
    ("context-tag", f"<context>\n{A}\n</context>\n\n<question>{Q}</question>", [A], [None]),
    (
        "question-tag-first",
        f"<question>{Q}</question>\n<context>\n{A}\n{B}\n</context>",
        [f"{A}\n{B}"],
        [None],
    ),
    ("plain-last", f"{A}\n\n{B}\n\n{Q}", [f"{A}\n\n{B}"], [None]),
    ("plain-first", f"{Q}\n\n{A}\n\n{B}", [f"{A}\n\n{B}"], [None]),
    ("html-last", f"<html><body><p>{A}</p><p>{B}</p></body></html>\n\n{Q}", None, [None]),
    ("html-first", f"{Q}\n<!DOCTYPE html><html><body><p>{A}</p><p>{B}</p></body></html>", None, [None]),
    ("chinese", f"上下文：\n{A}\n\n问题：{Q}\n回答：", [A], [None]),
    (
        "chatml",
        f"<|im_start|>system\nContext: keep me {C}\nQuestion: no<|im_end|>\n"
        f"<|im_start|>user\nContext: {A}\n\n"
        f"Question: {Q}<|im_end|>\n<|im_start|>assistant\n",
        [A],
        [None],
    ),
    (
        "quotes-chatml",
        f"Context:\n{A} A turn is <|im_start|>user\nHello<|im_end|> there. {B}\n\nQuestion: {Q}",
        [f"{A} A turn is <|im_start|>user\nHello<|im_end|> there. {B}"],
        [None],
    ),
]


@pytest.mark.parametrize(("name", "prompt", "passages", "titles"), CASES, ids=[case[0] for case in CASES])
def test_template(name, prompt, passages, titles):
    found = recognise(prompt)
    assert found is not None
    assert found.question == Q
    assert [p.title for p in found.passages] == titles
    texts = [prompt[p.start : p.end].strip() for p in found.passages]
    if passages is None:
        assert texts[0].startswith(("<html", "<!DOCTYPE"))
        assert texts[0].endswith("</html>")
    else:
        assert texts == passages


@pytest.mark.parametrize(("name", "prompt", "passages", "titles"), CASES, ids=[case[0] for case in CASES])
def test_passages_are_ordered_and_never_touch_the_question(name, prompt, passages, titles):
    found = recognise(prompt)
    at = 0
    for passage in found.passages:
        assert at <= passage.start <= passage.end <= len(prompt)
        start, end = passage.drop or (passage.start, passage.end)
        assert at <= start <= passage.start <= passage.end <= end
        at = end
        assert Q not in prompt[start:end]


def test_instructions_after_the_passages_stay_frame():
    instruction = "Answer the question with the passages above and cite their numbers."
    prompt = f"[1] {A}\n\n[2] {B}\n\n{instruction}\n\nQuestion: {Q}"
    found = recognise(prompt)
    assert [prompt[p.start : p.end].strip() for p in found.passages] == [A, B]


def test_a_list_inside_a_passage_does_not_split_it():
    passage = f"{A}\n7. seven\n9. nine\n{B}"
    prompt = f"Passage 1: {passage}\nPassage 2: {C}\n\nQuestion: {Q}"
    assert [prompt[p.start : p.end].strip() for p in recognise(prompt).passages] == [passage, C]


def test_questions_inside_passages_are_not_the_question():
    faq = f"Question: Is it open?\nIt is.\n\n{A}\n\nQuestion: Is it free?\nNo.\n\n{B}"
    prompt = f"Context:\n{faq}\n\nQuestion: {Q}\nAnswer:"
    found = recognise(prompt)
    assert found.question == Q
    assert prompt[found.passages[0].start : found.passages[0].end].strip() == faq


@pytest.mark.parametrize(
    "text",
    [
        f"{A}\n\n{B}\n\n{C}",
        "short\n\nWhat?",
        "",
        "\n\n\n",
        "Question:",
        "Context: x Question:",
        f"{A}\n\nSummarize the text above.",
    ],
)
def test_no_template(text):
    assert recognise(text) is None


HOSTILE = {
    "spaces": " " * 1_000_000,
    "newlines": "\n" * 1_000_000,
    "lines-of-blanks": ("    \t" * 10 + "\n") * 20_000,
    "questions": "Question: " * 100_000,
    "question-lines": "Question:\n" * 100_000,
    "contexts": "Context:\n" * 100_000,
    "brackets": "[1] " * 250_000,
    "bracket-lines": "[1]\n" * 250_000,
    "numbered": "\n".join(f"[{n}] x" for n in range(1, 100_000)),
    "titles": "[1] Title: " * 90_000,
    "paired-parens": "[1] (Title: " + "(a)" * 300_000,
    "many-paired-parens": "[1] (Title: (a) (b) (c\n" * 45_000,
    "title-parens": "Document [1](Title: " * 50_000,
    "document-title-lines": "Document [1](Title: (\n" * 45_000,
    "open-tags": "<document>" * 100_000,
    "half-tags": "<document " * 100_000,
    "question-tags": "<question>" * 100_000,
    "closed-questions": "</question>" * 90_000,
    "dashes": ("-" * 50 + "\n") * 20_000,
    "answers": "Answer: " * 120_000,
    "answer-lines": "Answer:\n\n" * 110_000,
    "instructions": "Use\n\n" * 200_000,
    "stars": "*" * 1_000_000,
    "hashes": ("#*>_ " * 10 + "\n") * 20_000,
    "turns": "<|im_start|>user\n" * 60_000,
    "lt": "<" * 1_000_000,
    "paragraphs": "x\n\n" * 300_000,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("ending", ["", f"\n\nQuestion: {Q}", f"\n\n{Q}"])
def test_hostile_input_takes_linear_time(name, ending):
    text = HOSTILE[name] + ending
    start = time.process_time()
    recognise(text)
    assert time.process_time() - start < 3


PIECES = st.sampled_from(
    [
        "Context: ",
        "Question: ",
        "Answer:",
        "\n",
        "\n\n",
        "[1] ",
        "[2] ",
        "Passage 1: ",
        "<doc>",
        "</doc>",
        "<p>",
    ]
)
PIECES |= st.sampled_from(["1. ", "2. ", "Title: x\nContent: ", "-----\n", "<question>", "</question>"])
PIECES |= st.sampled_from([LOREM, Q, "é漢字", " "])


@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_mixture_gives_ordered_ranges(text):
    found = recognise(text)
    if found is None:
        return
    at = 0
    for passage in found.passages:
        start, end = passage.drop or (passage.start, passage.end)
        assert at <= start <= passage.start <= passage.end <= end <= len(text)
        at = end
    if found.question is not None:
        outside, at = [], 0
        for passage in found.passages:
            start, end = passage.drop or (passage.start, passage.end)
            outside.append(text[at:start])
            at = end
        outside.append(text[at:])
        assert any(found.question in piece for piece in outside)


def test_rule_names_differ():
    assert len({rule.name for rule in PASSAGE_RULES}) == len(PASSAGE_RULES)
