"""HTML source -> its tags and the texts between them, as columns that know where everything stands.

The source is cut with the rules of the HTML standard's tokenizer (section 13.2.5). Nearly all tags are
plain: a name and attributes without ``<`` or ``>`` in them. So the source is split at every ``<``, tags that
are written alike are read once a page, and only what is left (comments, scripts, a ``>`` in an attribute, a
``<`` that is text) is looked at in its place.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress

import numpy as np
from lxml import etree

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.segment.html_hidden import SILENT, Look, look
from tokenprune.segment.html_sheets import is_for_screens
from tokenprune.segment.html_tags import GENERIC, INLINE, STRUCTURAL, VOID
from tokenprune.segment.invisible import Dropped, drop_invisible, may_hold_invisible

# One attribute list. Possessive throughout: a tag is matched in one pass or not at all.
_VALUE = r"(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|(?![\"'])[^\s>]++)"
_ATTRIBUTES = rf"(?:[\s/]++|=?+[^\s/>=]++(?:\s*+=\s*+{_VALUE}?+)?+|=)*+"
_RAW = "script|style|xmp|iframe|noembed|noframes|title|textarea|template|plaintext"
_TOKEN = re.compile(
    rf"<(?:(?P<comment>!--(?:-?>|[^-]*+(?:-(?!-!?>)[^-]*+)*+(?:--!?>|\Z)))"
    rf"|(?P<raw>{_RAW})(?=[\s/>])(?P<rattr>{_ATTRIBUTES})>"
    rf"|(?P<start>[a-z][^\s/>]*+)(?P<attr>{_ATTRIBUTES})>"
    rf"|(?P<unclosed>[a-z][^\s/>]*+){_ATTRIBUTES}\Z"
    rf"|/(?P<end>[a-z][^\s/>]*+){_ATTRIBUTES}>"
    rf"|(?P<bogus>[!?/][^>]*+>?))",
    re.S | re.I,
)
# A tag, without its brackets, whose values are all in double quotes, or bare: its first ">" ends it.
_PLAIN_TAG = re.compile(
    r"(/?[a-zA-Z][^\s/\"'=]*+)(?:[\s/](?:[^\"'=]*+(?<=[^\s/\"])=(?:\"[^\"]*+\"|[^\s\"'=]++(?=\s|\Z)))*+[^\"'=]*+)?+"
)
_NAME = re.compile(r"/?([a-z][^\s/>]*+)", re.I)
# What may be a tag that the end of the page cut.
_TAGS = (
    GENERIC
    | STRUCTURAL
    | INLINE
    | VOID
    | frozenset(
        "a abbr audio b body button center cite colgroup em font head html i iframe label noscript object"
        " picture s script small span strong style svg template time tt u video".split()
    )
)
_RAW_NAMES = frozenset(_RAW.split("|"))
# Either case is spelled out: only so the search jumps from "</" to "</".
_CLOSE = {
    name: re.compile("</" + "".join(f"[{c}{c.upper()}]" for c in name) + r"(?=[\s/>])[^>]*+>?")
    for name in _RAW_NAMES - {"plaintext"}
}
_SCRIPT_MARK = re.compile(r"<!--|-->|</?script(?=[\s/>])", re.I)
_SHOWN_RAW = frozenset({"title", "textarea", "xmp", "plaintext"})

# How a page says that it is XML; whether it is shows when it is read as that.
_SAYS_XML = re.compile(r"\ufeff?\s*+(?:<\?xml\s|(?:<![^>]*+>\s*+){0,9}<html\s[^>]*?xmlns\s*=)", re.I)
_CDATA = "<![CDATA["

_STYLES = 50  # style elements that are read
WHITE = " \t\n\r\f"

# What a code says beside the name of its tag: it is ``4 * name + kind``. ENDED is a tag that is all of its
# element: of a void one, or with a slash at its end.
OPENS, CLOSES, ENDED, NO_TAG = range(4)
# Places in `Source.names`.
KNOWN = ["", *sorted(_TAGS | _RAW_NAMES | {"math"})]
_PLACES = {name: place for place, name in enumerate(KNOWN)}
_RAW_OPENS = frozenset(4 * _PLACES[name] for name in _SHOWN_RAW)
_FOREIGN = tuple(4 * _PLACES[name] + kind for name in ("svg", "math") for kind in (OPENS, CLOSES))
_LATER, _AS_TEXT = -1, -2  # of what is split off and no plain tag, and of a "<" that is text


@dataclass
class Source:
    """A page as it is written: tag k, then text k, for every k; tag 0 stands for the beginning of the page.

    Comments, declarations and raw-text elements that are not shown count as tags (NO_TAG) as well.

    Attributes:
        source: the page.
        tag: what stands between the brackets of each tag; "" where that is never asked for.
        code: name and kind of each tag.
        text: what stands behind each tag, characters that nobody sees taken out.
        begin: offset of each tag.
        after: where it ends and its text begins.
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
    tag: list[str] = field(default_factory=list)
    code: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    begin: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    verbatim: set[int] = field(default_factory=set)
    cut: int = -1
    names: list[str] = field(default_factory=list)
    looks: dict[str, Look] = field(default_factory=dict)
    styles: list[str] = field(default_factory=list)
    quirks: bool = True
    dropped: list[Dropped] = field(default_factory=list)

    @cached_property
    def xml(self) -> bool:
        """Whether it is XHTML: there, a slash ends any element."""
        return is_xml(self.source)

    @cached_property
    def codes(self) -> IntArray:
        """The codes as int64 [k]."""
        return np.asarray(self.code, dtype=np.int64)

    def attributes(self, k: int) -> str:
        """The attributes of a tag as they are written, "" for none."""
        return attributes_of(self.tag[k]) if self.code[k] & 3 in (OPENS, ENDED) else ""

    @cached_property
    def words(self) -> list[bool]:
        """Whether more than white space stands behind each tag; of raw text and CDATA, always."""
        found = [bool(t) and (not t.isspace() or bool(t.strip(WHITE))) for t in self.text]
        for k in self.verbatim:
            found[k] = True
        for code in _RAW_OPENS.intersection(self.code):
            for k in np.flatnonzero(self.codes == code).tolist():
                found[k] = True
        return found

    @cached_property
    def worded(self) -> BoolArray:
        """The same as an array, bool [k]."""
        return np.asarray(self.words, dtype=bool)

    @cached_property
    def begins(self) -> IntArray:
        return np.asarray(self.begin, dtype=np.int64)

    @cached_property
    def afters(self) -> IntArray:
        return np.asarray(self.after, dtype=np.int64)

    @cached_property
    def stops(self) -> IntArray:
        return np.asarray(self.ends, dtype=np.int64)

    @cached_property
    def ends(self) -> list[int]:
        """Where the words behind each tag end: where the tag itself ends, when there are none."""
        n = len(self.after)
        stops = np.fromiter((*self.begin[1:], len(self.source)), dtype=np.int64, count=n)
        found: list[int] = np.where(self.words, stops, self.after).tolist()
        return found


