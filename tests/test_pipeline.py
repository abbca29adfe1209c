"""The pipeline: routing by kind, one budget, receipts through several stages, bad input."""

import threading
from collections import Counter
from html import unescape

import pytest

import tokenprune as tp
from tokenprune.errors import BudgetError, ConfigError, DocumentError, QueryError, UnknownNameError
from tokenprune.tokens import get_counter

QUERY = "How is a file opened for appending?"


def strip_times(result):
    loaded = result.to_dict()
    del loaded["seconds"], loaded["stages"]
    return loaded


def test_html_and_text_go_to_their_pruners(samples, check):
    documents = [tp.Document(samples.page(1), id="page"), tp.Document(samples.prose(1), id="prose")]
    pipe = tp.Pipeline(["htmlrag-bm25", tp.pruner("bm25-sentences", kinds=["text"])])
    result = pipe.prune(QUERY, documents)
    check(result, documents)
    for receipt, stage in zip(result.receipts, ["htmlrag-bm25", "bm25-sentences"], strict=True):
        assert {u.stage for u in receipt.units} == {stage}
    assert all("appending" in d.text for d in result.documents)
    assert [d.kind for d in result.documents] == ["html", "text"]
    assert result.tokens_after < result.tokens_before / 2
    assert set(result.stages) == {
        "count", "segment:htmlrag-bm25", "score:htmlrag-bm25",
        "segment:bm25-sentences", "score:bm25-sentences", "select",
        "render",
    }  # fmt: skip


def test_document_that_no_pruner_accepts(samples, check):
    documents = [tp.Document(samples.prose(1), id="prose"), tp.Document(samples.page(1), id="page")]
    pipe = tp.Pipeline(["htmlrag-bm25"])
    result = pipe.prune(QUERY, documents)
    check(result, documents)
    assert result.documents[0].text == documents[0].text
    assert [(u.kept, u.stage, u.reason) for u in result.receipts[0].units] == [
        (True, "none", "no-pruner-for-kind")
    ]
    budget = tp.Budget(max_tokens=300)
    result = pipe.prune(QUERY, documents, budget)
    check(result, documents, 300)
    cut = result.documents[0].text
    assert cut
    assert documents[0].text.startswith(cut), "what no pruner accepts is cut at the end"


def test_strings_become_documents(check):
    result = tp.Pipeline(["bm25-sentences"]).prune(
        "cats", ["Cats sleep. Dogs bark.", "<p>Cats purr.</p><p>Dogs.</p>"]
    )
    assert [(d.id, d.kind) for d in result.documents] == [("doc0", "text"), ("doc1", "html")]
    assert result.documents[0].text == "Cats sleep. "


def test_ids_are_kept_and_must_differ():
    documents = [tp.Document("a b", id="x"), tp.Document("c d"), tp.Document("e f", id="z")]
    result = tp.Pipeline(["none"]).prune("", documents)
    assert [d.id for d in result.documents] == ["x", "doc1", "z"]
    assert list(result.originals) == ["x", "doc1", "z"]
    with pytest.raises(DocumentError, match="two documents have the id 'x'"):
        tp.Pipeline(["none"]).prune("", [tp.Document("a", id="x"), tp.Document("b", id="x")])
    result = tp.Pipeline(["none"]).prune("", [tp.Document("a", id="doc1"), "b"])
    assert len({d.id for d in result.documents}) == 2
    assert [result.restore(d.id) for d in result.documents] == ["a", "b"]


def test_order_stays_even_where_scores_differ(samples):
    texts = ["Nothing here. At all.", "A file is opened for appending with 'a'. Other words.", "No. Yes."]
    result = tp.Pipeline(["bm25-sentences"]).prune(QUERY, texts)
    assert [d.id for d in result.documents] == ["doc0", "doc1", "doc2"]
    assert [bool(d.text) for d in result.documents] == [False, True, False]


