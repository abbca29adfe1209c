"""Pruned pages keep what tells a reader what is what: header rows with their rows, terms with meanings."""

import re

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


def test_rows_have_the_cells_that_reach_into_them():
    years = "".join(
        f"<tr><td rowspan=2>{1990 + i}<td>Alpha{i}<td>{2 * i}</tr><tr><td>Beta{i}<td>{3 * i}</tr>"
        for i in range(25)
    )
    page = f"<table><tr><th>Year<th>Team<th>Goals</tr>{years}</table>"
    for budget in range(45, 120, 5):
        shown = pruned(page, "How many goals did Beta17 score?", budget)
        assert "<th>Year<th>Team<th>Goals" in shown or budget < 60
        assert "<tr><td>2007<td>Alpha17<td>34<tr><td><td>Beta17<td>51" in shown
        for i in map(int, re.findall(r"Beta(\d+)", shown)):
            assert re.search(rf"<td>{1990 + i}<td>Alpha{i}<td>{2 * i}<tr><td><td>Beta{i}\b", shown)


def test_rows_have_the_row_that_names_their_group():
    rows = "".join(
        f"<tr><th colspan=2>Group{g}</tr>"
        + "".join(f"<tr><td>city{g}_{n}<td>{1000 * g + n} people</tr>" for n in range(6))
        for g in range(8)
    )
    page = f"<table><tr><th>City<th>Population</tr>{rows}</table>"
    for budget in range(45, 160, 5):
        shown = pruned(page, "population of city5_2", budget)
        assert "<th>City<th>Population<tr>" in shown and "<td>city5_2<td>5002 people" in shown
        group = ""
        for name, city in re.findall(r"Group(\d)|city(\d)", shown):
            group = name or group
            assert not city or city == group


KINDS = ("apple colour", "zebra stripes", "horse speed")
LONG = " Nothing else is known of it. It was added in the first version, and is there since then."
ENTRIES = [(f"opt{i}", f"Sets {KINDS[i % 3]} for number {i}.") for i in range(30)]


def entries(shown):
    """Each number that a meaning in the output names, with the term before it, and all terms."""
    parts = re.findall(r"opt(\d+)|number (\d+)", shown)
    terms = [term for term, _ in parts if term]
    last = ""
    pairs = []
    for term, number in parts:
        last = term or last
        if number:
            pairs.append((last, number))
    return pairs, terms


@pytest.mark.parametrize("budget", [35, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 90, 150])
@pytest.mark.parametrize("more", ["", LONG], ids=["short", "long"])
@pytest.mark.parametrize("form", ["<dt>{}</dt><dd>{}</dd>", "<div><dt>{}</dt><dd>{}</dd></div>"])
@pytest.mark.parametrize("query", ["Which option sets zebra stripes?", "What is opt17?"])
def test_meanings_have_their_terms(form, more, query, budget):
    page = "<dl>" + "".join(form.format(term, meaning + more) for term, meaning in ENTRIES) + "</dl>"
    shown = pruned(page, query, budget)
    pairs, terms = entries(shown)
    assert pairs and all(term == number for term, number in pairs)
    assert not re.search(r"</dt>\s*(</div>\s*<div>)?\s*<dt>", shown), "a term without its meaning"
    assert len(terms) - len(pairs) <= 1  # the last one may be cut before its number


def test_thresholds_keep_both():
    """Whatever scores: a meaning brings its term, and a term the beginning of its meaning."""
    page = (
        "<dl>"
        + "".join(f"<dt>{term}</dt><dd>{meaning}{LONG * 9}</dd>" for term, meaning in ENTRIES)
        + "</dl>"
    )
    for query in ("zebra stripes", "opt17", "version"):
        pipeline = tp.Pipeline([tp.pruner("htmlrag-bm25", top_k=3, max_words=20)])
        shown = pipeline.prune(query, [tp.Document(page, kind="html")]).documents[0].text
        assert shown and not re.search(r"</dt>\s*<dt>|<dl>\s*<dd>|</dt>\s*</dl>", shown)
        pairs, _ = entries(shown)
        assert all(term == number for term, number in pairs)