def attributes_of(tag: str) -> str:
    """Return the attributes of a tag that is written without its brackets; "" where there are none."""
    m = _NAME.match(tag)
    found = tag[m.end() :] if m else ""
    return "" if found.isspace() else found


class _Reader(dict[str, int]):
    """Codes of tags as they are written; what is met first is read."""

    def __init__(self, *, drop_hidden: bool) -> None:
        super().__init__()
        self.names = list(KNOWN)
        self.places = dict(_PLACES)
        self.looks: dict[str, Look] = {}
        self._drop_hidden = drop_hidden

    def __missing__(self, tag: str) -> int:
        m = _PLAIN_TAG.fullmatch(tag)
        if m is None:
            code = _LATER
        else:
            name = m[1].lower()
            code = _LATER if name in _RAW_NAMES else self.read(name, tag, tag[m.end(1) :])
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


def scan(source: str, *, drop_hidden: bool = True) -> Source:
    """Cut a page into tags and texts. Linear in the length of the source.

    Args:
        source: any text without lone surrogates and NUL.
        drop_hidden: whether what tags say about being seen is read, and characters that nobody sees go.
    """
    reader = _Reader(drop_hidden=drop_hidden)
    pieces = source.split("<")
    tags, texts = [""], [pieces[0]]
    add_tag, add_text = tags.append, texts.append
    unended = []
    for piece in pieces[1:]:
        tag, bracket, text = piece.partition(">")
        add_tag(tag)
        add_text(text)
        if not bracket:
            unended.append(len(tags) - 1)
    codes = [NO_TAG, *map(reader.__getitem__, tags[1:])]
    for k in unended:
        codes[k] = _LATER
    n = len(pieces)
    begins = np.cumsum(np.fromiter(map(len, pieces), dtype=np.int64, count=n) + 1)[:-1] - 1
    afters = begins + np.fromiter(map(len, tags), dtype=np.int64, count=n)[1:] + 2
    begin, after = [0, *begins.tolist()], [0, *afters.tolist()]
    result = Source(source, tags, codes, texts, begin, after, names=reader.names, looks=reader.looks)
    if _LATER in codes:
        result = _Mender(result, reader).mend()
    if drop_hidden and may_hold_invisible(source):
        _drop_invisible(result)
    return result