def test_no_documents():
    for budget in (None, tp.Budget(max_tokens=0), tp.Budget(keep_ratio=0.5)):
        result = tp.Pipeline(["bm25-sentences"]).prune(QUERY, [], budget)
        assert (result.documents, result.receipts, result.tokens_before) == ([], [], 0)


@pytest.mark.parametrize("method", ["none", "random", "clean-html", "htmlrag-bm25", "bm25-sentences"])
@pytest.mark.parametrize("kind", ["html", "text"])
@pytest.mark.parametrize(
    "text", ["", " \n\t", "\x00", "\ud800", "<script>only</script>", "<!-- c -->", "<", "&", "\ufeff"]
)
@pytest.mark.parametrize("budget", [None, tp.Budget(0), tp.Budget(1)], ids=["adaptive", "0", "1"])
def test_tiny_documents(method, kind, text, budget, check):
    documents = [tp.Document(text, kind=kind), tp.Document("Other words.", kind="text")]
    result = tp.Pipeline([method]).prune(QUERY, documents, budget)
    check(result, documents, budget.max_tokens if budget else None)


def test_whole_document_over_budget_of_zero(samples, check):
    documents = [tp.Document(samples.page(1)), tp.Document(samples.prose(1))]
    result = tp.Pipeline(["bm25-sentences"]).prune(QUERY, documents, tp.Budget(0))
    check(result, documents, 0)
    assert [d.text for d in result.documents] == ["", ""]
    assert {u.kept for r in result.receipts for u in r.units} == {False}
    assert {u.reason for u in result.receipts[1].units} == {"over-budget"}


def test_reasons_and_scores(samples):
    page = samples.page(1)
    receipt = tp.Pipeline(["htmlrag-bm25"]).prune(QUERY, [page]).receipts[0]
    counts = Counter(u.reason for u in receipt.units)
    assert set(counts) == {"kept", "low-score", "script", "style", "comment", "declaration"}
    for u in receipt.units:
        assert u.kept == (u.reason == "kept")
        assert (u.score != u.score) == (u.reason in ("script", "style", "comment", "declaration"))
    best = max((u for u in receipt.units if u.score == u.score), key=lambda u: u.score)
    assert "appending" in page[best.start : best.end]


def test_adaptive_keeps_what_leads():
    page = (
        "<h1>Files</h1><h2>Modes</h2><p>The appending mode writes at the end of a file.</p>"
        "<h2>Clocks</h2><p>Time is measured by a clock that never goes back.</p>"
    )
    method = tp.pruner("htmlrag-bm25", max_words=12, top_k=1)
    out = tp.Pipeline([method]).prune("appending", [tp.Document(page)]).documents[0].text
    assert out == "<h1>Files</h1><h2>Modes</h2><p>The appending mode writes at the end of a file."


def test_one_budget_is_shared_by_score_and_not_equally(samples, check):
    good = "A file is opened for appending with the mode a. Appending a file never erases it. " * 4
    bad = "Cats sleep on the sofa. Dogs bark at the moon at night. " * 4
    documents = [tp.Document(bad, id="bad"), tp.Document(good, id="good")]
    result = tp.Pipeline(["bm25-sentences"]).prune(QUERY, documents, tp.Budget(max_tokens=25))
    check(result, documents, 25)
    assert result.receipts[1].tokens_after > 3 * result.receipts[0].tokens_after


def test_budget_of_the_pipeline_and_of_the_call(samples):
    pipe = tp.Pipeline(["bm25-sentences"], budget=tp.Budget(max_tokens=50))
    assert pipe.prune(QUERY, [samples.prose(1)]).tokens_after <= 50
    assert 50 < pipe.prune(QUERY, [samples.prose(1)], tp.Budget(max_tokens=200)).tokens_after <= 200
    assert pipe.prune(QUERY, [samples.prose(1)], tp.Budget(keep_ratio=1)).tokens_after > 200


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_keep_ratio(ratio, samples, check):
    documents = [tp.Document(samples.page(1)), tp.Document(samples.prose(1))]
    result = tp.Pipeline(["bm25-sentences"]).prune(QUERY, documents, tp.Budget(keep_ratio=ratio))
    check(result, documents, int(ratio * result.tokens_before + 1e-9))
    assert (
        result.tokens_after >= 0.85 * ratio * result.tokens_before or ratio > 0.8
    )  # markup alone is some 15 %


