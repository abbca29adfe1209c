"""Trade-off of methods and budgets: rows by hand, the front, the rule, and the report."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.bench.case import Case
from tokenprune.bench.source import question_turn
from tokenprune.bench.tradeoff import FULL, NEAR, Item, Row, conclude, measure, parse_budget
from tokenprune.bench.tradeoff_report import cells, page, used_columns, write
from tokenprune.budget import Budget
from tokenprune.document import Document
from tokenprune.errors import ConfigError
from tokenprune.models.labeler import Labeler
from tokenprune.pipeline import Pipeline
from tokenprune.quality import answer_nll

FACT = "The needle lies under the red chair."
HAY = "Dogs bark at the moon all night long. "


def item(n, text, evidence=(FACT,), kind="text"):
    case = Case(str(n), ({"role": "user", "content": text},), "Where is the needle?", ("chair",), evidence)
    return Item(case, (Document(text, kind=kind),))


def row(method, tokens, evidence, nll=None, seconds=0.0):
    return Row(method, "0.5", 3, 0.5, tokens, evidence, (0.0, 1.0), seconds, nll)


def test_rows_are_what_methods_leave():
    items = [item(0, HAY * 20 + FACT), item(1, FACT + " " + HAY * 20)]
    methods = {name: Pipeline([name]) for name in ("none", "tail", "bm25-sentences")}
    told = []

    class Reporter:
        def stage(self, label, total):
            told.append(total)

        def advance(self, amount):
            told.append(-amount)

        def update(self, done, total=None):
            raise AssertionError

    budgets = [parse_budget("0.2"), parse_budget("24"), parse_budget("adaptive")]
    result = measure(items, methods, budgets, predict=lambda n: n / 10, reporter=Reporter())
    rows = {(r.method, r.budget): r for r in result.rows}
    assert next(iter(rows)) == (FULL, "-") and len(rows) == 1 + 3 * 3
    assert told[0] == 2 * 10 == -sum(told[1:])
    full = rows[FULL, "-"]
    assert (full.kept, full.evidence, full.seconds) == (1, 1, 0)
    assert full.prefill_seconds == pytest.approx(full.tokens / 10)
    assert rows["none", "0.2"].evidence == rows["tail", "0.2"].evidence == 0.5  # one needle at each end
    assert rows["none", "0.2"].evidence_interval is None  # two cases say nothing of how sure that is
    best = rows["bm25-sentences", "24"]
    assert best.evidence == 1 and best.tokens <= 24
    assert rows["none", "adaptive"].kept == 1
    assert {r.seconds for r in result.rows if r.method == "tail"} == {rows["tail", "0.2"].seconds}
    assert rows["tail", "0.2"].seconds > 0
    assert (
        result.recommended
        == min(
            (r for r in result.rows if r.method == "bm25-sentences" and r.evidence == 1),
            key=lambda r: r.tokens,
        ).label
    )
    assert not full.pareto


@pytest.mark.models
def test_methods_do_not_profit_from_what_others_read():
    items = [item(n, f"{HAY * 30} {n} {FACT}") for n in range(3)]
    methods = {name: Pipeline(["provence"]) for name in ("first", "second")}
    read = []
    label = Labeler.label

    def counted(self, query, passages):
        read.append(len(passages))
        return label(self, query, passages)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Labeler, "label", counted)
        measure(items, methods, [parse_budget("0.2"), parse_budget("0.5")])
    half = len(read) // 2
    assert read[:half] == read[half:] and half >= len(items)


def test_evidence_of_pages_is_what_a_reader_sees():
    page = f"<div><p>{HAY}</p><p>The <b>needle</b> lies\n under the <i>red</i> chair.</p></div>"
    result = measure([item(0, page, kind="html")], {"none": Pipeline(["none"])}, [parse_budget("0.1")])
    assert [r.evidence for r in result.rows] == [1, 0]


def test_cases_without_documents_or_evidence():
    empty = Item(Case("x", (), "Q?"), ())
    with pytest.raises(ConfigError, match="no case has a document"):
        measure([empty], {}, [])
    result = measure(
        [empty, item(0, HAY * 9, evidence=())], {"none": Pipeline(["none"])}, [parse_budget("9")]
    )
    assert [r.cases for r in result.rows] == [1, 1]
    assert result.recommended is None and "nothing to choose by" in result.rule
    assert not any(r.pareto for r in result.rows)


@pytest.mark.models
def test_likelihood_of_the_answer():
    from tokenprune.models.causal_lm import load_causal_lm

    lm = load_causal_lm("smollm2-135m")
    items = [item(0, HAY * 12 + FACT + HAY * 3, evidence=()), item(1, HAY * 1000, evidence=())]
    methods = {"tail": Pipeline(["tail"]), "bm25-sentences": Pipeline(["bm25-sentences"])}
    result = measure(items, methods, [parse_budget("9"), parse_budget("0")], lm)
    by = {r.label: r.nll for r in result.rows}
    # The second case is too long for the model in full, so that it counts nowhere.
    assert by["bm25-sentences @ 9"] < by["tail @ 9"]
    assert by["tail @ 0"] == by["bm25-sentences @ 0"]  # nothing is left of either
    asked = question_turn(items[0].documents, "Where is the needle?").message()
    assert by["full"] == answer_nll(lm, [asked], "chair")
    assert "NLL within" in result.rule


def test_the_front_and_the_rule_by_hand():
    rows = [
        row("full", 1000, 0.9),
        row("a", 500, 0.89),
        row("b", 500, 0.8),
        row("c", 100, 0.5),
        row("d", 600, 0.95, seconds=2),
        row("e", 600, 0.95, seconds=1),
        row("f", 100, None),
    ]
    result = conclude(rows)
    assert [r.method for r in result.rows if r.pareto] == ["a", "c", "d", "e"]
    assert result.recommended == "e @ 0.5"  # as far as the best, and faster than its equal
    assert "evidence within 2%" in result.rule
    assert conclude([row("full", 1000, 0.5), row("x", 10, 0.5 - NEAR / 2)]).recommended == "x @ 0.5"
    assert conclude([row("full", 1000, 0.5), row("x", 10, 0.5 - NEAR * 2)]).recommended == "full"
    nearly = conclude([row("random", 98, 0.0), row("bm25", 99, 1.0), row("full", 500, 1.0)])
    assert [r.method for r in nearly.rows if r.pareto] == ["bm25"], "a budget filled to a token less"
    by_nll = conclude([row("full", 1000, None, 3.0), row("x", 10, None, 2.9), row("y", 10, None, 3.5)])
    assert by_nll.recommended == "x @ 0.5" and [r.pareto for r in by_nll.rows] == [False, True, False]


_point = st.tuples(st.integers(0, 5), st.integers(0, 5) | st.none())


@given(st.lists(_point, min_size=1, max_size=8))
def test_nothing_beats_the_front(points):
    result = conclude([row(f"m{n}", t, e) for n, (t, e) in enumerate(points)])
    known = [(t, e) for t, e in points if e is not None]
    for (tokens, good), found in zip(points, result.rows, strict=True):
        beaten = good is not None and any(
            t <= tokens and e >= good and (t, e) != (tokens, good) for t, e in known
        )
        assert found.pareto == (good is not None and not beaten)
    assert (result.recommended is None) == (not known)


@pytest.mark.parametrize(("text", "budget"), [("0.25", Budget(keep_ratio=0.25)), (" 512 ", Budget(512)),
                                              ("1.0", Budget(keep_ratio=1)), ("adaptive", Budget())])  # fmt: skip
def test_budgets(text, budget):
    assert parse_budget(text) == (text.strip(), budget)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "nan.", "50%", "1e3"])
def test_no_budgets(text):
    with pytest.raises(ConfigError, match=r"is no budget: give a share such as 0\.25"):
        parse_budget(text)


def test_many_methods_far_from_the_full_context_can_be_told_apart():
    rows = [row(FULL, 9000, 1.0), *(row(f"m{n}", 200 + 10 * n, n / 20) for n in range(20))]
    html = page(conclude(rows), {})
    assert "tokens kept, mean (log)" in html and all(f">m{n}</text>" in html for n in range(20))
    assert "(log)" not in page(conclude([*rows, row("empty", 0, 0.0)]), {})
    assert "(log)" not in page(conclude(rows[:1]), {})


def test_what_is_measured_is_explained():
    rows = [replace(row(m, 9, None, 2.0), nll_interval=None, prefill_seconds=1.0) for m in (FULL, "a")]
    html = page(conclude(rows), {})
    assert "NLL: nats per token" in html and "prefill s: predicted" in html and "Evidence:" not in html
    assert "would cost likelihood of the answer" in html


def test_an_interval_takes_five_cases():
    items = [item(n, HAY * 20 + FACT) for n in range(5)]
    for count in (4, 5):
        result = measure(items[:count], {"none": Pipeline(["none"])}, [parse_budget("0.2")])
        assert [r.evidence_interval is None for r in result.rows] == [count < 5] * 2


def test_the_report_stands_alone(tmp_path):
    items = [item(0, HAY * 20 + FACT), item(1, FACT + " " + HAY * 20)]
    methods = {n: Pipeline([n]) for n in ("none", "bm25-sentences")}
    result = measure(items, methods, [parse_budget("0.2"), parse_budget("0.4")])
    about = {"workload": "<mine>", "cases": 2, "value": float("nan")}
    json_path, html_path = write(result, about, tmp_path / "new" / "out")
    report = json.loads(json_path.read_text("utf-8"))
    assert report["value"] is None and report["recommended"] == result.recommended
    assert [r["method"] for r in report["rows"]] == ["full"] + ["none"] * 2 + ["bm25-sentences"] * 2
    html = html_path.read_text("utf-8")
    assert "&lt;mine&gt;" in html and "<svg" in html and html.count("<tr") == 1 + 5
    assert (
        "NLL" not in html and "prefill s" not in html and "prune ms: median" in html and "Evidence:" in html
    )
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", html)
    assert f"Recommended: {result.recommended}." in html
    columns = used_columns(result.rows)
    assert [cells(result.rows[0])[n] for n in columns][:4] == ["full", *cells(result.rows[0])[1:4]]
    assert 5 not in columns and 8 not in columns  # neither NLL nor prefill was measured
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot write the report"):
        write(result, about, tmp_path / "file")


def test_a_method_cannot_have_the_name_of_the_full_context():
    with pytest.raises(ConfigError, match="'full' is the row of the whole context"):
        measure([], {FULL: Pipeline(["tail"])}, [parse_budget("0.5")])