class _Mender:
    """Reads what the split at every "<" has not cut as the standard does."""

    def __init__(self, split: Source, reader: _Reader) -> None:
        self.split, self.reader, self.source = split, reader, split.source
        self.out = Source(self.source, names=split.names, looks=split.looks)
        cdata = _CDATA in self.source and self.out.xml
        self.last_cdata = self.source.rfind("]]>") if cdata else -1  # where the last one ends
        self.foreign, self.counted = 0, 0  # depth of SVG and MathML, and up to which tag of the output

    def mend(self) -> Source:
        """Return the page with every tag in its place."""
        split, out, length = self.split, self.out, len(self.source)
        k = taken = 0
        while True:
            try:
                k = split.code.index(_LATER, k)
            except ValueError:
                break
            match = _TOKEN.match(self.source, split.begin[k])
            if match is None:
                split.code[k] = _AS_TEXT
                k += 1
                continue
            self._take(taken, k)
            position = self._read(match)
            k = taken = bisect_left(split.begin, position, k)
            stop = split.begin[k] if k < len(split.begin) else length
            out.text.append(self.source[position:stop])
        self._take(taken, len(split.code))
        self._join_texts()
        return out

    def _take(self, start: int, stop: int) -> None:
        split, out = self.split, self.out
        if start < stop:
            out.tag += split.tag[start:stop]
            out.code += split.code[start:stop]
            out.text += split.text[start:stop]
            out.begin += split.begin[start:stop]
            out.after += split.after[start:stop]

    def _join_texts(self) -> None:
        """Give each "<" that is text, and what stands behind it, to the text before it."""
        out = self.out
        if _AS_TEXT not in out.code:
            return
        keep = [code != _AS_TEXT for code in out.code]
        places = np.cumsum(keep) - 1
        out.verbatim = {int(places[k]) for k in out.verbatim}
        out.cut = int(places[out.cut]) if out.cut >= 0 else -1
        out.tag, out.code = list(compress(out.tag, keep)), list(compress(out.code, keep))
        out.begin, out.after = list(compress(out.begin, keep)), list(compress(out.after, keep))
        ends = [*out.begin[1:], len(self.source)]
        out.text = [self.source[a:b] for a, b in zip(out.after, ends, strict=True)]

    def _add(self, begin: int, after: int, tag: str = "", code: int = NO_TAG) -> None:
        """Add a tag; its text is still to come."""
        self.out.tag.append(tag)
        self.out.code.append(code)
        self.out.begin.append(begin)
        self.out.after.append(after)

    def _read(self, match: re.Match[str]) -> int:
        """Add what begins at a place of the source; return where it ends."""
        kind, at, end, out = match.lastgroup, match.start(), match.end(), self.out
        if kind == "unclosed":
            # The page was cut inside a tag; what only resembles one ("a <b and ...") is text, and stays.
            if match["unclosed"].lower() in _TAGS:
                self._add(at, end)
                out.dropped.append((at, end, "unclosed-tag"))
                return end
            self._add(at, at)
            out.cut = len(out.code) - 1
            self.split.code[:] = [_AS_TEXT] * len(self.split.code)  # all the rest is text
            return at
        if kind in ("attr", "end"):
            tag = self.source[at + 1 : end - 1]
            name = match["start"] if kind == "attr" else "/" + match["end"]
            self._add(at, end, tag, self.reader.read(name.lower(), tag, match["attr"] or ""))
            return end
        if kind == "rattr":
            return self._read_raw(match)
        if at + len(_CDATA) <= self.last_cdata and self.source.startswith(_CDATA, at):
            text = at + len(_CDATA)
            stop = self.source.index("]]>", text)
            self._add(at, text)
            out.verbatim.add(len(out.code) - 1)
            out.text.append(self.source[text:stop])
            self._add(stop, stop + 3)
            out.dropped += [(at, text, "declaration"), (stop, stop + 3, "declaration")]
            return stop + 3
        out.quirks = out.quirks and self.source[at : at + 9].lower() != "<!doctype"
        self._add(at, end)
        out.dropped.append((at, end, "comment" if kind == "comment" else "declaration"))
        return end

    def _read_raw(self, match: re.Match[str]) -> int:
        """Add a raw-text element."""
        at, position, out = match.start(), match.end(), self.out
        name, attrs = match["raw"].lower(), match["rattr"]
        shown = name in _SHOWN_RAW
        ended = attrs.endswith("/") and (shown or self._in_foreign() or self.out.xml)
        if ended and name != "template":
            self._add(at, position)
            if not shown:
                out.dropped.append((at, position, name))
            return position
        close = _closing(name, self.source, position)
        stop, end = close.span() if close else (len(self.source),) * 2
        if shown:
            tag = self.source[at + 1 : position - 1]
            code = self.reader.read(name, tag, attrs) & ~3  # its own end tag ends it, whatever its slash says
            self._add(at, position, tag, code)
            if name in ("xmp", "plaintext"):
                out.verbatim.add(len(out.code) - 1)
            out.text.append(self.source[position:stop])
            self._add(stop, end, f"/{name}", code + CLOSES)
            return end
        if name == "style" and len(out.styles) < _STYLES:
            # One inside ``noscript`` is not there for people who see the page with scripts.
            seen = self.source.rfind("<noscript", 0, at) <= self.source.rfind("</noscript", 0, at)
            out.styles.append(self.source[position:stop] if seen and is_for_screens(attrs) else "")
        self._add(at, end)
        out.dropped.append((at, end, name))
        return end

    def _in_foreign(self) -> bool:
        """Whether the output so far ends in SVG or MathML, where a slash ends an element."""
        for code in self.out.code[self.counted :]:
            if code in _FOREIGN and (code & 3 == OPENS or self.foreign):
                self.foreign += 1 if code & 3 == OPENS else -1
        self.counted = len(self.out.code)
        return self.foreign > 0