def test_steps_hold_the_time_of_all_stages(samples):
    from tokenprune.receipt import STEPS, steps_of

    results = [
        tp.Pipeline(["boilerplate", "bm25-sentences"]).prune("Where is the cache?", [document], budget)
        for document in (tp.Document(samples.page(3)), tp.Document("kg", kind="triples"))
        for budget in (None, tp.Budget(100))
    ]
    for result in results:
        steps = steps_of([result])
        assert tuple(steps) == STEPS
        assert sum(steps.values()) == pytest.approx(sum(result.stages.values()))
        assert sum(steps.values()) <= result.seconds
    assert all(seconds > 0 for seconds in steps_of(results[:1]).values())
    assert steps_of(results)["score"] == pytest.approx(sum(steps_of([r])["score"] for r in results))


# -- several stages -----------------------------------------------------------------------------------


def kept_source(result, n=0):
    text = result.restore(result.documents[n].id)
    return [text[u.start : u.end] for u in result.receipts[n].units if u.kept]


def test_two_stages_of_text(samples, check):
    document = tp.Document(samples.prose(2))
    result = tp.Pipeline([tp.pruner("random", keep_ratio=0.6), "bm25-sentences"]).prune(
        QUERY, [document], tp.Budget(120)
    )
    check(result, [document], 120)
    stages = Counter((u.stage, u.kept) for u in result.receipts[0].units)
    assert set(stages) == {("random", False), ("bm25-sentences", False), ("bm25-sentences", True)}
    assert result.documents[0].text == "".join(kept_source(result))


@pytest.mark.parametrize("budget", [None, tp.Budget(150), tp.Budget(400)], ids=["adaptive", "150", "400"])
@pytest.mark.parametrize("second", ["htmlrag-bm25", "bm25-sentences"])
def test_two_stages_of_html(budget, second, samples, check, read_html):
    document = tp.Document(samples.page(2))
    result = tp.Pipeline(["clean-html", second]).prune(QUERY, [document], budget)
    check(result, [document], budget.max_tokens if budget else None)
    reasons = {(u.stage, u.reason) for u in result.receipts[0].units}
    assert {("clean-html", "script"), ("clean-html", "comment"), (second, "kept")} <= reasons
    words = read_html.words(result.documents[0].text)
    assert words
    assert read_html.is_subsequence(words, read_html.words(" ".join(kept_source(result))))
    dropped = [u for u in result.receipts[0].units if not u.kept]
    assert sum(u.tokens for u in dropped) > 0.4 * result.tokens_before


@pytest.mark.parametrize(
    "indent",
    [" ", "\n" + " " * 16, " <!-- c --> ", " <b></b>\n "],
    ids=["space", "indent", "comment", "tags"],
)
@pytest.mark.parametrize("entity", ["&amp;", "&nbsp;", "and"])
def test_second_stage_finds_its_place_inside_a_paragraph(indent, entity, check, read_html):
    """A paragraph of 100 words is one block of clean-html, and cut in two by htmlrag-bm25."""
    words = [f"w{n}" for n in range(46)]
    filler = indent.join([f"x {entity} y", *words]) + ". "
    answer = indent.join(["Needle", f"a {entity} b", *(f"n{n}" for n in range(40)), "end"]) + "."
    page = f"<p>{filler}{answer}</p><p>Other.</p>"
    document = tp.Document(page, kind="html")
    pipe = tp.Pipeline(["clean-html", tp.pruner("htmlrag-bm25", max_words=50, top_k=1)])
    result = pipe.prune("needle", [document])
    check(result, [document])
    assert "Needle" in result.documents[0].text
    assert "w40" not in result.documents[0].text
    source = unescape("".join(kept_source(result)))
    assert "Needle" in source
    assert "w40" not in source, "the range of the kept half begins before it"


