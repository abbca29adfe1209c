"""The selection of prompt tokens as the last step before a request goes to the upstream."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tokenprune.lru import ByteLru
from tokenprune.receipt import steps_of
from tokenprune_server.body import ClientGone
from tokenprune_server.decide import PRUNED, Facts, failed, skip_reason, skipped
from tokenprune_server.gate import Gate, Weighing, model_name, turn_path
from tokenprune_server.json_body import serialise
from tokenprune_server.ledger import digest
from tokenprune_server.pool import PrunePool
from tokenprune_server.protocols.base import Body, Job, Path, Rules, Span
from tokenprune_server.receipts import ReceiptStore
from tokenprune_server.request import Fresh, Outcome, Request, plain_body
from tokenprune_server.tokens.agreement import AGREES, Agreement
from tokenprune_server.tokens.mapping import completion, unmappable
from tokenprune_server.tokens.render import Rendered, UnreadableChatError, adds_special, is_chat
from tokenprune_server.tokens.select import Selection, TokenSelector
from tokenprune_server.tokens.sending import IDS, Sending
from tokenprune_server.tokens.settings import TokenSettings
from tokenprune_server.types import ASGIApp, Headers, Message
from tokenprune_server.watch import done_in_time

log = logging.getLogger("tokenprune.server")

_FITS = "fits-budget"
# How chats went, for their repeats: the ids, or what the header said of those that did not go as ids.
_SENT_BYTES, _SENT_COUNT, _BYTES_PER_ID, _BYTES_PER_REASON = 8 * 2**20, 256, 36, 80


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A chat whose tokens may be chosen."""

    body: Body
    fresh: Fresh
    query: str
    prompt: Rendered
    keep: int
    weighing: Weighing | None


