"""A cleaned page: a flat list of tags and texts, how its text is written, and how its words are counted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tokenprune.segment.invisible import Dropped

_AMPERSAND = re.compile(r"&(?=[a-zA-Z0-9#]|\Z)")
_LESS = re.compile(r"<(?=[a-zA-Z/!?]|\Z)")
_NONASCII_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

OPEN, CLOSE, TEXT, BREAK = range(4)


def word_count(text: str) -> int:
    """Count words; of scripts without spaces, one per two characters; of a long blob, one per ten."""
    words = text.split()
    count = len(words)
    if len(text) > 10 * count or not text.isascii():
        count = max(count, len(_NONASCII_WORD.findall(text)) // 2, len(text) // 25)
    return count


@dataclass
class CleanPage:
    """A cleaned page as a flat list of events in source order.

    Attributes:
        kind: OPEN, CLOSE, TEXT or BREAK (a ``<br>``) of each event.
        node: the element an event opens or closes; for the others the element around it.
        text: output of each event: a tag, or escaped text.
        begin: where the event's source starts; ascending.
        after: where it ends.
        tag: name of each element.
        parent: element around each element, -1 at the top.
        alive: whether an element's tags are in the output.
        bare: whether an element holds words, line breaks or inline elements of its own; the last is the top
            of the page.
        dropped: (start, end, reason) of source ranges that are not in the output, ascending.
    """

    kind: list[int] = field(default_factory=list)
    node: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    begin: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    tag: list[str] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    alive: list[bool] = field(default_factory=list)
    bare: list[bool] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def truncate(self, at: int) -> None:
        """Forget all events from ``at`` on."""
        for column in (self.kind, self.node, self.text, self.begin, self.after):
            del column[at:]


def escape_text(text: str) -> str:
    """Escape only what would read as markup: fewer tokens than escaping every sign, and it parses back."""
    if "&" in text:
        text = _AMPERSAND.sub("&amp;", text)
    return _LESS.sub("&lt;", text) if "<" in text else text