def test_three_stages(samples, check):
    document = tp.Document(samples.page(3))
    pipe = tp.Pipeline(["clean-html", tp.pruner("random", keep_ratio=0.7), "htmlrag-bm25"])
    for budget in (None, tp.Budget(200)):
        result = pipe.prune(QUERY, [document], budget)
        check(result, [document], 200 if budget else None)
        assert {"clean-html", "random", "htmlrag-bm25"} == {u.stage for u in result.receipts[0].units}


def test_first_stage_that_drops_everything(samples, check):
    document = tp.Document(samples.prose(1))
    pipe = tp.Pipeline([tp.pruner("random", keep_ratio=0.0), "bm25-sentences"])
    result = pipe.prune(QUERY, [document])
    check(result, [document])
    assert result.documents[0].text == ""
    assert {(u.stage, u.kept) for u in result.receipts[0].units} == {("random", False)}


def test_text_output_of_a_first_stage_is_not_read_as_html(check):
    """What is text after the first stage stays text: its "<b>" was written as &lt;b&gt;."""
    page = (
        "<p>Needle &lt;script&gt; opens a script element.</p><p>The needle ends it with &lt;/script&gt;.</p>"
    )
    document = tp.Document(page, kind="html")
    pipe = tp.Pipeline([tp.pruner("clean-html", output="text"), tp.pruner("bm25-sentences", keep_ratio=1.0)])
    result = pipe.prune("needle", [document])
    assert "<script> opens a script element." in result.documents[0].text
    assert "ends it with </script>." in result.documents[0].text


@pytest.mark.parametrize("first", ["clean-html", "htmlrag-bm25"])
def test_markdown_of_a_first_stage_is_text_for_the_second(first, samples, check):
    """Receipts lead through the Markdown to the page."""
    document = tp.Document(samples.page(2))
    stages = [tp.pruner(first, output="markdown"), "bm25-sentences"]
    result = tp.Pipeline(stages).prune("How is a file opened for appending?", [document], tp.Budget(150))
    text = result.documents[0].text
    assert "opens the file for appending." in text
    assert "<" not in text
    assert get_counter().count(text) == result.tokens_after <= 150
    (receipt,) = result.receipts
    edges = [(u.start, u.end) for u in receipt.units]
    assert [a for a, _ in edges[1:]] == [b for _, b in edges[:-1]]
    kept = [document.text[u.start : u.end] for u in receipt.units if u.kept]
    assert any("opens the file for appending." in part for part in kept)
    assert not any("starttls" in part for part in kept)


@pytest.mark.parametrize("method", ["clean-html", "htmlrag-bm25", "bm25-sentences"])
def test_text_output(method, samples):
    document = tp.Document(samples.page(1))
    result = tp.Pipeline([tp.pruner(method, output="text")]).prune(QUERY, [document], tp.Budget(200))
    text = result.documents[0].text
    assert "<" not in text
    assert 150 <= get_counter().count(text) == result.tokens_after <= 200
    with pytest.raises(ConfigError, match="unknown output 'pdf'; known outputs: same, html, text"):
        tp.pruner(method, output="pdf")


@pytest.mark.models
@pytest.mark.parametrize("method", ["embed-sentences", "htmlrag-embed", "hybrid"])
def test_text_output_with_models(method, samples, check):
    document = tp.Document(samples.page(1))
    result = tp.Pipeline([tp.pruner(method, output="text")]).prune(QUERY, [document], tp.Budget(200))
    assert "<" not in result.documents[0].text
    assert result.tokens_after <= 200


# -- documents that fit -------------------------------------------------------------------------------

