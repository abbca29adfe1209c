"""Documents: what goes in and what comes out. No logic here needs a model."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from tokenprune.detect import detect_kind
from tokenprune.errors import DocumentError

Kind = Literal["html", "text", "triples", "examples", "chat"]
KINDS: tuple[str, ...] = get_args(Kind)

# What begins so holds no text that could be pruned. Zip is also what office documents are.
_BINARY = {
    b"%PDF-": "a PDF", b"PK\x03\x04": "a zip archive or an office document", b"\x1f\x8b": "gzip data",
    b"\xd0\xcf\x11\xe0": "an office document", b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture", b"\x7fELF": "a program", b"SQLite format 3": "a database",
}  # fmt: skip

_COMMENT = re.compile(rb"<!--.*?-->", re.S)
_HEAD = 20_000  # bytes in which a declaration is looked for
# Of characters beyond ASCII so many to one that does not fit make an encoding the right one.
_FITS = 4
# What browsers take a label for (WHATWG Encoding, section 4.2): encodings that hold those of the label.
_READ_AS = {
    "ascii": "windows-1252", "iso8859-1": "windows-1252", "iso8859-9": "windows-1254", "iso8859-11": "cp874",
    "tis-620": "cp874", "shift_jis": "cp932", "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030",
    "big5": "big5hkscs", "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8",
}  # fmt: skip
_OTHER_LABELS = {
    "x-sjis": "cp932", "windows-31j": "cp932", "ms_kanji": "cp932", "x-gbk": "gb18030",
    "ks_c_5601-1987": "cp949", "windows-949": "cp949", "x-x-big5": "big5hkscs", "cn-big5": "big5hkscs",
    "x-euc-jp": "euc_jp", "x-mac-roman": "mac_roman", "x-mac-cyrillic": "mac_cyrillic",
    "x-cp1250": "cp1250", "x-cp1251": "cp1251", "x-cp1252": "cp1252", "unicode-1-1-utf-8": "utf-8",
    "dos-874": "cp874", "iso-8859-8-i": "iso8859-8", "gb_2312-80": "gb18030",
}  # fmt: skip
# Python's codecs that are no encodings of pages.
_NO_PAGES = frozenset("utf-7 idna punycode unicode-escape raw-unicode-escape undefined utf-32".split())


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
        if not isinstance(data, bytes | bytearray | memoryview):
            raise DocumentError(f"Document.from_bytes takes bytes, not {type(data).__name__}")
        data = bytes(data)
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
    then what an XML or HTML declaration says, read as browsers read that label; then UTF-8 or the declared
    encoding if nearly all fits, with U+FFFD for what does not; then Windows-1252.
    """
    from bs4.dammit import EncodingDetector

    stripped, marked = EncodingDetector.strip_byte_order_mark(data)
    if marked:
        return stripped.decode(marked, errors="replace")
    said = EncodingDetector.find_declared_encoding(_COMMENT.sub(b"", stripped[:_HEAD]), is_html=True) or ""
    declared = _as_browsers_read(said)
    # Only in these does ASCII not mean itself, so that valid UTF-8 proves nothing.
    shifting = declared.startswith(("iso2022", "hz"))
    names = [name for name in (declared if shifting else "", "utf-8", declared) if name]
    for name in names:
        try:
            return stripped.decode(name)
        except (ValueError, LookupError):
            continue
    for name in names:
        try:
            text = stripped.decode(name, errors="replace")
        except (ValueError, LookupError):
            continue
        if len(text) - len(text.encode("ascii", "ignore")) >= _FITS * text.count("\ufffd"):
            return text
    return stripped.decode("windows-1252", errors="replace")


def _as_browsers_read(label: str) -> str:
    """Python's name of the encoding that browsers take a label for; "" for none that is one of text."""
    label = label.strip().lower()
    try:
        found = codecs.lookup(_OTHER_LABELS.get(label, label))
    except (LookupError, ValueError):
        return ""
    return "" if found.name in _NO_PAGES else _READ_AS.get(found.name, found.name)
