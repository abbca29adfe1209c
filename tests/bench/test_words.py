"""What the report says: one verdict from both statistics, and tables that fit a terminal."""

import pytest

from tokenprune.bench import words


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
    assert "1.50 times shorter with pruning, which the differences within the pairs do not bear" in said[0]
    assert "this alone would say: no difference. The ratio of the medians alone would say: faster." in said[1]


def test_without_intervals_nothing_is_added():
    said = words.findings(report(1.02, None, 29.8, None))
    assert "fewer than 5 cases" in said[0]
    assert said[1] == "Paired difference of TTFT, pruned minus direct: +29.8 ms."