HIDDEN = '<h1>Top</h1><p>Cats sleep.</p><div style="display:none">SECRETINJ</div><script>var a=1</script>'
SHOWN = {
    "same": "<h1>Top</h1><p>Cats sleep.",
    "html": "<h1>Top</h1><p>Cats sleep.</p>",  # clean-html always writes all tags
    "markdown": "# Top\n\nCats sleep.",
    "text": "Top\nCats sleep.",
}
HTML_METHODS = ["clean-html", "boilerplate", "random", "htmlrag-bm25", "bm25-sentences"]
WITH_MODELS = ["embed-sentences", "htmlrag", "htmlrag-embed", "hybrid", "provence"]


def no_model(*_, **__):
    raise AssertionError("a model was asked for")


@pytest.mark.parametrize("output", SHOWN)
@pytest.mark.parametrize("method", [*HTML_METHODS, *WITH_MODELS])
@pytest.mark.parametrize("budget", [tp.Budget(60), tp.Budget(10**6), tp.Budget(keep_ratio=1)], ids=str)
def test_html_that_fits_is_cleaned(method, output, budget, check, monkeypatch):
    """Nothing is scored, so no question is needed and no model is read."""
    monkeypatch.setattr("tokenprune.pipeline.score_rank_and_note", no_model)
    document = tp.Document(HIDDEN, kind="html")
    pipe = tp.Pipeline([tp.pruner(method, output=output)])
    result = pipe.prune("", [document], budget)
    check(result, [document], budget.limit(result.tokens_before))
    (out,) = result.documents
    assert out.text.strip() == SHOWN["html" if (method, output) == ("clean-html", "same") else output]
    assert out.kind == ("html" if output in ("same", "html") else "text")
    units = [(u.kept, u.stage, u.reason) for u in result.receipts[0].units]
    assert (False, method, "hidden:display-none") in units
    assert (False, method, "script") in units
    assert {u for u in units if u[0]} == {(True, method, "fits-budget")}
    assert result.restore(out.id) == HIDDEN


def test_text_that_fits_stays_byte_for_byte():
    text = "Cats\u200b sleep. \n\n <div hidden>no page</div>  Dogs bark."
    for method in [*HTML_METHODS, *WITH_MODELS]:
        pruner = tp.pruner(method)
        if "text" in pruner.kinds:
            result = tp.Pipeline([pruner]).prune("", [tp.Document(text, kind="text")], tp.Budget(100))
            assert result.documents[0].text == text
            assert [u.reason for u in result.receipts[0].units] == ["fits-budget"]


def test_none_leaves_a_page_that_fits(check):
    document = tp.Document(HIDDEN, kind="html")
    result = tp.Pipeline(["none"]).prune("", [document], tp.Budget(60))
    assert result.documents[0].text == HIDDEN
    # A page that no pruner accepts, as well.
    pipe = tp.Pipeline([tp.pruner("bm25-sentences", kinds=["text"])])
    assert pipe.prune("", [document], tp.Budget(60)).documents[0].text == HIDDEN


def test_cleaned_form_larger_than_the_budget_is_pruned(check):
    """All end tags written out, the page exceeds a budget that it fits as it is."""
    page = "<!-- c --><div>" + "".join(f"<p>cat {n}" for n in range(40)) + "</div>"
    document = tp.Document(page, kind="html")
    limit = get_counter().count(page)
    pipe = tp.Pipeline([tp.pruner("bm25-sentences", output="html")])
    result = pipe.prune("cat", [document], tp.Budget(limit))
    check(result, [document], limit)
    assert {u.reason for u in result.receipts[0].units} == {"comment", "kept", "over-budget"}
    assert "</p>" in result.documents[0].text
    with pytest.raises(QueryError):
        pipe.prune("", [document], tp.Budget(limit))


