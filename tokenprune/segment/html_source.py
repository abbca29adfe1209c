"""HTML source -> its tags and the texts between them, as columns that know where everything stands.

The source is cut with the rules of the HTML standard's tokenizer (section 13.2.5). Nearly all tags are
plain: a name and attributes without ``<`` or ``>`` in them. So the source is split at every ``<``, tags that
are written alike are read once a page, and only what is left (comments, scripts, a ``>`` in an attribute, a
``<`` that is text) is looked at in its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from lxml import etree
from numpy.typing import NDArray

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.points import NUL, bounds, code_points, from_points, how_many, is_white, listed
from tokenprune.segment.html_hidden import SILENT, Look, look
from tokenprune.segment.html_tags import GENERIC, INLINE, STRUCTURAL, VOID, said_by
from tokenprune.segment.invisible import Dropped, drop_invisible, may_hold_invisible

RAW = "script|style|xmp|iframe|noembed|noframes|title|textarea|template|plaintext"
RAW_NAMES = frozenset(RAW.split("|"))
SHOWN_RAW = frozenset({"title", "textarea", "xmp", "plaintext"})
# A tag, without its brackets, whose values are all in double quotes, or bare: its first ">" ends it.
_PLAIN_TAG = re.compile(
    r"(/?[a-zA-Z][^\s/\"'=]*+)(?:[\s/](?:[^\"'=]*+(?<=[^\s/\"])=(?:\"[^\"]*+\"|[^\s\"'=]++(?=\s|\Z)))*+[^\"'=]*+)?+"
)
_NAME = re.compile(r"/?([a-z][^\s/>]*+)", re.I)
# What may be a tag that the end of the page cut.
TAGS = (
    GENERIC
    | STRUCTURAL
    | INLINE
    | VOID
    | frozenset(
        "a abbr audio b body button center cite colgroup em font head html i iframe label noscript object"
        " picture s script small span strong style svg template time tt u video".split()
    )
)
# How a page says that it is XML; whether it is shows when it is read as that.
_SAYS_XML = re.compile(r"\ufeff?\s*+(?:<\?xml\s|(?:<![^>]*+>\s*+){0,9}<html\s[^>]*?xmlns\s*=)", re.I)
CDATA = "<![CDATA["
_SPEAKING = frozenset(("input", "optgroup"))  # see `said_by`

WHITE = " \t\n\r\f"

# What a code says beside the name of its tag: it is ``4 * name + kind``. ENDED is a tag that is all of its
# element: of a void one, or with a slash at its end.
OPENS, CLOSES, ENDED, NO_TAG = range(4)
# Places in `Source.names`.
KNOWN = ["", *sorted(TAGS | RAW_NAMES | {"math"})]
_PLACES = {name: place for place, name in enumerate(KNOWN)}
_RAW_OPENS = [4 * _PLACES[name] for name in SHOWN_RAW]
LATER, AS_TEXT = -1, -2  # of what is split off and no plain tag, and of a "<" that is text


@dataclass
class Source:
    """A page as it is written: tag k, then text k, for every k; tag 0 stands for the beginning of the page.

    Comments, declarations and raw-text elements that are not shown count as tags (NO_TAG) as well.

    Attributes:
        source: the page.
        tag: what stands between the brackets of each tag; "" where that is never asked for.
        codes: int64 [k], name and kind of each tag.
        text: what stands behind each tag, characters that nobody sees taken out.
        begins: int64 [k], offset of each tag.
        afters: int64 [k], where it ends and its text begins.
        verbatim: texts in which entities are not read.
        cut: a text at the end of the page that begins with what only resembles a tag; -1 for none.
        names: lower-cased name by place.
        looks: what tags, as they are written, say about whether people see their elements.
        styles: the page's style sheets.
        quirks: whether it has no doctype.
        dropped: (start, end, reason) of comments, raw-text elements, declarations and characters that nobody
            sees, ascending.
    """

    source: str
    tag: list[str]
    codes: IntArray
    text: list[str]
    begins: IntArray
    afters: IntArray
    names: list[str]
    looks: dict[str, Look]
    verbatim: set[int] = field(default_factory=set)
    cut: int = -1
    styles: list[str] = field(default_factory=list)
    quirks: bool = True
    dropped: list[Dropped] = field(default_factory=list)

    @cached_property
    def code(self) -> list[int]:
        """The codes as a list."""
        return listed(self.codes)

    @cached_property
    def begin(self) -> list[int]:
        """Where tags begin as a list."""
        return listed(self.begins)

    @cached_property
    def after(self) -> list[int]:
        """Where they end as a list."""
        return listed(self.afters)

    @cached_property
    def xml(self) -> bool:
        """Whether it is XHTML: there, a slash ends any element."""
        return is_xml(self.source)

    def attributes(self, k: int) -> str:
        """The attributes of a tag as they are written, "" for none."""
        return attributes_of(self.tag[k]) if self.code[k] & 3 in (OPENS, ENDED) else ""

    @cached_property
    def joined(self) -> str:
        """The texts, NUL between them."""
        return NUL.join(self.text)

    @cached_property
    def has_words(self) -> BoolArray:
        """Whether more than white space stands behind each tag, bool [k]; of raw text and CDATA, always."""
        points = code_points(self.joined)
        found: BoolArray = how_many(~is_white(points), *bounds(points)) > 0
        found[list(self.verbatim)] = True
        found[np.isin(self.codes, _RAW_OPENS)] = True
        return found

    @cached_property
    def words(self) -> list[bool]:
        """The same as a list."""
        found: list[bool] = self.has_words.tolist()
        return found

    @cached_property
    def stops(self) -> IntArray:
        """Where the words behind each tag end, int64 [k]: where the tag itself ends, when there are none."""
        found: IntArray = np.where(self.has_words, np.append(self.begins[1:], len(self.source)), self.afters)
        return found

    @cached_property
    def ends(self) -> list[int]:
        """The same as a list."""
        return listed(self.stops)


def attributes_of(tag: str) -> str:
    """Return the attributes of a tag that is written without its brackets; "" where there are none."""
    m = _NAME.match(tag)
    found = tag[m.end() :] if m else ""
    return "" if found.isspace() else found


class Reader(dict[str, int]):
    """Codes of tags as they are written; what is met first is read."""

    def __init__(self, *, drop_hidden: bool) -> None:
        super().__init__(_BARE)
        self.names = list(KNOWN)
        self.places = dict(_PLACES)
        self.looks: dict[str, Look] = {}
        self._drop_hidden = drop_hidden

    def __missing__(self, tag: str) -> int:
        m = _PLAIN_TAG.fullmatch(tag)
        if m is None:
            code = LATER
        else:
            name = m[1].lower()
            attrs = tag[m.end(1) :]
            later = name in RAW_NAMES or (name in _SPEAKING and said_by(name, attrs) is not None)
            code = LATER if later else self.read(name, tag, attrs)
        self[tag] = code
        return code

    def read(self, name: str, tag: str, attrs: str) -> int:
        """The code of a tag; its name is given lower-cased, with a slash when it is an end tag."""
        kind = OPENS
        if name[0] == "/":
            name = name[1:]
            kind = NO_TAG if name in VOID and name != "br" else CLOSES
        else:
            if (attrs or name in SILENT) and self._drop_hidden and (seen := look(name, attrs)) is not None:
                self.looks[tag] = seen
            if name in VOID or attrs.endswith("/"):
                kind = ENDED
        place = self.places.get(name)
        if place is None:
            place = self.places[name] = len(self.names)
            self.names.append(name)
        return 4 * place + kind


# Tags without attributes, for which nothing has to be read.
_BARE: dict[str, int] = {}
for _name in sorted(TAGS - RAW_NAMES - SILENT):
    _plain = Reader(drop_hidden=False)
    _BARE[_name] = _plain.read(_name, _name, "")
    _BARE[f"/{_name}"] = _plain.read(f"/{_name}", f"/{_name}", "")


def scan(source: str, *, drop_hidden: bool = True) -> Source:
    """Cut a page into tags and texts. Linear in the length of the source.

    Args:
        source: any text without lone surrogates and NUL.
        drop_hidden: whether what tags say about being seen is read, and characters that nobody sees go.
    """
    from tokenprune.segment.html_mender import Mender

    reader = Reader(drop_hidden=drop_hidden)
    points = code_points(source)
    begins = np.flatnonzero(points == ord("<"))
    stops = np.append(begins[1:], len(source))
    closing = np.append(np.flatnonzero(points == ord(">")), len(source))
    ends = closing[np.searchsorted(closing, begins)]
    ended = ends < stops
    marked: NDArray[Any] = points.copy()
    marked[begins] = marked[ends[ended]] = 0
    if not ended.all():
        marked = np.insert(marked, stops[~ended], 0)
    parts = from_points(marked).split(NUL)
    tags = ["", *parts[1::2]]
    codes = np.fromiter(map(reader.__getitem__, tags), dtype=np.int64, count=len(tags))
    codes[0], codes[1:][~ended] = NO_TAG, LATER
    begins, afters = np.append(0, begins), np.append(0, np.where(ended, ends + 1, stops))
    result = Source(source, tags, codes, parts[::2], begins, afters, reader.names, reader.looks)
    if (codes == LATER).any():
        result = Mender(result, reader).mend()
    if drop_hidden and may_hold_invisible(source, points):
        _drop_invisible(result)
    return result


def _drop_invisible(page: Source) -> None:
    """Take characters that nobody sees out of the texts."""
    follows = False  # whether the text so far ends in such a character
    for k, (text, after) in enumerate(zip(page.text, page.after, strict=True)):
        if text and (follows or not text.isascii() or "&" in text):
            shown, gone, follows = drop_invisible(
                text, after, entities=k not in page.verbatim, follows=follows
            )
            page.text[k] = shown
            page.dropped += gone
    page.dropped.sort()


def is_xml(source: str) -> bool:
    """Whether a page is XHTML: there, a slash ends any element, and CDATA sections are text."""
    if not _SAYS_XML.match(source) or not ("/>" in source or CDATA in source):
        return False
    try:
        etree.fromstring(
            source.removeprefix("\ufeff").strip().encode(),
            etree.XMLParser(encoding="utf-8", resolve_entities=False, no_network=True),
        )
    except (etree.XMLSyntaxError, ValueError):
        return False
    return True
