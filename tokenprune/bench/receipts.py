"""What the proxy made of a prompt, from its receipt: which evidence is left, and the pruned messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenprune.bench.case import Case
from tokenprune.detect import detect_kind
from tokenprune.quality import reading, share_kept


def texts_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the texts of all messages in order."""
    found = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            found.append(content)
        elif isinstance(content, list):
            found += [str(part["text"]) for part in content if isinstance(part.get("text"), str)]
    return found


def evidence_in(texts: Sequence[str], evidence: Sequence[str]) -> float | None:
    """Return the share of the evidence that stands whole in one of the texts; None without evidence."""
    if not evidence:
        return None
    return share_kept("\n".join(map(_words, texts)), [_words(passage) for passage in evidence])


def _words(text: str) -> str:
    return reading(text, detect_kind(text))


def evidence_left(case: Case, receipt: Mapping[str, Any]) -> float | None:
    """Return the share of the evidence in the pruned prompt.

    What stands in a document counts when it is kept; what stands only outside of the documents was not
    touched. Passages that the prompt does not hold in the first place count as lost.
    """
    if not case.evidence:
        return None
    results = receipt["results"]
    kept = [document["text"] for result in results for document in result["documents"]]
    originals = [text for result in results for text in result["originals"].values()]
    untouched = [p for p in case.evidence if not evidence_in(originals, [p])]
    outside = evidence_in(texts_of(case.messages), untouched) if untouched else 0.0
    touched = [p for p in case.evidence if p not in untouched]
    inside = evidence_in(kept, touched) if touched else 0.0
    assert outside is not None and inside is not None
    return (outside * len(untouched) + inside * len(touched)) / len(case.evidence)


def pruned_messages(
    messages: Sequence[Mapping[str, Any]], receipt: Mapping[str, Any]
) -> list[dict[str, Any]] | None:
    """Return the messages with each original replaced by what is left of it.

    Returns:
        None where an original does not stand in exactly one place of the messages (it came in JSON, or
        several documents are alike): then the pruned prompt is not known from here.
    """
    result: list[dict[str, Any]] = [dict(message) for message in messages]
    for part in receipt["results"]:
        for document in part["documents"]:
            original = part["originals"][document["id"]]
            places = [m for m in result if isinstance(m.get("content"), str) and original in m["content"]]
            if len(places) != 1 or places[0]["content"].count(original) != 1:
                return None
            places[0]["content"] = places[0]["content"].replace(original, document["text"])
    return result
