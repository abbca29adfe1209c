"""What the report says: one verdict from both statistics, and tables that fit a terminal."""

import io
from collections import defaultdict

import pytest
from rich.console import Console

from tokenprune.bench import words
from tokenprune.bench.breakdown import PARTS
from tokenprune.bench.ttft_report import show


def report(ratio, ratio_ci, difference, difference_ci):
    return {
        "no_verdict": None,
        "ttft_ratio": ratio,
        "ttft_ratio_ci": ratio_ci,
        "ttft_difference_ms": difference,
        "ttft_difference_ms_ci": difference_ci,
        "e2el_difference_ms": difference,
        "e2el_difference_ms_ci": difference_ci,
        "pairs": 10,
        "cases": 10,
        "tokens_kept": None,
        "break_even": {"text": "none"},
        "efficiency": None,
        "decisions": {},
        "regret": None,
        "rescued": 0,
    }


FASTER, SLOWER, OPEN = "Pruning is FASTER", "Pruning is SLOWER", "No difference can be told"


@pytest.mark.parametrize(
    ("ratio", "difference", "verdict"),
    [
        ((1.5, (1.2, 1.9)), (-50, (-80, -20)), FASTER),
        ((0.5, (0.4, 0.7)), (50, (20, 80)), SLOWER),
        ((1.02, (0.9, 1.1)), (3, (-5, 9)), OPEN),
        ((1.02, (0.9, 1.1)), (29.8, (4.7, 60.1)), OPEN),  # the pairs alone: slower
        ((1.5, (1.2, 1.9)), (-5, (-80, 20)), OPEN),  # the ratio alone: faster
        ((1.5, (1.2, 1.9)), (29.8, (4.7, 60.1)), OPEN),  # they contradict each other
    ],
)
def test_a_verdict_takes_that_both_statistics_agree(ratio, difference, verdict):
    said = words.findings(report(*ratio, *difference))
    assert said[0].startswith(verdict)
    paired = next(line for line in said if line.startswith("Paired difference of TTFT"))
    agree = verdict != OPEN or (difference[1][0] < 0 < difference[1][1] and ratio[1][0] < 1 < ratio[1][1])
    assert ("A verdict takes that both say the same" in paired) == (not agree)


def test_which_statistic_says_what_is_told():
    said = words.findings(report(1.02, (0.9, 1.1), 29.8, (4.7, 60.1)))
    assert "1.02 times shorter with pruning, perhaps by chance" in said[0]
    assert (
        "+29.8 ms (95%: +4.7 to +60.1); this alone would say: slower. The ratio of the medians alone would "
        "say: no difference. A verdict takes" in said[1]
    )
    said = words.findings(report(1.5, (1.2, 1.9), -5, (-80, 20)))
    assert "1.50 times shorter with pruning, which the paired differences do not bear" in said[0]
    assert "this alone would say: no difference. The ratio of the medians alone would say: faster." in said[1]


def test_without_intervals_nothing_is_added():
    said = words.findings(report(1.02, None, 29.8, None))
    assert "fewer than 5 cases" in said[0]
    assert said[1] == "Paired difference of TTFT, pruned minus direct: +29.8 ms."


def part(**named):
    return {
        "pairs": 100,
        "pruned": 100,
        "tokens_kept": 0.25,
        "direct_ttft_ms": 12345.6,
        "pruned_ttft_ms": 12345.6,
        "prune_ms": 1234.5,
        "ttft_ratio": 10.02,
        "ttft_ratio_ci": (10.01, 12.34),
        "evidence_recall": 1.0,
        **named,
    }


def test_a_slice_in_full_and_for_a_terminal():
    slices = [part(tokens=291.4), part(name="later", pruned=7, ttft_ratio_ci=None, evidence_recall=None)]
    figures = ("25%", "12345.6", "12345.6", "1234.5")
    assert words.slice_rows(slices) == [
        ("about 291 tokens", "100", "100", *figures, "10.02", "10.01 to 12.34", "100%"),
        ("later", "100", "7", *figures, "10.02", "-", ""),
    ]
    assert words.narrow_rows(slices) == [
        ("291", "100/100", *figures, "10.02 (10.01-12.34)", "100%"),
        ("later", "7/100", *figures, "10.02", ""),
    ]


def test_the_tables_read_well_in_80_columns():
    figures = defaultdict(lambda: 123456.7, completed=100, failed=0)
    times = dict.fromkeys(PARTS, 12345.67)
    given = report(1.5, (1.2, 1.9), -50, (-80, -20)) | {
        "direct": figures,
        "pruned": figures,
        "quality": {side: defaultdict(lambda: 0.5) for side in ("direct", "pruned")},
        "by_length": [part(tokens=291), part(tokens=12345, ttft_ratio_ci=None)],
        "by_position": [part(name="first"), part(name="later", evidence_recall=None)],
        "by_round": [],
        "breakdown": {"upstream_known": False, "shown": times, "median": times, "p90": times},
        "notes": [],
        "errors": [],
        "settings": {"cache": "cold"},
    }
    figures["total_cached_tokens"] = 0
    console = Console(file=io.StringIO(), width=80)
    show(given, console)
    lines = console.file.getvalue().splitlines()
    assert not any("…" in line for line in lines)
    last = [n for n, line in enumerate(lines) if line.startswith("Pruning is FASTER")]
    rows = [line.split() for line in lines[: last[0]]]
    for rest in (
        words.NARROW_HEAD[1:],
        ("tokens", *words.NARROW_HEAD[1:]),
        ("291", "100/100", "25%", "12345.6", "12345.6", "1234.5", "10.02", "(10.01-12.34)", "100%"),
        ("12345", "100/100", "25%", "12345.6", "12345.6", "1234.5", "10.02", "100%"),
        ("later", "100/100", "25%", "12345.6", "12345.6", "1234.5", "10.02", "(10.01-12.34)"),
    ):
        assert " ".join(rest).split() in rows
    # every figure in a line of its own
    for label, *_ in words.figure_rows(given) + words.part_rows(given):
        assert sum(line.startswith(f"{label}  ") for line in lines) == 1, label
