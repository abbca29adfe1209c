"""The one place that decides whether a request is pruned, and why not."""

from dataclasses import dataclass

PRUNED = "pruned"


def skipped(reason: str) -> str:
    """The decision as it stands in the response header."""
    return f"skipped:{reason}"


def failed(reason: str) -> str:
    """The decision as it stands in the response header."""
    return f"failed:{reason}"


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
    document_tokens: int | None = None
    min_tokens: int | None = None
    budget_tokens: int | None = None
    room_tokens: int | None = None


def skip_reason(facts: Facts) -> str | None:
    """Why the request must not be pruned, or None to go on.

    ============== ==================================================================================
    unauthorized    no valid API key (when keys are set): no CPU for strangers, the upstream answers
    disabled        switched off by the request or by the configuration
    encoding        a content-encoding we do not read, or not a JSON request
    too-large       the body is above ``max_body_bytes``
    below-min-tokens  too short to gain anything
    overloaded      the pruning threads and their queue are full
    few-shot        the prompt is a list of worked examples (questions with their answers)
    no-documents    nothing in the request may be pruned
    whole-text      the task needs all of the text: a summary, a translation, a count
    no-query        there is text, but no question to judge it by
    fits-budget     the documents fit the asked budget as they are
    no-room         even without any document the request would exceed the model's context
    ============== ==================================================================================
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
    if facts.documents == 0 and facts.few_shot:
        return "few-shot"
    if facts.documents == 0:
        return "below-min-tokens" if facts.short_documents else "no-documents"
    if facts.has_query is False:
        return "whole-text" if facts.whole_text else "no-query"
    if _above(facts.min_tokens, facts.document_tokens):
        return "below-min-tokens"
    if facts.room_tokens is not None and facts.room_tokens <= 0:
        return "no-room"
    if facts.budget_tokens is not None and not _above(facts.document_tokens, facts.budget_tokens):
        return "fits-budget"
    if facts.waiting is not None and facts.max_waiting is not None and facts.waiting >= facts.max_waiting:
        return "overloaded"
    return None


def _above(value: int | None, limit: int | None) -> bool:
    return value is not None and limit is not None and value > limit
