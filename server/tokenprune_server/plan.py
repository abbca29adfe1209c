"""How a request stands before anything is pruned: its documents sorted, counted and weighed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tokenprune.budget import Budget
from tokenprune.receipt import PruneResult
from tokenprune_server.decide import Facts
from tokenprune_server.gate import History, Weighing, turn_path
from tokenprune_server.protocols.base import Body, Context, Job, Path, Span
from tokenprune_server.request import Fresh, Request
from tokenprune_server.rescue import StandIn


@dataclass(frozen=True, slots=True)
class Shared:
    """A document that came before with another question, in the form it has for every question."""

    span: Span
    text: str
    tokens: int
    result: PruneResult | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request stands before pruning.

    Attributes:
        request: the request.
        history: its turns that are sent again as they were.
        contexts: documents that came beside its messages.
        jobs: its other documents, with the question of each prompt.
        facts: for `decide`.
        tokens: of each document of ``jobs``.
        context_tokens: of the contexts.
        shared: those documents of ``jobs`` that are not pruned for the question.
        budget: for the others.
        later: tokens that the request lets stay, where that is seen to behind a pipeline that prunes nothing.
        too_long: tokens of the prompt when it does not fit the model's context.
        weighing: what pruning would gain; None when nobody asks.
        lean: documents without what no question needs, where the prompt is too long with it and fits without.
        stand_in: what prunes in place of the method asked for, which cannot; None for most.
    """

    request: Request
    history: History
    contexts: tuple[Context, ...]
    jobs: tuple[Job, ...]
    facts: Facts
    tokens: dict[Span, int] = field(default_factory=dict)
    context_tokens: int = 0
    shared: tuple[Shared, ...] = ()
    budget: Budget | None = None
    later: int | None = None
    too_long: int | None = None
    weighing: Weighing | None = None
    lean: Mapping[Span, Shared] = field(default_factory=dict)
    stand_in: StandIn | None = None

    @property
    def base(self) -> Body:
        """The body without any pruning for the question; contexts are not in it."""
        return self.body([(shared.span, shared.text) for shared in self.shared])

    @property
    def results(self) -> list[PruneResult]:
        """How the shared documents were pruned."""
        return [shared.result for shared in self.shared if shared.result is not None]

    @property
    def before(self) -> int:
        """Tokens of all documents that were counted, replayed ones included."""
        return self.history.tokens[0] + sum(self.tokens.values()) + self.context_tokens

    @property
    def unpruned(self) -> int:
        """Tokens of all these documents when nothing is pruned for the question."""
        saved = sum(self.tokens[shared.span] - shared.tokens for shared in self.shared)
        return self.history.tokens[1] + sum(self.tokens.values()) + self.context_tokens - saved

    def body(self, edits: Sequence[tuple[Span, str]]) -> Body:
        """The body with earlier turns as they were sent and these documents replaced."""
        return self.request.protocol.put_back(self.history.replay(self.request.body), edits)

    def prunable(self) -> list[Job]:
        """The jobs with those documents that may be pruned for the question."""
        shared = {item.span for item in self.shared}
        return [
            Job(job.query, tuple(span for span in job.spans if span not in shared), job.whole_text)
            for job in self.jobs
        ]

    def counts(self, after: Iterable[tuple[Span, int]] = ()) -> dict[Path, tuple[int, int]]:
        """Tokens of the documents by turn, before and after; ``after`` names those that were pruned."""
        kept = dict(self.tokens)
        kept.update((shared.span, shared.tokens) for shared in self.shared)
        kept.update(after)
        sums: dict[Path, tuple[int, int]] = {}
        for span, tokens in self.tokens.items():
            path = turn_path(span.path)
            before, left = sums.get(path, (0, 0))
            sums[path] = before + tokens, left + kept[span]
        return sums

    def fresh(self, counts: dict[Path, tuple[int, int]]) -> Fresh:
        """What may be pruned further; ``counts`` are tokens of the documents by turn, before and after."""
        shared = {turn_path(item.span.path) for item in self.shared}
        closed = frozenset(self.history.replayed) | shared
        beside, obliged = bool(self.contexts), self.facts.obliged
        return Fresh(self.history, self.jobs, counts, closed, beside, obliged, self.later)
