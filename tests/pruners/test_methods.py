"""What each named method does, and that size and shape of a page do not matter."""

import pytest

import tokenprune as tp
from tokenprune.tokens import get_counter

QUERY = "How is a file opened for appending?"


def prune(method, document, budget=None, query=QUERY):
    return tp.Pipeline([method]).prune(query, [document], budget)


def test_none_keeps_everything(samples):
    for document in (tp.Document(samples.prose(1)), tp.Document("One. Two.\x00", kind="chat")):
        assert prune("none", document).documents[0].text == document.text


@pytest.mark.parametrize("limit", [0, 1, 7, 40, 100, 300])
def test_none_cuts_at_the_end(limit, samples):
    """The text cut at the end, as its summary says: the output is a prefix."""
    document = tp.Document(samples.prose(2))
    out = prune("none", document, tp.Budget(limit)).documents[0].text
    assert document.text.startswith(out)


def test_clean_html_keeps_the_beginning(samples, read_html):
    document = tp.Document(samples.page(3))
    out = prune("clean-html", document, tp.Budget(500), query="").documents[0].text
    words = read_html.words(document.text)
    assert read_html.words(out)[:60] == words[:60]


def test_random_keeps_a_quarter_and_depends_on_the_question(samples):
    document = tp.Document(samples.prose(6))
    first, second = prune("random", document), prune("random", document, query="Another question?")
    for result in (first, second):
        assert 0.2 <= result.tokens_after / result.tokens_before <= 0.26
    assert first.documents[0].text != second.documents[0].text


@pytest.mark.parametrize("method", ["htmlrag-bm25", "bm25-sentences"])
@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("How is a file opened for appending?", "'a' opens the file for appending"),
        ("Do equal elements keep their original order?", "guaranteed to be stable"),
        ("How do I empty the cache?", "cache_clear to empty it"),
        ("What must be called before login?", "starttls must be called before login"),
    ],
)
@pytest.mark.parametrize("kind", ["html", "text"])
def test_answer_survives(method, query, answer, kind, samples):
    if (method, kind) == ("htmlrag-bm25", "text"):
        method = "bm25-sentences"
    document = tp.Document(samples.page(1) if kind == "html" else samples.prose(1))
    for budget in (None, tp.Budget(200)):
        result = prune(method, document, budget, query)
        assert answer in result.documents[0].text
        assert result.tokens_after < 0.6 * result.tokens_before


def test_where_nothing_is_found_the_first_words_stay(samples):
    result = prune("bm25-sentences", tp.Document(samples.prose(1)), query="zebra quagga")
    units = result.receipts[0].units
    assert [u.reason for u in units if u.kept] == ["floor"]
    assert {u.reason for u in units if not u.kept} == {"low-score"}
    assert 0 < result.tokens_after < 0.5 * result.tokens_before


@pytest.mark.parametrize("method", ["htmlrag-bm25", "bm25-sentences"])
def test_threshold_is_a_sum_of_bm25(method, samples):
    document = tp.Document(samples.page(1))
    tokens = [
        tp.Pipeline([tp.pruner(method, threshold=t)]).prune(QUERY, [document]).tokens_after
        for t in (0.0, 1.0, 3.0, 1e9)
    ]
    assert tokens[:3] == sorted(tokens[:3], reverse=True)
    assert tokens[0] > tokens[2] > 0
    assert 0 < tokens[3] < tokens[1]  # nothing passes, and the best stays with what is half as good


def test_output_is_readable_html(samples, read_html):
    out = prune("htmlrag-bm25", tp.Document(samples.page(2)), tp.Budget(250)).documents[0].text
    assert "class=" not in out
    assert "<script" not in out
    assert out.count("<ul>") == out.count("</ul>")
    assert [c.name for c in read_html.soup(out).find_all(["h1", "h2"])].count(
        "h1"
    ) == 1  # the heading comes along


# -- size and shape -----------------------------------------------------------------------------------


