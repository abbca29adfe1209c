"""What others publish, beside what was measured here, with what is and is not comparable.

Figures as the sources give them, or as a second-hand page does (``second_hand``). What a source says of
model, hardware and prompt length is given only where it was read; none of them was measured on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tokenprune.bench.statistics import TAIL

Measures = Literal["ttft", "e2e", "overhead"]


@dataclass(frozen=True)
class Published:
    """A figure of the field.

    Attributes:
        work: method or product.
        source: paper or repository.
        year: of the source.
        measures: what of ours stands beside it: the ratio of TTFT or of the end-to-end time, or the proxy's
            own time.
        figure: as published.
        what: what was measured.
        setting: model and data, as far as they were read.
        comparable: what is and what is not, in a sentence.
        second_hand: read in a page about it.
    """

    work: str
    source: str
    year: int | None
    measures: Measures
    figure: str
    what: str
    setting: str
    comparable: str
    second_hand: bool = False


PUBLISHED = (
    Published(
        "LazyLLM", "arXiv 2407.14057", 2024, "ttft", "2.34x (1.36x to 2.89x)",
        "TTFT against the full prompt; multi-document QA, score 22.43 to 22.31 (range: five kinds of tasks)",
        "Llama-2-7B; tokens leave between the layers of the served model",
        "The same quantity on a like task, but inside the engine: no second model and no proxy, and a "
        "first layer that reads every token; ours includes the proxy and all of its pruning.",
    ),
    Published(
        "GemFilter", "arXiv 2409.17422", 2024, "ttft", "2.4x", "speed against the full prompt and SnapKV",
        "early layers of the served model select tokens, the whole model reads those that are left",
        "A like idea in two steps, with the served model's first layers as the filter; speed as the "
        "paper defines it, not TTFT over HTTP.",
    ),
    Published(
        "SlimInfer", "arXiv 2508.06447", 2025, "ttft", "2.53x", "TTFT against the full prompt",
        "Llama-3.1-8B",
        "The same quantity, but inside the engine and without a proxy; another model and another device.",
    ),
    Published(
        "SpecPrefill", "a port of Jingyu6/speculative_prefill", None, "ttft", "3.7x to 5.4x",
        "prefill with 20% of the tokens kept", "a draft model chooses chunks of 32 tokens",
        "As here a smaller model chooses; it keeps a fixed share, our default what the question needs.",
    ),
    Published(
        "Provence", "arXiv 2501.16214", 2025, "e2e", "2.13x",
        "generation, with up to 80% of the passages dropped",
        "DeBERTa-v3-large labels sentences",
        "Our default model is of its kind; generation is more than the first token, so that our "
        "end-to-end ratio stands beside it, which depends on how long the answers are.",
        second_hand=True,
    ),
    Published(
        "HoliTom", "cokeshao/HoliTom", None, "ttft", "2.28x (decoding 1.32x)",
        "TTFT of questions about videos",
        "visual tokens merged: 6.9% of the operations, 99.1% of the quality",
        "Only in kind: tokens of video frames, many of them alike, inside the model.",
    ),
    Published(
        "Compression before optimised servers", "arXiv 2604.02985", 2026, "e2e", "at most 1.18x",
        "end to end, in a narrow window", "prompt compression in front of optimised inference servers",
        "The same place in the stack, so the nearest comparison; the end-to-end ratio here is of this "
        "server and of answers of this length.",
    ),
    Published(
        "headroom", "headroom-ai, its own figures", None, "overhead", "p50 52 ms, p99 4,172 ms",
        "time that the proxy adds", "median compression of real requests 4.8%",
        "The same quantity as our proxy's own work; requests and machines differ.",
    ),
    Published(
        "litellm", "litellm, its own figures", None, "overhead", "p50 2 ms, p95 8 ms, p99 13 ms",
        "time that the proxy adds, without any pruning", "4 instances, 1,170 requests/s",
        "Passing on alone: beside it stands how much longer requests took that our proxy did not prune.",
    ),
)  # fmt: skip


def beside(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every figure with ours beside it (``ours``; null where this run has none)."""
    return [asdict(one) | {"ours": _ours(one, report)} for one in PUBLISHED]


def _ours(one: Published, report: Mapping[str, Any]) -> str | None:
    if report["no_verdict"] is not None and one.work != "litellm":
        return None
    if one.measures == "overhead":
        return _overhead(one, report)
    key = "ttft_ratio" if one.measures == "ttft" else "e2el_ratio"
    if report[key] is None:
        return None
    found = f"{report[key]:.2f}x"
    parts = [part for part in report["by_length"] if part[key] is not None]
    if len(parts) > 1:
        low, high = (f"{part[key]:.2f}x at {part['tokens']:,.0f}" for part in (parts[0], parts[-1]))
        return f"{found} ({low} to {high} tokens)"
    return f"{found} at {parts[0]['tokens']:,.0f} tokens" if parts else found


def _overhead(one: Published, report: Mapping[str, Any]) -> str | None:
    if one.work == "litellm":
        added = (report["regret"] or {}).get("overhead_skipped_ms")
        return (
            None if added is None else f"{added:+.1f} ms (median of {report['regret']['skipped']} not pruned)"
        )
    pruned = report["pruned"]
    if pruned["median_prune_ms"] is None:
        return None
    tail = f", p99 {pruned['p99_prune_ms']:,.0f}" if pruned["completed"] >= TAIL else ""
    return f"p50 {pruned['median_prune_ms']:.0f}{tail} ms"