@pytest.mark.parametrize("budget", [None, tp.Budget(200)], ids=str)
def test_hidden_text_does_not_come_back_where_the_output_is_longer(budget):
    """A page that grows by its end tags or its table's rules is still cleaned and in the form asked for."""
    page = "<p>a<p>b<p>c<p>d<p>e<p hidden>X</p><table><tr><td>1<td>2<tr><td>3<td>4</table>"
    for output in ("html", "markdown"):
        result = tp.Pipeline([tp.pruner("clean-html", output=output)]).prune("", [page], budget)
        text = result.documents[0].text
        assert output == "markdown" or result.tokens_after > result.tokens_before
        assert "X" not in text
        assert ("</p>" in text) == (output == "html")
        assert ("|---|" in text) == (output == "markdown")


def test_stages_are_chosen_by_what_a_text_is_now(check):
    """Behind Markdown, methods for texts come, and those for HTML do not; their kinds say so."""
    page = "<h1>Cats</h1>" + "".join(
        f"<p>Cats sleep in bed {n}.</p><p>Dogs bark at {n}.</p>" for n in range(30)
    )
    document = tp.Document(page + "<div hidden>SECRET cats</div>", kind="html")
    markdown = tp.pruner("clean-html", output="markdown")
    text_only = tp.pruner("bm25-sentences", kinds=["text"])
    for budget in (None, tp.Budget(40)):
        result = tp.Pipeline([markdown, text_only]).prune("sleep", [document], budget)
        check(result, [document], budget and budget.max_tokens)
        assert result.documents[0].kind == "text"
        assert "Dogs" not in result.documents[0].text
        stages = {(u.stage, u.kept) for u in result.receipts[0].units}
        assert stages == {("clean-html", False), ("bm25-sentences", False), ("bm25-sentences", True)}
        for u in result.receipts[0].units:
            if u.kept:
                assert "Dogs bark at" not in document.text[u.start : u.end]
        # A method for HTML behind it has nothing to do: no question is needed.
        result = tp.Pipeline([markdown, "htmlrag-bm25"]).prune("", [document], budget)
        check(result, [document], budget and budget.max_tokens)
        assert result.documents[0].text.startswith("# Cats\n\nCats sleep in bed 0.")
        assert "SECRET" not in result.documents[0].text
        assert {u.stage for u in result.receipts[0].units} == {"clean-html"}
    whole = tp.Pipeline([markdown, text_only]).prune("", [document], tp.Budget(10**6))
    assert whole.documents[0].text.startswith("# Cats\n\n")
    assert "SECRET" not in whole.documents[0].text


# -- queries and errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", " \n\t"])
def test_empty_query(query, samples):
    documents = [tp.Document(samples.prose(1))]
    with pytest.raises(
        QueryError,
        match=r"query is empty.*'bm25-sentences'.*boilerplate, clean-html, middle-out, none, random, tail",
    ):
        tp.Pipeline(["bm25-sentences"]).prune(query, documents)
    for method in ("none", "random", "clean-html"):
        assert tp.Pipeline([method]).prune(query, documents, tp.Budget(50)).tokens_after <= 50
    # Nothing to decide: no question is needed.
    assert tp.Pipeline(["bm25-sentences"]).prune(query, documents, tp.Budget(10**6)).documents == [
        tp.Document(documents[0].text, id="doc0")
    ]
    assert tp.Pipeline(["htmlrag-bm25"]).prune(query, documents).tokens_after == get_counter().count(
        documents[0].text
    )
    assert tp.Pipeline(["bm25-sentences"]).prune(query, ["", " \n"]).tokens_after >= 0


def test_uses_query():
    assert tp.Pipeline(["clean-html", "bm25-sentences"]).uses_query
    assert not tp.Pipeline(["clean-html", "none", "random"]).uses_query


@pytest.mark.parametrize("query", ["\x00", "\ud800", "日本語", "?" * 10_000, "<script>"])
def test_odd_queries(query, samples, check):
    document = tp.Document(samples.prose(1))
    result = tp.Pipeline(["bm25-sentences"]).prune(query, [document], tp.Budget(100))
    check(result, [document], 100)