class _Skipped(Exception):
    """Nothing is to be chosen; ``reason`` is a short name of why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Broken(Exception):
    """What chooses cannot be used, as was logged when it showed; ``reason`` is a short name of why."""

    def __init__(self, fault: Exception) -> None:
        super().__init__(f"{type(fault).__name__}: {fault}")
        self.reason = type(fault).__name__


class TokenStage:
    """Chooses tokens of chats that passed the pipeline, whether it pruned them or not.

    Args:
        app: the upstream.
        settings: which tokens, and what chooses them.
        selector: the model that chooses.
        load: begins to load that model, beside requests.
        rules: what counts as a document, for a request.
        gate: says whether it is worth it, and learns what it costs.
        receipts: where the receipts go.
        pool: the threads that work.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: TokenSettings,
        selector: TokenSelector,
        load: Callable[[], None],
        rules: Callable[[Request], Rules],
        gate: Gate,
        receipts: ReceiptStore,
        pool: PrunePool,
    ) -> None:
        self._app, self._settings, self._selector = app, settings, selector
        self._load = load
        self._rules, self._gate, self._receipts, self._pool = rules, gate, receipts, pool
        self._agreement = Agreement(app)
        self._sent: ByteLru[bytes, list[int] | str] = ByteLru(_SENT_BYTES, _SENT_COUNT)

    @property
    def holds_budgets(self) -> bool:
        """Whether it can keep a request to a budget, as far as is known."""
        return self._selector.ready

    async def __call__(
        self, request: Request, outcome: Outcome, headers: Headers, watching: asyncio.Task[Message]
    ) -> tuple[Outcome, Sending | None]:
        """What becomes of a chat: its outcome, and how it goes as ids when it does.

        Args:
            request: as it came.
            outcome: of the pipeline.
            headers: of the request.
            watching: a call of ``receive`` that was begun.

        Raises:
            ClientGone: the client left.
        """
        fresh = outcome.fresh
        if fresh is None:
            return self._again(request, outcome)
        if self._pool.waiting >= self._pool.max_waiting:
            return self._skipped(request, outcome, "overloaded"), None
        work = asyncio.ensure_future(self._select(request, outcome, fresh, headers))
        try:
            if await done_in_time(work, watching, self._settings.timeout_s):
                return work.result()
            log.warning("the selection of tokens took longer than %s s", self._settings.timeout_s)
            return _failed(outcome, "timeout", f"it took longer than {self._settings.timeout_s:g} s"), None
        except ClientGone:
            raise
        except _Skipped as why:
            return self._skipped(request, outcome, why.reason), None
        except _Broken as broken:
            return _failed(outcome, broken.reason, str(broken)), None
        except UnreadableChatError as error:
            log.info("no tokens are chosen: %s", error)
            return self._skipped(request, outcome, error.reason), None
        except Exception as error:
            # Whatever goes wrong in the model, the request must not be lost: logged, counted, visible.
            log.exception("the selection of tokens failed")
            return _failed(outcome, type(error).__name__, f"{type(error).__name__}: {error}"), None
        finally:
            work.cancel()

    def _skipped(self, request: Request, outcome: Outcome, reason: str) -> Outcome:
        """Nothing is chosen; a repeat of the request will say so as well."""
        how = skipped(reason)
        self._remember(_going(request, outcome), how)
        return _noted(outcome, how)

    def _remember(self, body: Body, how: list[int] | str) -> None:
        size = _BYTES_PER_REASON if isinstance(how, str) else _BYTES_PER_ID * len(how)
        self._sent.put(_identity(body), how, size)

    def _again(self, request: Request, outcome: Outcome) -> tuple[Outcome, Sending | None]:
        """A chat of which everything goes as it was sent before: as the same ids, if it went as ids."""
        if outcome.decision not in (PRUNED, skipped("cached")):
            return outcome, None
        body = _going(request, outcome)
        known = self._sent.get(_identity(body))
        if known is None:
            return outcome, None
        if isinstance(known, str):
            return _noted(outcome, known), None
        return self._sending(outcome, _carried(body, known, request, unmappable(body)))

    def _sending(self, outcome: Outcome, carried: Body | str) -> tuple[Outcome, Sending | None]:
        """How a chat goes: as the ids that `_carried` gives, or as the text of its outcome."""
        if isinstance(carried, str):
            return _noted(outcome, f"text:{carried}"), None
        return _noted(outcome, IDS), Sending(self._app, serialise(carried))

    async def _select(
        self, request: Request, outcome: Outcome, fresh: Fresh, headers: Headers
    ) -> tuple[Outcome, Sending | None]:
        body = _going(request, outcome)
        ready = await self._pool.submit(lambda: self._prepare(request, body, fresh))
        why = "configured" if self._settings.send == "text" else unmappable(body)
        choosing = self._pool.submit(lambda: self._selector(ready.prompt, ready.query, ready.keep))
        if why is None:
            keys = [(name, value) for name, value in headers if name == b"authorization"]
            asking = self._agreement.prompt(self._selector.template(), body, ready.prompt.ids, keys)
            selection, theirs = await asyncio.gather(choosing, asking)
            why = None if theirs == AGREES else theirs
        else:
            selection = await choosing
        self._gate.costs.pruned(self._selector.name, len(ready.prompt.ids), selection.seconds, None)
        carried = _carried(body, selection.ids, request, why)
        if isinstance(carried, str):
            how = adds_special(body)
            count = partial(self._selector.as_text, ready.prompt, selection, ready.keep, special=how)
            selection = await self._pool.submit(count)
        if selection.dropped <= 0:
            raise _Skipped("nothing-to-drop")
        done = await asyncio.to_thread(self._done, request, outcome, ready, selection)
        result = self._sending(done, carried)
        if done.body is not None:
            self._remember(done.body, selection.ids if result[1] is not None else result[0].token_stage)
        return result

    def _prepare(self, request: Request, body: Body, fresh: Fresh) -> _Prepared:
        """Find the documents in the prompt, and look whether it is worth it.

        Raises:
            _Skipped: it is not, or there are none.
            _Broken: the model that chooses cannot be used.
            UnreadableChatError: the prompt cannot be read.
        """
        job = next(iter(request.protocol.locate(body, self._rules(request)).jobs), None)
        if (job is None or not job.spans) and any(earlier.spans for earlier in fresh.jobs):
            raise _Skipped("below-min-tokens")  # what the pipeline has left of them
        if job is None or job.query is None:
            raise _Skipped("no-query")
        # Markup and JSON strings do not survive the loss of a token.
        spans = tuple(
            span
            for span in job.spans
            if span.kind == "text" and not span.quoted and turn_path(span.path) not in fresh.closed
        )
        if not spans:
            raise _Skipped("no-documents")
        if is_chat(body) != (spans[0].path[0] == "messages"):
            raise _Skipped("unknown-field")  # of the other route
        if not is_chat(body) and not isinstance(body["prompt"], str):
            raise _Skipped("several-prompts")
        self._check_ready()
        prompt = self._selector.template().read(body, spans, request.protocol)
        tokens = sum(int(prompt.inside_of(place).sum()) for place in prompt.places)
        keep = self._settings.keep
        if fresh.budget is not None:
            room = self._keep(fresh.budget, prompt, [span for span in job.spans if span not in spans], tokens)
            keep = room if request.options.budget is not None else min(keep, room)
        if tokens <= keep:
            raise _Skipped(_FITS)
        if not self._selector.fits(prompt):
            raise _Skipped("too-long")
        weighing = self._weigh(
            request, body, fresh, Job(job.query, spans), tokens - keep, tokens, len(prompt.ids)
        )
        return _Prepared(body, fresh, job.query, prompt, keep, weighing)

    def _keep(self, budget: int, prompt: Rendered, others: Sequence[Span], tokens: int) -> int:
        """How many of the ``tokens`` that may go a request's budget lets stay.

        Raises:
            _Skipped: less than one, beside those that cannot go: of ``others``, and at documents' edges.
        """
        edges = sum(prompt.sizes()) - tokens
        fixed = edges + sum(len(self._selector.template().encode(span.text)[0]) for span in others)
        if budget <= fixed:
            raise _Skipped("no-room")
        return budget - fixed

    def _check_ready(self) -> None:
        """Raise _Skipped or _Broken unless the model that chooses is there: no request waits for it."""
        if self._selector.ready:
            return
        self._load()
        fault = self._selector.fault
        raise _Skipped("loading") if fault is None else _Broken(fault)

    def _weigh(
        self, request: Request, body: Body, fresh: Fresh, job: Job, saved: int, tokens: int, size: int
    ) -> Weighing | None:
        """What it would gain, None when nobody asks; raises _Skipped when that is too little."""
        gate, name = self._gate, self._selector.name
        weighing = gate.weigh(body, fresh.history, request.protocol, job, job.spans, tokens, name)
        if weighing is None:
            return None
        prune_s = gate.costs.pruning_s(name, size)
        cost = dataclasses.replace(weighing.cost, saved_tokens=float(saved), prune_s=prune_s)
        reason = skip_reason(Facts(cost=cost, obliged=fresh.obliged))
        if reason is not None:
            raise _Skipped(reason)
        return dataclasses.replace(weighing, cost=cost)

    def _done(self, request: Request, outcome: Outcome, ready: _Prepared, selection: Selection) -> Outcome:
        """The outcome of a chat whose tokens were chosen; its body is the text of those that stay."""
        fresh, gate = ready.fresh, self._gate
        body = request.protocol.put_back(ready.body, selection.texts)
        pruned_now = outcome.receipt is not None and outcome.steps
        stored = self._receipts.get(outcome.receipt or "") if pruned_now else None
        before = stored.results if stored is not None else ()
        earlier = stored.earlier if stored is not None else fresh.history.receipts
        receipt = self._receipts.put(ready.query, [*before, selection.result], earlier)
        counts = _counts(fresh.counts, selection)
        record = outcome.record
        if not fresh.contexts:
            record = gate.record(fresh.history, request.protocol, body, fresh.jobs, counts, receipt)
        expected = outcome.expected
        if ready.weighing is not None:
            again = gate.weigh_again(ready.weighing, fresh.history, body, request.protocol, selection.dropped)
            expected = again.pruned(model_name(body), ready.weighing.cost, selection.seconds)
        known = outcome.tokens_after > 0
        after = outcome.tokens_after - selection.dropped if known else selection.result.tokens_after
        return dataclasses.replace(
            outcome,
            decision=PRUNED,
            body=body,
            tokens_before=outcome.tokens_before if known else selection.result.tokens_before,
            tokens_after=max(0, after),
            receipt=receipt,
            record=record,
            expected=expected,
            steps=steps_of([*before, selection.result]),
        )