def _closing(name: str, source: str, position: int) -> re.Match[str] | None:
    """The tag that ends a raw-text element; None: it reaches to the end.

    In a comment inside a script, a nested ``<script>`` makes its own end tag not the script's (the "script
    data double escaped" state).
    """
    if name == "template":
        return _template_end(source, position)
    close = _CLOSE[name].search(source, position) if name in _CLOSE else None
    if name != "script" or close is None or source.find("<!--", position, close.start()) < 0:
        return close
    comment = nested = False
    for mark in _SCRIPT_MARK.finditer(source, position):
        kind = mark[0].lower()
        if kind == "<!--":
            comment = True
        elif kind == "-->":
            comment = nested = False
        elif kind == "<script":
            nested = comment
        elif nested:
            nested = False
        else:
            return _CLOSE[name].match(source, mark.start())
    return None


def _template_end(source: str, position: int) -> re.Match[str] | None:
    """The end tag of a template: what stands in it is markup, so templates and scripts may stand in it."""
    depth = 1
    while (match := _TOKEN.search(source, position)) is not None and match.lastgroup != "unclosed":
        position = match.end()
        if match.lastgroup == "rattr":
            name = match["raw"].lower()
            if name == "template":
                depth += 1
            elif not match["rattr"].endswith("/"):
                if (close := _closing(name, source, position)) is None:
                    return None
                position = close.end()
        elif match.lastgroup == "end" and match["end"].lower() == "template":
            depth -= 1
            if not depth:
                return match
    return None


def _drop_invisible(page: Source) -> None:
    """Take characters that nobody sees out of the texts."""
    follows = False  # whether the text so far ends in such a character
    for k, text in enumerate(page.text):
        if text and (follows or not text.isascii() or "&" in text):
            shown, gone, follows = drop_invisible(
                text, page.after[k], entities=k not in page.verbatim, follows=follows
            )
            page.text[k] = shown
            page.dropped += gone
    page.dropped.sort()


def is_xml(source: str) -> bool:
    """Whether a page is XHTML: there, a slash ends any element, and CDATA sections are text."""
    if not _SAYS_XML.match(source) or not ("/>" in source or _CDATA in source):
        return False
    try:
        etree.fromstring(
            source.removeprefix("\ufeff").strip().encode(),
            etree.XMLParser(encoding="utf-8", resolve_entities=False, no_network=True),
        )
    except (etree.XMLSyntaxError, ValueError):
        return False
    return True
