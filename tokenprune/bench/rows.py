"""One request as it was measured: a row of the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Side = Literal["direct", "pruned", "always"]
SIDES: tuple[Side, Side] = ("direct", "pruned")
ALWAYS: Side = "always"  # a third route, where it is asked for


@dataclass
class Row:
    """What was sent, and what came of it. Times are in milliseconds; None: not known.

    Definitions as in vLLM's benchmark client (``vllm/benchmarks``), but that a chunk which only names the
    role is not a first token.

    Attributes:
        case: id of the case.
        group: its group.
        side: ``direct``, ``pruned`` (the route through the proxy, whatever the proxy decided) or ``always``
            (the same, and the request asks for pruning).
        round: counts from 0.
        started_ms: from the start of the measurement to the sending of the request.
        error: what went wrong; a row with an error is never counted as a measurement.
        error_kind: ``http``, ``too-long``, ``stream``, ``cut``, ``timeout`` or ``connection``.
        status: of the HTTP response.
        ttft_ms: from sending to the first token.
        itl_ms: gaps between the chunks that follow.
        e2el_ms: from sending to the last token.
        tpot_ms: (e2el - ttft) / (tokens out - 1); None for answers of one token.
        tokens_in: ``usage.prompt_tokens``: of what reached the model.
        tokens_out: ``usage.completion_tokens``.
        cached_tokens: ``usage.prompt_tokens_details.cached_tokens``.
        decision: ``x-tokenprune-decision``.
        prune_ms: ``x-tokenprune-ms``: reading, deciding and pruning.
        steps_ms: of that the steps of pruning (``count``, ``segment``, ...), from ``server-timing``; empty
            where nothing was pruned anew.
        upstream_ms: from the proxy's handing on to the first token of the answer, from the receipt.
        tokens_before: ``x-tokenprune-tokens-before``: of the documents, as the proxy counts.
        tokens_after: ``x-tokenprune-tokens-after``.
        receipt: ``x-tokenprune-receipt``.
        finish_reason: as the server says.
        text: the answer.
        evidence_recall: share of the evidence that stands in the prompt that reached the model.
        nll: of the gold answer after that prompt, nats per token.
    """

    case: str
    group: str | None
    side: Side
    round: int
    started_ms: float = 0.0
    error: str | None = None
    error_kind: str | None = None
    status: int | None = None
    ttft_ms: float | None = None
    itl_ms: list[float] = field(default_factory=list)
    e2el_ms: float | None = None
    tpot_ms: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cached_tokens: int | None = None
    decision: str | None = None
    prune_ms: float | None = None
    steps_ms: dict[str, float] = field(default_factory=dict)
    upstream_ms: float | None = None
    tokens_before: int | None = None
    tokens_after: int | None = None
    receipt: str | None = None
    finish_reason: str | None = None
    text: str = ""
    evidence_recall: float | None = None
    nll: float | None = None

    @property
    def measured(self) -> bool:
        """Whether the request went well, so that its times mean something."""
        return self.error is None and self.ttft_ms is not None

    def fail(self, kind: str, message: str) -> None:
        """Record what went wrong."""
        self.error_kind, self.error = kind, message

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping, from which the row can be made again; times to the microsecond."""
        found = asdict(self)
        for name, value in found.items():
            if isinstance(value, float):
                found[name] = round(value, 3 if name.endswith("_ms") else 6)
        found["itl_ms"] = [round(gap, 3) for gap in self.itl_ms]
        return found


@dataclass(frozen=True)
class Pair:
    """The same case in the same round on both routes, both measured; on the third one if it was taken."""

    direct: Row
    pruned: Row
    always: Row | None = None


def pairs_of(rows: list[Row]) -> list[Pair]:
    """Return the complete pairs, in the order of their direct requests."""
    other = {(r.case, r.round, r.side): r for r in rows if r.measured}
    return [
        Pair(r, other[r.case, r.round, "pruned"], other.get((r.case, r.round, ALWAYS)))
        for r in rows
        if r.side == "direct" and r.measured and (r.case, r.round, "pruned") in other
    ]
