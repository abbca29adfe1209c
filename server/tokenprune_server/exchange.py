"""A request while it is with the upstream: noted in the ledger once it is answered, and learned from."""

import logging
from types import TracebackType

from tokenprune_server.answer import AnswerWatch
from tokenprune_server.gate import Gate
from tokenprune_server.metrics import Metrics
from tokenprune_server.request import Outcome, Request
from tokenprune_server.types import Send

log = logging.getLogger("tokenprune.server")


class Exchange:
    """Context around the call of the upstream, for one request.

    Until the upstream answers, the ledger shows the request as under way: another one that begins with the
    same turns is sent as this one was. It is committed when the upstream has begun to answer; one that was
    refused, failed or was given up before leaves no trace.

    Args:
        gate: keeps the ledger and the cost model.
        metrics: are told how predictions did.
        request: as it came.
        outcome: how it goes.
    """

    def __init__(self, gate: Gate, metrics: Metrics, request: Request, outcome: Outcome) -> None:
        self._gate, self._metrics, self._request = gate, metrics, request
        self._record, self._under_way = outcome.record, False
        self._watch = AnswerWatch(outcome.expected, request.body, gate.in_flight, self._started, gate.clock)

    def passing(self, send: Send) -> Send:
        """A ``send`` that watches the answer."""
        return self._watch.passing(send)

    def __enter__(self) -> "Exchange":
        """The request goes to the upstream."""
        self._gate.in_flight += 1
        if self._record is not None:
            self._gate.ledger.begin(self._record)
            self._under_way = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The answer has ended, in whatever way."""
        self._gate.in_flight -= 1
        self._settle()
        try:
            self._learn()
        except Exception:
            # The answer has gone to the client: it must not break off for this.
            log.exception("the gate could not learn from a request")

    def _learn(self) -> None:
        if self._record is None and self._watch.started:  # noted when it delays nobody
            request = self._request
            self._gate.ledger.commit(self._gate.untouched(request.protocol, request.body, request.options))
        expected, seen = self._watch.expected, self._watch.result()
        if expected is not None and seen is not None:
            self._gate.costs.answered(seen)
            self._metrics.gated(expected, seen)

    def _started(self) -> None:
        if self._record is not None:
            self._gate.ledger.commit(self._record)
            self._settle()

    def _settle(self) -> None:
        """Be no longer under way."""
        if self._under_way and self._record is not None:
            self._under_way = False
            self._gate.ledger.end(self._record)
