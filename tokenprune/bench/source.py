"""What a case is made of: turns whose documents are known, and how applications write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenprune.bench.case import Case
from tokenprune.document import Document

Piece = str | Document
ANSWER_TOKENS = 32  # that an answer may have unless a workload says otherwise


@dataclass(frozen=True)
class Turn:
    """One message.

    Attributes:
        role: of the message.
        pieces: its content in order; documents are what may be pruned, strings stay.
        fields: further keys of the message; ``content`` here takes the place of the pieces.
    """

    role: str
    pieces: tuple[Piece, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)

    def message(self) -> dict[str, Any]:
        """Return the message as it is sent."""
        text = "".join(p if isinstance(p, str) else p.text for p in self.pieces)
        return {"role": self.role, "content": text, **self.fields}


@dataclass(frozen=True)
class Source:
    """A request before it is written: the one place where messages and documents come from.

    Attributes:
        id: unique in its workload.
        question: the question alone.
        turns: messages; the last of a user asks the question.
        answers: see `Case`, as all that follows.
        evidence: verbatim; of HTML, as a reader sees it.
        group: begins alike.
        max_tokens: of the answer.
        options: of the proxy.
    """

    id: str
    question: str
    turns: tuple[Turn, ...]
    answers: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    group: str | None = None
    max_tokens: int = ANSWER_TOKENS
    options: Mapping[str, Any] | None = None

    @property
    def documents(self) -> tuple[Document, ...]:
        """What may be pruned, in order; empty where only the messages were given."""
        return tuple(p for turn in self.turns for p in turn.pieces if isinstance(p, Document))

    def case(self) -> Case:
        """Write the request."""
        return Case(
            id=self.id,
            messages=tuple(turn.message() for turn in self.turns),
            question=self.question,
            answers=self.answers,
            evidence=self.evidence,
            group=self.group,
            max_tokens=self.max_tokens,
            options=self.options,
        )


def context_pieces(documents: Sequence[Document]) -> tuple[Piece, ...]:
    """Write retrieved documents the way RAG applications do.

    One document stands alone behind ``Context:``; several short ones are numbered passages; pages, and texts
    of several paragraphs, whose ends a number does not show, stand in ``<document>`` elements.
    """
    if len(documents) == 1 and not documents[0].title:
        return ("Context:\n", documents[0])
    pieces: list[Piece] = ["Context:\n"]
    tagged = any(d.kind == "html" or "\n\n" in d.text for d in documents)
    for number, document in enumerate(documents, 1):
        title = " ".join((document.title or "").split())
        if tagged:
            quoted = title.replace('"', "'").replace("<", "(").replace(">", ")")
            name = f' title="{quoted}"' if title else ""
            pieces += [f"<document{name}>\n", document, "\n</document>\n"]
        else:
            pieces += [f"[{number}] Title: {title}\n" if title else f"[{number}] ", document, "\n\n"]
    if isinstance(pieces[-1], str):
        pieces[-1] = pieces[-1].rstrip("\n")
    return tuple(pieces)


def question_turn(documents: Sequence[Document], question: str) -> Turn:
    """Return the user's turn: context, empty line, question."""
    return Turn("user", (*context_pieces(documents), f"\n\nQuestion: {question}"))
