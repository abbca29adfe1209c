"""One request of a workload, as an application would send it without pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """A chat request and what is known about its answer.

    Attributes:
        id: unique in its workload.
        messages: OpenAI chat messages with all of the context; the question stands last.
        question: the question alone.
        answers: accepted short answers; empty where nobody knows.
        evidence: passages of the context, verbatim, that the answer needs; empty where nobody knows.
        group: cases of one group begin alike (the same document, the same conversation) and are sent in their
            order; None: the case shares nothing.
        max_tokens: tokens that the answer may have.
        options: what the request asks of the proxy (the ``tokenprune`` field); not sent on the direct route.
    """

    id: str
    messages: tuple[Mapping[str, Any], ...]
    question: str
    answers: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    group: str | None = None
    max_tokens: int = 32
    options: Mapping[str, Any] | None = None