def test_a_pipeline_needs_pruners():
    with pytest.raises(ConfigError, match="at least one pruner"):
        tp.Pipeline([])
    with pytest.raises(UnknownNameError, match=r"unknown method 'nonesuch'; known names: .*bm25-sentences"):
        tp.Pipeline(["nonesuch"])
    with pytest.raises(UnknownNameError, match="unknown tokenizer"):
        tp.Pipeline(["none"], tokenizer="nonesuch").prune("", ["a"])
    with pytest.raises(BudgetError):
        tp.Pipeline(["none"]).prune("", ["a"], tp.Budget(max_tokens=-1))


def test_an_error_of_a_scorer_is_not_swallowed():
    class Broken:
        def score(self, query, documents):
            raise RuntimeError("scorer broke")

    method = tp.pruner("bm25-sentences")
    broken = tp.Pruner(method.segmenter, Broken(), method.selector)
    with pytest.raises(RuntimeError, match="scorer broke"):
        tp.Pipeline([broken]).prune("q", ["One. Two."])


def test_composed_pruner(check):
    class Length:
        def score(self, query, documents):
            import numpy as np

            return [np.array([float(len(t)) for t in u.texts]) for u in documents]

    method = tp.pruner("bm25-sentences", top_k=1)
    mine = tp.Pruner(method.segmenter, Length(), method.selector, name="longest")
    document = tp.Document("Short. The longest sentence of all. Short too.", kind="text")
    result = (
        tp.Pipeline([mine]).prune("", [document])
        if not mine.uses_query
        else tp.Pipeline([mine]).prune("q", [document])
    )
    check(result, [document])
    assert result.documents[0].text == "The longest sentence of all. "
    assert {u.stage for u in result.receipts[0].units} == {"longest"}


def test_same_from_many_threads(samples):
    documents = [tp.Document(samples.page(1)), tp.Document(samples.prose(1))]
    pipe = tp.Pipeline(["htmlrag-bm25", "bm25-sentences"])
    want = strip_times(pipe.prune(QUERY, documents, tp.Budget(200)))
    got = []

    def run():
        got.append(strip_times(pipe.prune(QUERY, documents, tp.Budget(200))))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [want] * 6


def test_from_config(tmp_path, samples):
    path = tmp_path / "tokenprune.yaml"
    path.write_text("pruners: [bm25-sentences]\nbudget: {max_tokens: 40}\n")
    assert tp.Pipeline.from_config(path).prune(QUERY, [samples.prose(1)]).tokens_after <= 40


LONG_UNIT = "Dogs and cats " + "and dogs and cats " * 40 + "bark. "
ANSWER = "A needle is lost in the dry hay near the old barn of the small farm."


@pytest.mark.parametrize("kind", ["text", "html"])
@pytest.mark.parametrize("limit", [26, 30, 40])
def test_a_long_unit_elsewhere_does_not_cut_the_answer(kind, limit, check):
    """A unit larger than the budget is cut finer, but sentences that fit stay whole: the answer above all."""
    parts = [LONG_UNIT, ANSWER, " Birds sing in the trees."]
    text = "".join(parts) if kind == "text" else "".join(f"<p>{p.strip()}</p>" for p in parts)
    document = tp.Document(text, kind=kind)
    assert get_counter().count(LONG_UNIT) > limit > get_counter().count(f"<p>{ANSWER}</p>")
    result = tp.Pipeline(["bm25-sentences"]).prune("Where is the needle?", [document], tp.Budget(limit))
    check(result, [document], limit)
    assert ANSWER in result.documents[0].text


def test_a_unit_larger_than_the_budget_is_cut(check):
    document = tp.Document(LONG_UNIT.replace("bark", "bark at a needle"), kind="text")
    result = tp.Pipeline(["bm25-sentences"]).prune("Where is the needle?", [document], tp.Budget(30))
    check(result, [document], 30)
    assert "needle" in result.documents[0].text


@pytest.mark.parametrize("documents", ["One text.", tp.Document("One.")])
def test_documents_must_be_a_list(documents):
    with pytest.raises(DocumentError, match="must be a list"):
        tp.Pipeline(["none"]).prune("", documents)


