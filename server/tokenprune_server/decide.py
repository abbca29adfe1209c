"""The one place that decides whether a request is pruned, and why not."""

from dataclasses import dataclass

from tokenprune_server.curve import Curve

PRUNED = "pruned"


def skipped(reason: str) -> str:
    """The decision as it stands in the response header."""
    return f"skipped:{reason}"


def failed(reason: str) -> str:
    """The decision as it stands in the response header."""
    return f"failed:{reason}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What pruning a prompt gains and loses, in tokens as we count them.

    Attributes:
        prefill: seconds of the upstream as a function of tokens that it has not cached.
        prompt_tokens: of the prompt if nothing (more) is pruned.
        saved_tokens: fewer tokens in the pruned prompt; expected before pruning, exact after it.
        cached_tokens: of the prompt, those that are in the upstream's cache.
        cached_tokens_lost: of these, those that the pruned prompt does not find there.
        reuse: probability that the documents come again with another question.
        reuse_tokens: of the prompt, those that would then be in the upstream's cache if it goes unpruned now.
        prune_s: seconds that pruning takes; 0 when it is done.
    """

    prefill: Curve
    prompt_tokens: float
    saved_tokens: float
    cached_tokens: float = 0.0
    cached_tokens_lost: float = 0.0
    reuse: float = 0.0
    reuse_tokens: float = 0.0
    prune_s: float = 0.0

    def gain_s(self) -> float:
        """Seconds by which the first token comes earlier when the prompt is pruned."""
        unpruned = self.prompt_tokens - self.cached_tokens
        return self._faster_s(unpruned, unpruned - self.saved_tokens + self.cached_tokens_lost)

    def gain_cold_s(self) -> float:
        """The same if nothing were cached."""
        return self._faster_s(self.prompt_tokens, self.prompt_tokens - self.saved_tokens)

    def reuse_loss_s(self) -> float:
        """Seconds by which a next question about the same documents is expected to be later."""
        left = self.prompt_tokens - self.reuse_tokens
        return self.reuse * (self.prefill.seconds(self.prompt_tokens) - self.prefill.seconds(left))

    def _faster_s(self, unpruned: float, pruned: float) -> float:
        return self.prefill.seconds(unpruned) - self.prefill.seconds(pruned) - self.prune_s


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a request so far; None stands for not known (yet) and decides nothing.

    Facts come in order of their cost: a first look needs only the request's size and options, a second
    one the located documents, a third one token counts.
    """

    enabled: bool = True
    authorized: bool = True
    readable: bool = True
    body_bytes: int | None = None
    max_body_bytes: int | None = None
    min_body_bytes: int | None = None
    waiting: int | None = None
    max_waiting: int | None = None
    documents: int | None = None
    short_documents: int = 0
    few_shot: int = 0
    has_query: bool | None = None
    whole_text: bool = False
    without_query: bool = False
    document_tokens: int | None = None
    min_tokens: int | None = None
    budget_tokens: int | None = None
    room_tokens: int | None = None
    replayed: int = 0
    shared: int = 0
    obliged: bool = False
    cost: Cost | None = None


def decide(facts: Facts) -> str:
    """The decision as far as the facts go: ``pruned``, or ``skipped:`` with the reason of `skip_reason`."""
    reason = skip_reason(facts)
    return PRUNED if reason is None else skipped(reason)


def skip_reason(facts: Facts) -> str | None:
    """Why the request must not be pruned, or None to go on.

    ============== ==================================================================================
    unauthorized    no valid API key (when keys are set): no CPU for strangers, the upstream answers
    disabled        switched off by the request or by the configuration
    encoding        a content-encoding we do not read, or not a JSON request
    too-large       the body is above ``max_body_bytes``
    below-min-tokens  too short to gain anything
    overloaded      the pruning threads and their queue are full, and the prompt fits the model
    few-shot        the prompt is a list of worked examples (questions with their answers)
    no-documents    nothing in the request may be pruned
    whole-text      the task needs all of the text: a summary, a translation, a count
    no-query        there is text, but no question to judge it by
    fits-budget     the documents fit the asked budget as they are
    no-room         even without any document the request would exceed the model's context
    cached          pruning would change what the upstream has in its prefix cache, and gain less than that
    shared          all documents came before, at the same place and with another question: unpruned they
                    will be in the upstream's cache for the next one
    reuse-expected  documents here mostly come again with other questions (see ``shared``)
    not-worth-it    the prefill that pruning saves takes less time than pruning
    ============== ==================================================================================

    The last four are the gate: saved tokens x prefill cost > prune time + cached tokens lost x prefill cost.
    They do not hold for a request that is ``obliged``: it asks for pruning itself, or does not fit the model.
    ``without_query``: what is asked for needs no question, or the prompt must become shorter in any case.
    """
    if not facts.authorized:
        return "unauthorized"
    if not facts.enabled:
        return "disabled"
    if not facts.readable:
        return "encoding"
    if _above(facts.body_bytes, facts.max_body_bytes):
        return "too-large"
    if _above(facts.min_body_bytes, facts.body_bytes):
        return "below-min-tokens"
    if facts.documents == 0 and facts.replayed:
        return "cached"
    if facts.documents == 0 and facts.few_shot:
        return "few-shot"
    if facts.documents == 0:
        return "below-min-tokens" if facts.short_documents else "no-documents"
    if facts.has_query is False and not facts.without_query:
        return "whole-text" if facts.whole_text else "no-query"
    if facts.shared and facts.shared == facts.documents and not facts.obliged:
        return "cached" if facts.cost is not None and _mostly_cached(facts.cost) else "shared"
    if _above(facts.min_tokens, facts.document_tokens):
        return "below-min-tokens"
    if facts.room_tokens is not None and facts.room_tokens <= 0:
        return "no-room"
    if facts.budget_tokens is not None and not _above(facts.document_tokens, facts.budget_tokens):
        return "fits-budget"
    if facts.waiting is not None and facts.max_waiting is not None and facts.waiting >= facts.max_waiting:
        return "overloaded"
    return None if facts.obliged or facts.cost is None else _not_worth(facts.cost)


def _not_worth(cost: Cost) -> str | None:
    gain = cost.gain_s()
    if gain <= 0:
        return "cached" if cost.gain_cold_s() > 0 else "not-worth-it"
    return "reuse-expected" if gain <= cost.reuse_loss_s() else None


def _mostly_cached(cost: Cost) -> bool:
    return cost.cached_tokens > cost.prompt_tokens / 2


def _above(value: int | None, limit: int | None) -> bool:
    return value is not None and limit is not None and value > limit
