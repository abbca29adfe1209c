"""A request on its way through the pruning part, and what becomes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tokenprune_server.answer import Expected
from tokenprune_server.gate import History
from tokenprune_server.ledger import Record
from tokenprune_server.options import Options
from tokenprune_server.protocols.base import Body, Job, Path, Protocol


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the middleware hands it over.

    Attributes:
        protocol: the adapter of its route.
        body: the parsed body without our options; never changed in place.
        options: what the request asks of us.
        raw_bytes: size of the (decoded) body, an upper bound of its tokens.
        model_len: context of the model in tokens; None when nobody knows.
        ask: the upstream for the tokens of a body, from a thread; None: it does not say.
    """

    protocol: Protocol
    body: Body
    options: Options
    raw_bytes: int
    model_len: int | None
    ask: Callable[[Body], int | None] = lambda body: None


@dataclass(frozen=True, slots=True)
class Fresh:
    """What of a request may be pruned further: the documents that were not sent before.

    Attributes:
        history: of the request.
        jobs: the documents and the question of each prompt, as they came.
        counts: tokens of the documents by turn, before and after what was pruned so far.
        closed: turns that stay as they are: they were sent so, or are shared with other questions.
        contexts: documents came beside the messages.
        obliged: the request asks for pruning itself, or does not fit the model.
        budget: tokens that the request lets stay, where no pipeline has held to it; None: there is none.
    """

    history: History
    jobs: tuple[Job, ...]
    counts: dict[Path, tuple[int, int]]
    closed: frozenset[Path]
    contexts: bool
    obliged: bool
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class Pictures:
    """What became of the pictures of a request.

    Attributes:
        stage: ``embeds``, ``skipped:REASON`` or ``failed:REASON``.
        method: by which they were pruned; "" when they go as they came.
        before: their tokens unpruned; 0 when nobody counted.
        after: their tokens as they go.
        encoded: how many went through the encoder, the others being known from before.
        count: of pictures.
        rows: of each picture as it goes; None: they do not go as rows.
    """

    stage: str
    method: str = ""
    before: int = 0
    after: int = 0
    encoded: int = 0
    count: int = 0
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request.

    Attributes:
        decision: ``pruned``, ``skipped:REASON`` or ``failed:REASON``.
        body: the body to send on; None: the original.
        tokens_before: tokens of the documents as they came.
        tokens_after: tokens of the documents as they go.
        receipt: id under which the receipt is kept, when pruned.
        too_long: tokens of the prompt when the original does not fit the model's context, else None.
        detail: why it failed, for the error message of fail-closed.
        record: what the ledger keeps of it when it is sent; None: that it went as it came.
        expected: what its answer is compared with; None: its answer is not watched.
        steps: seconds per step of its own pruning; empty when nothing was pruned anew.
        fresh: what the selection of tokens may work on; None: nothing.
        token_stage: what that selection did, for the response header; "" when it is not set up.
        pictures: what became of the pictures; None when there are none, or it is not set up.
    """

    decision: str
    body: Body | None = None
    tokens_before: int = 0
    tokens_after: int = 0
    receipt: str | None = None
    too_long: int | None = None
    detail: str = ""
    record: Record | None = None
    expected: Expected | None = None
    steps: Mapping[str, float] = field(default_factory=dict)
    fresh: Fresh | None = None
    token_stage: str = ""
    pictures: Pictures | None = None


def plain_body(request: Request) -> Body:
    """The request without pruning: our options gone, its contexts inserted whole."""
    contexts = request.options.context_documents()
    return request.protocol.insert_contexts(request.body, contexts) if contexts else request.body
