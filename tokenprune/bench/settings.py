"""What a run of ``tokenprune bench ttft`` is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokenprune.bench.plan import Cache
from tokenprune.bench.rows import ALWAYS, SIDES, Side


@dataclass(frozen=True)
class Settings:
    """Settings of a run; all of them but the key stand in its report.

    Attributes:
        direct: URL of the server without pruning.
        proxy: URL of the same server through the proxy.
        workload: a name or a JSONL file.
        out: folder of the report.
        model: None: the first that the direct server lists.
        limit: cases at most.
        rounds: how often every case is sent over each route; None: once, and twice under load.
        concurrency: requests in flight, closed loop.
        rate: requests per second, open loop; None: closed loop.
        cache: see `tokenprune.bench.plan`.
        warmup: requests per route that are not counted: cases in other words.
        max_tokens: of each answer; None: as the case says.
        goodput: objectives in milliseconds.
        seed: of order, arrivals and bootstraps.
        timeout_s: for one request.
        always: take a third route as well: over the proxy, asking for pruning.
        nll: a local model that says how much it expects the gold answers; None: not asked.
        api_key: sent to both servers.
    """

    direct: str
    proxy: str
    workload: str
    out: Path
    model: str | None = None
    limit: int | None = None
    rounds: int | None = None
    concurrency: int = 1
    rate: float | None = None
    cache: Cache = "cold"
    warmup: int = 2
    max_tokens: int | None = None
    goodput: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    timeout_s: float = 600.0
    always: bool = False
    nll: str | None = None
    api_key: str | None = field(default=None, repr=False)

    @property
    def sides(self) -> tuple[Side, ...]:
        """The routes that are taken."""
        return (*SIDES, ALWAYS) if self.always else SIDES

    @property
    def loaded(self) -> bool:
        """Whether more than one request may be in flight."""
        return self.concurrency > 1 or self.rate is not None