def test_documents_may_come_one_by_one():
    texts = ["First text.", "Second text."]
    result = tp.Pipeline(["none"]).prune("", (text for text in texts))
    assert [document.text for document in result.documents] == texts


@pytest.mark.parametrize("documents", [{"a": "One text."}, b"One text."])
def test_keys_and_bytes_are_no_documents(documents):
    with pytest.raises(DocumentError, match=f"list of documents, not {type(documents).__name__}"):
        tp.Pipeline(["none"]).prune("", documents)


def test_wrong_types_are_named():
    pipe = tp.Pipeline("none")
    with pytest.raises(DocumentError, match="must be a list of documents, not NoneType"):
        pipe.prune("", None)
    with pytest.raises(DocumentError, match="must be Document or str, not int"):
        pipe.prune("", [3])
    with pytest.raises(QueryError, match="query must be str, not NoneType"):
        pipe.prune(None, ["a"])
    with pytest.raises(BudgetError, match="must be a Budget, not int"):
        pipe.prune("", ["a"], 512)
    with pytest.raises(ConfigError, match="made of pruners or their names, not int"):
        tp.Pipeline([3])


@pytest.mark.parametrize("method", ["bm25-sentences", "random"])
def test_paragraphs_stay_apart(method, samples):
    """Whatever sentences go: what stood in different paragraphs does not stand in one line."""
    text = "\n\n".join(f"Alpha{n} one here. Beta{n} two here. Gamma{n} three here." for n in range(12))
    out = (
        tp.Pipeline([tp.pruner(method, keep_ratio=0.4)])
        .prune("Beta3 Alpha7 Gamma9", [text])
        .documents[0]
        .text
    )
    for line in out.split("\n"):
        numbers = {w[-2:].lstrip("abcdefghijklmnopqrstuvwxyz") for w in line.split() if w[:1] in "ABG"}
        assert len(numbers) <= 1, line


@pytest.mark.parametrize("limit", [None, 14, 40])
def test_a_stage_that_knows_nothing_hands_everything_on(limit):
    documents = [
        "The lamp was lit in 1871. It burned oil for years. A keeper lived there with two dogs.",
        "None of this matters at all. Boats pass by every day.",
    ]
    result = tp.Pipeline(["bm25-sentences", "tail"]).prune(
        "Zxqv wobble?", documents, tp.Budget(max_tokens=limit)
    )
    assert 0 < result.tokens_after <= (limit or result.tokens_before)
    alone = tp.Pipeline("tail").prune("", documents, tp.Budget(max_tokens=limit or result.tokens_before))
    assert [d.text for d in result.documents] == [d.text for d in alone.documents]


@pytest.mark.parametrize("limit", [None, 12, 25, 40])
def test_a_page_of_navigation_alone_keeps_its_best_under_any_budget(limit):
    page = tp.Document('<nav><a href="a">Home</a> <a href="b">About</a></nav>', kind="html")
    result = tp.Pipeline("boilerplate").prune("", [page], tp.Budget(max_tokens=limit))
    assert "Home" in result.documents[0].text
    assert {u.reason for u in result.receipts[0].units if u.kept} == {"floor"}


def test_a_kind_that_no_method_takes_is_said_under_a_budget():
    page = "<p>Ships pass by.</p><p>The lamp was lit in 1871.</p>"
    pipe = tp.Pipeline([tp.pruner("bm25-sentences", kinds=["text"])])
    result = pipe.prune("When was the lamp lit?", [page, "It was lit in 1871. No."], tp.Budget(max_tokens=12))
    (note,) = result.receipts[0].notes
    assert "no method here prunes html: its beginning stays" in note and "htmlrag" in note
    assert result.receipts[1].notes == ()
    whole = pipe.prune("When was the lamp lit?", [page], tp.Budget(max_tokens=500))
    assert whole.documents[0].text == page and whole.receipts[0].notes == ()