def owes_budget(outcome: Outcome) -> bool:
    """Whether the budget of a request was left to the tokens, and they have not held it."""
    fresh, how = outcome.fresh, outcome.token_stage
    left = fresh is not None and fresh.budget is not None and how != f"skipped:{_FITS}"
    return left and how.startswith(("skipped:", "failed:"))


def _carried(body: Body, ids: list[int], request: Request, why: str | None) -> Body | str:
    """The request for the ids of a prompt, or why there is none: ``why``, if that is known already."""
    return why or completion(body, ids, request.model_len) or "max-tokens"


def _going(request: Request, outcome: Outcome) -> Body:
    """The request as it goes without a choice of tokens."""
    return plain_body(request) if outcome.body is None else outcome.body


def _identity(body: Body) -> bytes:
    """What of a request decides what the model reads, as a key."""
    names = ("model", "messages", "tools", "chat_template_kwargs", "prompt", "add_special_tokens")
    read = [body.get(name) for name in names]
    return digest(json.dumps(read))


def _counts(before: dict[Path, tuple[int, int]], selection: Selection) -> dict[Path, tuple[int, int]]:
    """Tokens of the documents by turn, before and after."""
    counts = dict(before)
    for (span, _), receipt in zip(selection.texts, selection.result.receipts, strict=True):
        path = turn_path(span.path)
        came, left = counts.get(path, (receipt.tokens_before, receipt.tokens_before))
        counts[path] = came, max(0, left - receipt.tokens_before + receipt.tokens_after)
    return counts


def _noted(outcome: Outcome, how: str) -> Outcome:
    return dataclasses.replace(outcome, token_stage=how)


def _failed(outcome: Outcome, reason: str, detail: str) -> Outcome:
    """What the pipeline did goes on; without it, the request goes as one whose pruning failed."""
    decision = outcome.decision if outcome.body is not None else failed(reason)
    return dataclasses.replace(
        outcome, decision=decision, detail=detail, token_stage=f"failed:{reason}", steps=outcome.steps
    )