def section(n):
    return (
        f'<div class="x{n}"><h2>Heading {n}</h2><p>Some words '
        f"about topic number {n} that nobody asked for.</p>"
        "<ul><li>one<li>two</ul></div>"
    )


def big_page(size):
    body = "".join(section(n) for n in range(size // len(section(10_000))))
    half = len(body) // 2
    at = body.index("<div", half)
    return f"<h1>T</h1>{body[:at]}<p>The needle lies exactly here.</p>{body[at:]}"


def check_big(page, check, **fields):
    document = tp.Document(page, **fields)
    result = prune("htmlrag-bm25", document, tp.Budget(500), query="Where does the needle lie?")
    receipt = result.receipts[0]
    text = result.documents[0].text
    assert "The needle lies exactly here." in text
    assert get_counter().count(text) == result.tokens_after <= 500
    ends = receipt.units.end.tolist()
    assert receipt.units.start.tolist() == [0, *ends[:-1]]
    assert ends[-1] == len(page)
    assert int(receipt.units.tokens.sum()) == result.tokens_before
    needle = page.index("The needle")
    assert [u.kept for u in receipt.units if u.start <= needle < u.end] == [True]


def test_page_of_two_megabytes(check):
    check_big(big_page(2_000_000), check)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_page_of_twenty_megabytes(check):
    check_big(big_page(20_000_000), check)


DEEP = {
    "closed": lambda n: "<div>" * n + "needle" + "</div>" * n,
    "unclosed": lambda n: "<div>" * n + "needle",
    "inline": lambda n: "<b>" * n + "needle" + "</b>" * n,
    "kept inline": lambda n: "<code>" * n + "needle" + "</code>" * n,
    "lists": lambda n: "<ul><li>" * (n // 2) + "needle",
    "tables": lambda n: "<table><tr><td>" * (n // 3) + "needle",
    "end tags": lambda n: "needle" + "</div>" * n,
    "hidden": lambda n: "needle" + "<div hidden>" * n + "secret",
}


@pytest.mark.parametrize(
    ("shape", "method"),
    [*((shape, "htmlrag-bm25") for shape in DEEP), ("closed", "clean-html"), ("hidden", "clean-html")],
)
def test_deep_nesting(shape, method):
    page = DEEP[shape](100_000)
    result = prune(method, tp.Document(page, kind="html"), query="needle")
    text = result.documents[0].text
    assert "needle" in text
    assert "secret" not in text
    assert len(text) < len(page)
    units = list(result.receipts[0].units)
    assert (units[0].start, units[-1].end) == (0, len(page))


@pytest.mark.parametrize("opening", ["<div>word{n} ", "<ul><li>word{n}: ", "<span>word{n} ", "<q>word{n} "])
def test_words_at_every_depth(opening, read_html):
    page = "".join(opening.format(n=n) for n in range(10_000)) + "needle"
    document = tp.Document(page, kind="html")
    text = prune("clean-html", document).documents[0].text
    assert read_html.is_subsequence(
        [f"word{n}" for n in range(0, 10_000, 999)],
        text.replace(":", "").replace("<", " <").replace(">", "> ").split(),
    )
    result = prune("htmlrag-bm25", document, tp.Budget(300), query="needle")
    assert get_counter().count(result.documents[0].text) <= 300


# What is repeated: for 100 kB by default, a megabyte with `-m slow`.
PARTS = {
    "no spaces": "a", "less than": "<", "open tags": "<a ", "quotes": '<a b="', "entities": "&amp;", "dashes": "-",
    "line ends": "\n", "lines": "a\n", "dots": ".\n", "full stops": "a. ", "digits": "1. ", "fences": "```\n",
    "table rows": "| a | b |\n", "list items": "- a\n", "headings": "# a\n", "han": "漢", "combining": "\u0301",
    "scripts": "<script></script>", "unclosed scripts": "<script>", "comments": "<!-- ", "surrogates": "\ud800",
    "rows": "<tr><td>a", "paragraphs": "<p>a", "terms": "<dt>a<dd>b", "breaks": "a<br>", "headed": "<h2>a</h2><p>b",
    "zero-width": "a\u200b ", "joiners": "م\u200c", "clashes": "<ul><b><form>a", "templates": "<template>a</template>b",
}  # fmt: skip
MEGABYTE = 1_000_000


@pytest.mark.parametrize("shape", PARTS)
@pytest.mark.parametrize("kind", ["text", "html"])
def test_one_thing_over_and_over(shape, kind):
    size = MEGABYTE if shape in ("no spaces", "less than") else MEGABYTE // 10
    check_flat(PARTS[shape] * (size // len(PARTS[shape])), kind)


@pytest.mark.slow
@pytest.mark.parametrize("shape", PARTS)
@pytest.mark.parametrize("kind", ["text", "html"])
def test_a_megabyte_of_one_thing(shape, kind):
    """Whatever is read again for each line or tag makes one of these take minutes."""
    check_flat(PARTS[shape] * (MEGABYTE // len(PARTS[shape])), kind)


def check_flat(text, kind):
    result = prune("bm25-sentences", tp.Document(text, kind=kind), tp.Budget(400), query="needle")
    assert result.tokens_after <= 400
    assert get_counter().count(result.documents[0].text) == result.tokens_after
    units = result.receipts[0].units
    assert (int(units.start[0]), int(units.end[-1])) == (0, len(text))
    assert int(units.tokens.sum()) == result.tokens_before


@pytest.mark.parametrize(
    ("method", "kept"), [("none", {0, 1, 2, 3}), ("tail", {26, 27, 28, 29}), ("middle-out", {0, 1, 28, 29})]
)
def test_plain_cuts_keep_an_end(method, kept):
    numbers = [f"Sentence number {i} ends." for i in range(10, 40)]
    result = tp.Pipeline([method]).prune("", [tp.Document(" ".join(numbers), kind="text")], tp.Budget(32))
    assert {i for i, s in enumerate(numbers) if s in result.documents[0].text} == kept
    assert tp.Pipeline([method]).prune("", [" ".join(numbers)]).documents[0].text == " ".join(numbers)


PASSAGES = [f"Story {i} is about dogs that bark. They bark all night. Nobody sleeps there." for i in range(8)]


@pytest.mark.parametrize(
    "method", ["bm25-passages", pytest.param("embed-passages", marks=pytest.mark.models)]
)
def test_a_retriever_keeps_whole_passages(method):
    told = "The needle lies under a chair. The chair is red. So much for that."
    documents = [tp.Document(text, kind="text") for text in (*PASSAGES[:5], told, *PASSAGES[5:])]
    room = get_counter().count(told)
    three = room + 2 * get_counter().count(PASSAGES[0])
    for budget in (tp.Budget(room), tp.Budget(three)):
        result = tp.Pipeline([method]).prune("Where does the needle lie?", documents, budget)
        kept = [d.text for d in result.documents]
        assert kept[5] == told and result.tokens_after <= budget.max_tokens
        assert sum(text in (*PASSAGES, told) for text in kept) == (1 if budget.max_tokens == room else 3)
    best = tp.Pipeline([method]).prune("Where does the needle lie?", documents)
    assert sum(bool(d.text) for d in best.documents) == 5 and best.documents[5].text == told
    one = tp.Pipeline([tp.pruner(method, top_k=1)]).prune("Where does the needle lie?", documents)
    assert [d.text for d in one.documents if d.text] == [told]


def test_long_texts_are_cut_into_passages():
    sentences = [f"Sentence number {i} is about dogs that bark at night." for i in range(60)]
    sentences[31] = "The needle lies under the red chair, as everybody in the house knows."
    document = tp.Document(" ".join(sentences), kind="text")
    result = tp.Pipeline([tp.pruner("bm25-passages", max_words=50, top_k=1)]).prune("The needle?", [document])
    kept = result.documents[0].text
    assert sentences[31] in kept and 30 < len(kept.split()) <= 50
    assert document.text.find(kept) == document.text.find(kept.split(".")[0])  # one run of it
