"""Documents: what goes in and what comes out. No logic here needs a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from tokenprune.errors import DocumentError

Kind = Literal["html", "text", "triples", "examples", "chat"]
KINDS: tuple[str, ...] = get_args(Kind)

# Enough markup near the start, or a document type, makes a text HTML. A lone "<b>" in prose or a generic
# like "List<String>" must not: so only names that structure a page count, and there must be two of them.
_DOCTYPE = re.compile(r"\s*(?:<\?xml[^>]{0,200}\?>\s*)?<(?:!doctype\s+html|html[\s>])", re.I)
_PAGE_TAG = re.compile(
    r"</?(?:html|head|body|div|p|table|t[rdh]|ul|ol|li|h[1-6]|section|article|main|nav|header|footer|span|a|pre"
    r"|br|form|script|style|dl|d[td]|blockquote)(?:\s[^<>]{0,2000})?/?>",
    re.I,
)
# A short text that begins with one of these is a fragment, also with no other tag: "<p>x".
_FRAGMENT = re.compile(
    r"\s*<(?:p|div|table|ul|ol|li|dl|h[1-6]|section|article|pre|blockquote|body)(?:\s[^<>]{0,2000})?>", re.I
)
# What begins so holds no text that could be pruned. Zip is also what office documents are.
_BINARY = {
    b"%PDF-": "a PDF", b"PK\x03\x04": "a zip archive or an office document", b"\x1f\x8b": "gzip data",
    b"\xd0\xcf\x11\xe0": "an office document", b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture", b"\x7fELF": "a program", b"SQLite format 3": "a database",
}  # fmt: skip
_DETECT_WINDOW = 20_000  # characters looked at: a page shows itself early, and detection must stay cheap


def detect_kind(text: str) -> Literal["html", "text"]:
    """Tell HTML from plain text by a document type or structural tags near the start: one at it, or two."""
    if _DOCTYPE.match(text):
        return "html"
    if "<" not in text:
        return "text"
    window = text[:_DETECT_WINDOW]
    fenced = re.sub(r"```.*?(?:```|\Z)", "", window, flags=re.S)
    tags = sum(1 for _ in _PAGE_TAG.finditer(fenced))
    return "html" if (tags >= 2 or _FRAGMENT.match(text)) and tags * 400 >= len(fenced.strip()) else "text"


@dataclass(frozen=True)
class Document:
    """One piece of context.

    Args:
        text: the content; offsets everywhere are in characters of this string.
        kind: what it is; None means: look (HTML or text).
        id: name used in receipts and `PruneResult.restore`; None lets the pipeline number it.
        title: shown to scorers together with the text; never part of the output.
        metadata: carried along untouched (``language``, a BCP-47 code, steers sentence splitting).

    Raises:
        DocumentError: text is not a string, or the kind is unknown.
    """

    text: str
    kind: Kind | None = None
    id: str | None = None
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise DocumentError(
                f"Document.text must be str, not {type(self.text).__name__}; "
                "use Document.from_bytes for raw bytes"
            )
        if self.id is not None and not isinstance(self.id, str):
            raise DocumentError(f"Document.id must be str, not {type(self.id).__name__}")
        if self.kind is None:
            object.__setattr__(self, "kind", detect_kind(self.text))
        elif self.kind not in KINDS:
            raise DocumentError(f"unknown document kind {self.kind!r}; known kinds: {', '.join(KINDS)}")

    @classmethod
    def from_bytes(cls, data: bytes, **fields: Any) -> Document:
        """Decode bytes of unknown encoding (BOM, XML or HTML declaration, UTF-8, else Windows-1252).

        Raises:
            DocumentError: as for the class, and where the bytes are those of a PDF, an archive, a picture.
        """
        what = next((name for head, name in _BINARY.items() if data.startswith(head)), None)
        if what is not None:
            raise DocumentError(f"this is {what}, not text: extract its text first, and give that")
        return cls(decode(data), **fields)

    def with_text(self, text: str) -> Document:
        """Return this document with other content."""
        return replace(self, text=text)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able mapping."""
        return {
            "id": self.id,
            "kind": self.kind,
            "title": self.title,
            "text": self.text,
            "metadata": dict(self.metadata),
        }


def decode(data: bytes) -> str:
    """Decode bytes to text; never fails.

    A byte order mark decides; then UTF-8 if the bytes are valid as such (many pages declare something else);
    then what an XML or HTML declaration says; then Windows-1252, as browsers do.
    """
    from bs4.dammit import EncodingDetector

    stripped, marked = EncodingDetector.strip_byte_order_mark(data)
    declared = EncodingDetector.find_declared_encoding(stripped, is_html=True) or ""
    # Only in these does ASCII not mean itself, so that valid UTF-8 proves nothing.
    shifting = declared.lower().startswith(("iso-2022", "hz"))
    names = (marked, declared if shifting else "", "utf-8", declared)
    for name in names:
        try:
            if name:
                return stripped.decode(name)
        except (ValueError, LookupError):
            continue
    return stripped.decode("windows-1252", errors="replace")
