"""What must hold of every method that needs no model, on any input."""

import re
from html import escape

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tokenprune.budget import Budget
from tokenprune.document import Document
from tokenprune.pipeline import Pipeline
from tokenprune.registry import pruner
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.tokens import get_counter

METHODS = [
    "none",
    "random",
    "boilerplate",
    "clean-html",
    "htmlrag-bm25",
    "bm25-sentences",
    "bm25-passages",
    "tail",
    "middle-out",
]
CHAINS = [
    ["clean-html", "htmlrag-bm25"],
    ["boilerplate", "bm25-sentences"],
    ["random", "bm25-sentences"],
    ["clean-html", "bm25-sentences"],
]
TEXT_KINDS = ("text", "triples", "examples", "chat")
QUERY = "Where is the needle of the pruning budget? 日本語"

budgets = st.one_of(
    st.none(),
    st.sampled_from([Budget(max_tokens=0), Budget(max_tokens=1), Budget(keep_ratio=0), Budget(keep_ratio=1)]),
    st.integers(0, 80).map(lambda n: Budget(max_tokens=n)),
    st.floats(0, 1).map(lambda r: Budget(keep_ratio=r)),
    st.just(Budget(max_tokens=10**9)),
)


def draw_documents(data, strategies, kinds, most=3):
    documents = []
    for n in range(data.draw(st.integers(1, most), "documents")):
        kind = data.draw(st.sampled_from(kinds), "kind")
        text = data.draw(strategies.html if kind == "html" else strategies.text, "text")
        documents.append(
            Document(text, kind=kind, id=f"d{n}" if n % 2 else None, title="A title", metadata={"n": n})
        )
    return documents


def limit_of(budget, documents):
    if budget is None:
        return None
    before = sum(get_counter().count(d.text) for d in documents)
    return budget.max_tokens if budget.max_tokens is not None else int(budget.keep_ratio * before + 1e-9)


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_invariants(method, data, strategies, check):
    documents = draw_documents(data, strategies, ("html", *TEXT_KINDS))
    budget = data.draw(budgets, "budget")
    result = Pipeline([method]).prune(QUERY, documents, budget)
    check(result, documents, limit_of(budget, documents))


@pytest.mark.parametrize("chain", CHAINS, ids="+".join)
@given(data=st.data())
def test_invariants_of_two_stages(chain, data, strategies, check):
    documents = draw_documents(data, strategies, ("html", "text"), most=2)
    budget = data.draw(budgets, "budget")
    result = Pipeline(chain).prune(QUERY, documents, budget)
    check(result, documents, limit_of(budget, documents))


@pytest.mark.parametrize("stages", [METHODS[1:2], ["htmlrag-bm25", "bm25-sentences"]], ids="+".join)
@given(data=st.data())
@settings(max_examples=20)
def test_own_selectors(stages, data, strategies, check):
    """threshold, keep_ratio and top_k of the methods themselves, in adaptive mode."""
    options = data.draw(
        st.one_of(
            st.floats(-1, 5).map(lambda v: {"threshold": v}),
            st.floats(0, 1).map(lambda v: {"keep_ratio": v}),
            st.integers(0, 6).map(lambda v: {"top_k": v}),
        )
    )
    documents = draw_documents(data, strategies, ("html", "text"))
    result = Pipeline([pruner(name, **options) for name in stages]).prune(QUERY, documents)
    check(result, documents)


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
@settings(max_examples=15)
def test_deterministic(method, data, strategies):
    documents = draw_documents(data, strategies, ("html", "text"))
    budget = data.draw(budgets, "budget")
    first, second = (Pipeline([method]).prune(QUERY, documents, budget).to_dict() for _ in range(2))
    for result in (first, second):
        del result["seconds"], result["stages"]
    assert first == second


@pytest.mark.parametrize("method", [m for m in METHODS if m != "boilerplate"])  # furniture goes all the same
@given(data=st.data())
@settings(max_examples=15)
def test_of_what_fits_everything_stays(method, data, strategies):
    documents = draw_documents(data, strategies, ("html", "text"))
    before = sum(get_counter().count(d.text) for d in documents)
    extra = data.draw(st.integers(0, 3))
    result = Pipeline([method]).prune(QUERY, documents, Budget(max_tokens=before + extra))
    cleaned = Pipeline(["clean-html"]).prune("", [d for d in documents if d.kind == "html"]).documents
    texts = [d.text for d in documents if d.kind != "html"] + [d.text for d in cleaned]
    if sum(map(get_counter().count, texts)) > before + extra:
        return  # characters escaped and end tags written out can make a tiny page longer than it was
    for document, out, receipt in zip(documents, result.documents, result.receipts, strict=True):
        if document.kind != "html" or pruner(method).as_is:
            assert out.text == document.text
            assert [(u.start, u.end, u.kept, u.reason) for u in receipt.units] == (
                [(0, len(document.text), True, "fits-budget")] if document.text else []
            )
        else:
            assert {u.reason for u in receipt.units if u.kept} <= {"fits-budget"}
            assert not {u.reason for u in receipt.units} & {"kept", "low-score", "over-budget", "low-rank"}


