"""Pruned pages keep what tells a reader what is what: header rows with their rows, terms with meanings."""

import pytest

import tokenprune as tp

ROWS = "".join(f"<tr><td>item{i}</td><td>{7 * i} EUR</td></tr>" for i in range(40))
HEAD = "<tr><th>Name</th><th>Price</th></tr>"


def pruned(page, query, budget, **options):
    pipeline = tp.Pipeline([tp.pruner("htmlrag-bm25", **options)])
    document = tp.Document(page, kind="html")
    return pipeline.prune(query, [document], tp.Budget(max_tokens=budget)).documents[0].text


@pytest.mark.parametrize("budget", [45, 80, 120])
@pytest.mark.parametrize(
    "head",
    [
        HEAD,
        f"<thead>{HEAD}</thead>",
        f"<colgroup><col><col></colgroup><thead>{HEAD}</thead>",
        f"<thead><tr><th>All</th></tr>{HEAD}</thead>",
        f"<tbody>{HEAD}</tbody>",
    ],
)
def test_rows_have_their_header(head, budget):
    page = f"<table>{head}<tbody>{ROWS}</tbody></table>"
    shown = pruned(page, "What does item37 cost?", budget)
    assert "<th>Name<th>Price" in shown and "<td>item37<td>259 EUR" in shown
    shown = pruned(page, "What does item37 cost?", budget, output="markdown")
    assert shown.index("| Name | Price |\n") < shown.index("| item37 | 259 EUR |")
