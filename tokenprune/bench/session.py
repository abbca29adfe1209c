"""One run against two servers: checks, warm-up, the plan, and the rows as they come."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import aiohttp
import numpy as np

from tokenprune.bench import plan
from tokenprune.bench.case import Case
from tokenprune.bench.client import Server, get_json, measure, models_of, open_session
from tokenprune.bench.decisions import PRUNED
from tokenprune.bench.execute import run_blocks
from tokenprune.bench.plan import Block, Salts, Send
from tokenprune.bench.receipts import evidence_in, evidence_left, pruned_messages, texts_of
from tokenprune.bench.rows import ALWAYS, SIDES, Row, Side
from tokenprune.bench.settings import Settings
from tokenprune.errors import MeasureError

_FETCHING = 4  # receipts asked for at the same time, between blocks
Progress = Callable[[int, int, str], None]


@dataclass
class Measured:
    """What a run gave.

    Attributes:
        rows: every request that was answered or failed.
        durations_s: time in which each route was at work: one at a time, the sum of its requests; under
            load, of its blocks.
        prompts: by row number: the messages that reached the model as far as they are known, without salt.
        planned: requests that were to be sent.
        notes: what a reader of the figures must know.
        interrupted: stopped before all was sent.
        model: name that was asked for.
        server: what the direct server says it is.
    """

    rows: list[Row] = field(default_factory=list)
    durations_s: dict[Side, float] = field(default_factory=lambda: dict.fromkeys((*SIDES, ALWAYS), 0.0))
    prompts: dict[int, Sequence[Any]] = field(default_factory=dict)
    planned: int = 0
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    model: str = ""
    server: str | None = None


class Session:
    """Runs the workload once; `run` may be called once."""

    def __init__(
        self,
        settings: Settings,
        cases: Sequence[Case],
        log: IO[str],
        progress: Progress,
    ) -> None:
        """Make a session.

        Args:
            settings: of the run.
            cases: what is measured.
            log: each row is written here as a line of JSON when its request ends.
            progress: called with requests done, requests planned and what goes on.
        """
        self._settings, self._cases = settings, cases
        self._log, self._progress = log, progress
        self._servers: dict[Side, Server] = {
            "direct": Server.at(settings.direct, settings.api_key),
            "pruned": Server.at(settings.proxy, settings.api_key),
        }
        if settings.always:
            self._servers[ALWAYS] = self._servers["pruned"]
        self._same = self._servers["direct"].root == self._servers["pruned"].root
        self._pending: list[tuple[int, Case]] = []
        self._lost = 0  # requests of which a receipt was gone
        self._begin = time.perf_counter()
        self.found = Measured()

    async def run(self) -> Measured:
        """Measure; when the task is cancelled (Ctrl-C), give what was measured until then.

        Raises:
            MeasureError: a server cannot be reached, or all warm-up requests of a route failed.
        """
        async with open_session() as self._http:
            try:
                await self._check()
                salts = Salts(secrets.randbelow(10**6))
                await self._warm_up(salts)
                await self._measure(salts)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or not self.found.rows:
                    raise
                task.uncancel()
                self.found.interrupted = True
        # A server that is no proxy was not asked anything that it understood.
        if self._same and any(row.decision is not None for row in self.found.rows):
            self.found.notes.append(
                "one URL for both routes: the direct requests ask the server not to prune "
                '("tokenprune": {"enabled": false})'
            )
        if self._lost:
            self.found.notes.append(
                f"receipts of {self._lost} pruned requests could not be had from the proxy: evidence and NLL "
                "leave these requests out"
            )
        return self.found

    async def _check(self) -> None:
        settings, found = self._settings, self.found
        names = {side: await models_of(self._http, self._servers[side]) for side in SIDES}
        found.model = settings.model or names["direct"][0]
        if settings.model is not None and settings.model not in names["direct"]:
            listed = ", ".join(names["direct"])
            found.notes.append(f"model {settings.model!r} is not among those that the server lists: {listed}")
        server = self._servers["direct"]
        root = Server(server.root.removesuffix("/v1"), server.headers)
        try:
            status, body = await get_json(self._http, root, "/version")
        except (aiohttp.ClientError, OSError, TimeoutError):
            return
        if status == 200 and isinstance(body, dict) and "version" in body:
            found.server = str(body["version"])

    async def _warm_up(self, salts: Salts) -> None:
        wanted = self._settings.warmup
        if not wanted:
            return
        spread = np.linspace(0, len(self._cases) - 1, min(wanted, len(self._cases))).astype(int).tolist()
        cases = [plan.in_other_words(self._cases[i]) for i in spread]
        for side in SIDES:
            failed = []
            for number, case in enumerate(cases):
                self._progress(0, 0, f"warming up: {side}")
                row = await self._send(Send(case, side, number, salts.new()))
                failed += [row.error] if row.error else []
            if cases and len(failed) == len(cases):
                shown = self._servers[side].shown
                raise MeasureError(f"every warm-up request to {shown} failed: {failed[0]}")
            if failed:
                self.found.notes.append(f"{len(failed)} warm-up requests ({side}) failed: {failed[0]}")

    async def _measure(self, salts: Salts) -> None:
        settings = self._settings
        if settings.loaded:
            rounds = settings.rounds or 2
            blocks = plan.under_load(
                self._cases, rounds, settings.cache, salts, settings.seed, settings.rate, settings.sides
            )
        else:
            rounds = settings.rounds or 1
            blocks = plan.one_at_a_time(
                self._cases, rounds, settings.cache, salts, settings.seed, settings.sides
            )
        self.found.planned = sum(len(lane) for block in blocks for lane in block.lanes)
        self._begin = time.perf_counter()
        for block in blocks:
            await self._block(block)

    async def _block(self, block: Block) -> None:
        begin = time.perf_counter()
        try:
            await run_blocks([block], self._settings.concurrency, self._one, self._fetch_all)
        finally:
            if block.side is not None:
                self.found.durations_s[block.side] += time.perf_counter() - begin

    async def _one(self, send: Send) -> None:
        begin = time.perf_counter()
        row = await self._send(send)
        self.found.rows.append(row)
        number = len(self.found.rows) - 1
        wanted = row.steps_ms or send.case.evidence or (self._settings.nll and send.case.answers)
        if row.measured and wanted and row.side != ALWAYS:  # of which only the time is wanted
            self._pending.append((number, send.case))
        if not self._settings.loaded:
            self.found.durations_s[send.side] += time.perf_counter() - begin
            await self._fetch_all()
        self._log.write(json.dumps(row.to_dict()) + "\n")
        self._log.flush()
        self._progress(number + 1, self.found.planned, f"round {send.round + 1}: {send.side} {send.case.id}")

    async def _send(self, send: Send) -> Row:
        row = Row(send.case.id, send.case.group, send.side, send.round)
        body = self._body(send)
        row.started_ms = 1e3 * (time.perf_counter() - self._begin)
        await measure(self._http, self._servers[send.side], body, row, self._settings.timeout_s)
        return row

    def _body(self, send: Send) -> bytes:
        # The proxy remembers what it read for a question: the second route through it would find it there.
        case = plan.in_other_words(send.case) if send.side == ALWAYS else send.case
        body: dict[str, Any] = {
            "model": self.found.model,
            "messages": plan.salted(case.messages, send.salt),
            "max_tokens": self._settings.max_tokens or case.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if send.side != "direct" and case.options is not None:
            body["tokenprune"] = dict(case.options)
        if send.side == ALWAYS:
            body["tokenprune"] = {**(case.options or {}), "enabled": True}
        if send.side == "direct" and self._same:
            body["tokenprune"] = {"enabled": False}
        return json.dumps(body).encode()

    async def _fetch_all(self) -> None:
        """Learn what reached the model, while nothing is measured."""
        pending, self._pending = self._pending, []
        for start in range(0, len(pending), _FETCHING):
            part = pending[start : start + _FETCHING]
            await asyncio.gather(*(self._fetch(number, case) for number, case in part))

    async def _fetch(self, number: int, case: Case) -> None:
        row = self.found.rows[number]
        if row.receipt is None:  # what is not pruned goes on as it was sent
            if row.decision == PRUNED or (row.decision is None and row.side == "pruned"):
                return
            row.evidence_recall = evidence_in(texts_of(case.messages), case.evidence)
            self.found.prompts[number] = case.messages
            return
        receipt = await self._receipt(self._servers[row.side], row.receipt)
        if receipt is None:
            self._lost += 1
            return
        upstream = receipt.get("timing", {}).get("upstream")
        if row.steps_ms and upstream is not None:
            row.upstream_ms = 1e3 * upstream
        row.evidence_recall = evidence_left(case, receipt)
        pruned = pruned_messages(case.messages, receipt)
        if pruned is not None:
            self.found.prompts[number] = pruned

    async def _receipt(self, server: Server, wanted: str) -> dict[str, Any] | None:
        """Return a receipt with the results of the earlier turns that it names; None if one is gone."""
        own: dict[str, Any] | None = None
        known: set[str] = set()
        waiting = [wanted]
        while waiting:
            name = waiting.pop(0)
            if name in known:
                continue
            known.add(name)
            try:
                status, found = await get_json(self._http, server, f"/receipts/{name}")
            except (aiohttp.ClientError, OSError, TimeoutError):
                return None
            if status != 200 or not isinstance(found, dict):
                return None
            waiting += found.get("earlier", [])
            if own is None:
                own = found
            else:
                own["results"] = [*found["results"], *own["results"]]
        return own