# A word is a stretch without white space; of scripts without spaces every character is one.
SCRIPTS = (
    "\u0e00-\u109f\u1780-\u1b7f\u2e80-\u31ff\u3400-\ua4cf\ua980-\uaa7f\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
UNSPACED = re.compile(f"[{SCRIPTS}]|[^{SCRIPTS}]+")
LONG = 40  # characters, escapes included: what the smallest block may have; a longer word may be cut
INLINE = ("a", "b", "code", "em", "i", "kbd", "span", "strong", "sub", "sup")


def whole_words(words):
    return [part for word in words for part in UNSPACED.findall(word)]


def from_whole_words(out, page, is_long, beginnings=False):
    """Whether all words stand in the page in this order: whole, or as parts of one that is too long.

    With ``beginnings`` a word may also be the beginning of one: what uses a budget up.
    """
    at = inside = 0
    for word in out:
        while at < len(page):
            if not is_long(page[at]):
                found = word == page[at] or (beginnings and page[at].startswith(word))
            else:
                rest = iter(enumerate(page[at][inside:], inside + 1))
                ends = [next((n for n, c in rest if c == w), -1) for w in word]
                found = ends[-1] > 0
            if found:
                at, inside = (at, ends[-1]) if is_long(page[at]) else (at + 1, 0)
                break
            at, inside = at + 1, 0
        else:
            return False
    return True


def cut_by(limit, page, read_html):
    """A function that says whether a word may be cut: one that is long, or more than a block may have.

    Elements in a line that are more than that are cut as well, and the words glued to them with them.
    """
    count = get_counter().count
    inline = [] if limit is None else read_html.soup(page).find_all(INLINE)
    large = [whole_words(read_html.words(str(e))) for e in inline if count(str(e)) > limit]
    edges = {word for words in large if words for word in (words[0], words[-1])}

    def is_long(word):
        if len(word) + 3 * word.count("<") + 4 * word.count("&") > LONG:
            return True
        return limit is not None and (count(escape(word)) > limit or any(edge in word for edge in edges))

    return is_long


@pytest.mark.parametrize("method", ["clean-html", "htmlrag-bm25", "bm25-sentences"])
@given(data=st.data())
def test_well_formed_words_survive_whole(method, data, strategies, read_html):
    """Of well-formed pages whole words stay, and no two are joined across a block's edge.

    Only where a budget of 8 tokens or more would stay unused is the last word of a part cut.
    """
    page = data.draw(strategies.nested_html)
    budget = data.draw(budgets)
    out = Pipeline([method]).prune(QUERY, [Document(page, kind="html")], budget).documents[0].text
    whole = HtmlBlocks(brief=False)
    clean = "".join(whole.segment(Document(page, kind="html"), get_counter()).pieces.text)
    assert read_html.same_words(clean, page)
    # A page that would not get shorter comes back as it is, without the spaces that cleaning adds.
    kept, *known = (whole_words(read_html.words(text)) for text in (out, clean, page))
    limit = limit_of(budget, [Document(page, kind="html")])
    in_part = limit is not None and limit >= 8
    is_long = cut_by(limit, page, read_html)
    assert any(from_whole_words(kept, words, is_long, in_part) for words in known)


@given(data=st.data())
def test_words_of_text_survive_whole(data, strategies, read_html):
    text = data.draw(strategies.text)
    # What is left of a word that mixes scripts stands together, as it does when its middle goes.
    assume(
        not any(
            len({len(part) == 1 and part > "\u0e00" for part in UNSPACED.findall(w)}) > 1
            for w in text.split()
        )
    )
    limit = data.draw(st.integers(0, 40))
    result = Pipeline(["bm25-sentences"]).prune(QUERY, [Document(text, kind="text")], Budget(limit))
    kept, words = (whole_words(t.split()) for t in (result.documents[0].text, text))
    assume(all(get_counter().count(w) < limit for w in words))
    assert from_whole_words(kept, words, lambda w: False, limit >= 8)
