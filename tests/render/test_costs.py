"""Costs in the tokens of the output, and budgets in them."""

import numpy as np
import pytest

from tokenprune.budget import Budget
from tokenprune.document import Document
from tokenprune.pipeline import Pipeline
from tokenprune.registry import pruner
from tokenprune.render import OUTPUTS, renderer
from tokenprune.render.costs import priced
from tokenprune.score.bm25 import BM25
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.sentences import Sentences
from tokenprune.select.budget import fill
from tokenprune.tokens import get_counter

QUERY = "Which mode opens a file, and what is row 17?"
TABLE = "<table><tr><th>Row<th>Value<th>Mode</tr>" + "".join(
    f"<tr><td>row {n}</td><td>{n * n % 97}</td><td>mode {n % 7}</td></tr>" for n in range(150)
)


@pytest.fixture(params=["documentation", "table", "both"])
def page(request, samples):
    return {
        "documentation": samples.page(4),
        "table": f"<h1>Rows</h1>{TABLE}</table>",
        "both": samples.page(
            2, extra=f"{TABLE}</table><ol>" + "<li>a step of the way<li>another" * 40 + "</ol>"
        ),
    }[request.param]


@pytest.mark.parametrize("output", OUTPUTS)
def test_costs_add_up_to_the_output(output, page):
    counter, form = get_counter(), renderer(output)
    units = HtmlBlocks(32).segment(Document(page), counter)
    whole = priced(units, form, counter)
    text = form.render(units, np.ones(len(units), dtype=bool)).text
    assert whole.cost.sum() + whole.wrapper_cost.sum() == counter.count(text)
    assert (whole.cost >= 0).all()
    assert whole.pieces is units.pieces


def test_text_keeps_its_costs():
    units = Sentences().segment(Document("One. Two. Three.", kind="text"), get_counter())
    assert priced(units, renderer("markdown"), get_counter()) is units
    empty = HtmlBlocks().segment(Document("", kind="html"), get_counter())
    assert priced(empty, renderer("markdown"), get_counter()) is empty


@pytest.mark.parametrize("limit", [150, 400, 800])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_budget_in_output_tokens_is_used(output, limit, page):
    counter, form = get_counter(), renderer(output)
    units = priced(HtmlBlocks(16).segment(Document(page), counter), form, counter)
    assert counter.count(form.render(units, np.ones(len(units), dtype=bool)).text) > 1.2 * limit
    scores = BM25().score(QUERY, [units])

    def tokens(_, mask):
        return counter.count(form.render(units, mask).text)

    (keep,) = fill([units], scores, limit, tokens)
    assert 0.9 * limit <= tokens(0, keep) <= limit


@pytest.mark.parametrize("limit", [0, 1, 20, 150, 400, 800])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("method", ["htmlrag-bm25", "bm25-sentences", "clean-html", "none", "random"])
def test_a_budget_is_never_exceeded(method, output, limit, page):
    result = Pipeline([pruner(method, output=output)]).prune(
        QUERY, [Document(page)], Budget(max_tokens=limit)
    )
    (document,) = result.documents
    assert get_counter().count(document.text) == result.tokens_after <= limit
    if (
        limit >= 400 and method != "clean-html"
    ):  # its blocks are large, and it stops at the first that is too large
        assert result.tokens_after >= 0.9 * limit
