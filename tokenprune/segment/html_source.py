"""HTML source -> a repaired, cleaned stream of tags and text that knows where it came from.

libxml2 repairs broken markup but forgets offsets. So the source is scanned first, with the rules of the HTML
standard's tokenizer (section 13.2.5), and each tag is replaced by one that carries only its number; text that
does not follow a start tag gets a comment with its number. libxml2 then reports repaired events in source
order and every event can be traced back. Comments, attributes and raw-text elements of the page never reach
libxml2, so a page cannot forge a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Protocol, TypeVar, cast

from lxml import etree

from tokenprune.segment.html_hidden import SILENT, Look, look
from tokenprune.segment.html_reach import Reach, reach
from tokenprune.segment.html_sheets import Rule, Sheet, is_for_screens, read_sheet
from tokenprune.segment.html_tags import GENERIC, INLINE, STRUCTURAL, VOID
from tokenprune.segment.invisible import drop_invisible, may_hold_invisible
from tokenprune.tokens import sanitize

# One attribute list. Possessive throughout: a tag is matched in one pass or not at all.
_VALUE = r"(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|(?![\"'])[^\s>]++)"
_ATTRIBUTES = rf"(?:[\s/]++|=?+[^\s/>=]++(?:\s*+=\s*+{_VALUE}?+)?+|=)*+"
_RAW = "script|style|xmp|iframe|noembed|noframes|title|textarea|template|plaintext"
_TOKEN = re.compile(
    rf"<(?:(?P<comment>!--(?:-?>|.*?(?:--!?>|\Z)))"
    rf"|(?P<raw>{_RAW})(?=[\s/>])(?P<rattr>{_ATTRIBUTES})>"
    rf"|(?P<start>[a-z][^\s/>]*+)(?P<attr>{_ATTRIBUTES})>"
    rf"|(?P<unclosed>[a-z][^\s/>]*+){_ATTRIBUTES}\Z"
    rf"|/(?P<end>[a-z][^\s/>]*+){_ATTRIBUTES}>"
    rf"|(?P<bogus>[!?/][^>]*+>?))",
    re.S | re.I,
)
_START = re.compile(r"<([a-z][^\s/>]*+)", re.I)
_MISPLACED = frozenset(("html", "head", "body", "frameset"))
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
_CLOSE = {
    name: re.compile(rf"</{name}(?=[\s/>])[^>]*+>?", re.I) for name in _RAW.split("|") if name != "plaintext"
}
_SCRIPT_MARK = re.compile(r"<!--|-->|</?script(?=[\s/>])", re.I)
_SHOWN_RAW = frozenset({"title", "textarea", "xmp", "plaintext"})
_FOREIGN = frozenset(("svg", "math"))

# How a page says that it is XML; whether it is shows when it is read as that.
_SAYS_XML = re.compile(r"\ufeff?\s*+(?:<\?xml\s|(?:<![^>]*+>\s*+){0,9}<html\s[^>]*?xmlns\s*=)", re.I)
_CDATA = "<![CDATA["

_STYLES = 50  # style elements that are read

NUMBER = "tp-n"
_WHITE = " \t\n\r\f"


def _closing(name: str, source: str, position: int) -> re.Match[str] | None:
    """The tag that ends a raw-text element; None: it reaches to the end.

    In a comment inside a script, a nested ``<script>`` makes its own end tag not the script's (the "script
    data double escaped" state).
    """
    if name == "template":
        return _template_end(source, position)
    if name != "script":
        return _CLOSE[name].search(source, position) if name in _CLOSE else None
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


@dataclass
class Scan:
    """The marked source and what each mark means.

    Attributes:
        marked: the source as libxml2 reads it.
        begin: where each numbered start tag or text run begins in the original.
        text: where the text behind it begins (for a text run: where the run begins).
        end: where that text ends.
        attrs: attribute source of numbered start tags that have any; empty for text runs.
        looks: what numbered start tags say about whether people see their elements.
        sheet: what the page's style elements say about that.
        rules: which rule of the sheet a look comes from.
        tags: (number, name) of start tags, (-1, name) of end tags and (number, "") of text runs.
        foreign: whether the page holds SVG or MathML.
        quirks: whether it has no doctype.
        reach: what all this makes unseen.
        dropped: (start, end, reason) of comments, raw-text elements, declarations and characters that nobody
            sees, ascending.
    """

    marked: str = ""
    begin: list[int] = field(default_factory=list)
    text: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    attrs: dict[int, str] = field(default_factory=dict)
    looks: dict[int, Look] = field(default_factory=dict)
    dropped: list[tuple[int, int, str]] = field(default_factory=list)
    sheet: Sheet | None = None
    rules: dict[int, Rule] = field(default_factory=dict)
    tags: list[tuple[int, str]] = field(default_factory=list)
    foreign: bool = False
    quirks: bool = True
    reach: Reach = field(default_factory=lambda: Reach({}, {}))

    def settle(self) -> None:
        """Find out what is not seen, from all that is said about it."""
        if self.foreign or any(look.may_hide for look in self.looks.values()):
            followed = [end > text for text, end in zip(self.text, self.end, strict=True)]
            self.reach = reach(self.tags, self.looks, self.rules, self.attrs, followed, quirks=self.quirks)
        else:
            self.reach = Reach({}, {})

    def follow(self, source: str, sheet: Sheet) -> None:
        """Let the rules of a style sheet, and of no other, hide elements."""
        for mark in self.rules:
            del self.looks[mark]
            if said := look(_tag_at(source, self.begin[mark]), self.attrs.get(mark, "")):
                self.looks[mark] = said
        self.sheet, self.rules = sheet, {}
        for mark in range(len(self.begin)) if sheet.tags else self.attrs:
            attrs = self.attrs.get(mark, "")
            if sheet.concerns(attrs) and (rule := sheet.match(_tag_at(source, self.begin[mark]), attrs)):
                self.looks[mark] = sheet.look(rule, self.looks.get(mark))
                self.rules[mark] = rule
        self.settle()


def _counts(attrs: str, source: str, at: int) -> bool:
    """Whether people see the page with a style sheet, which one inside ``noscript`` is not there for."""
    return is_for_screens(attrs) and source.rfind("<noscript", 0, at) <= source.rfind("</noscript", 0, at)


def _tag_at(source: str, at: int) -> str:
    m = _START.match(source, at)
    return m[1].lower() if m else ""


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


def scan(source: str, *, drop_hidden: bool = True) -> Scan:
    """Number every start tag and text run of a page. Linear in the length of the source.

    Args:
        source: any text.
        drop_hidden: whether elements and characters that people do not see are marked and dropped.
    """
    result = Scan()
    styles: list[str] = []
    invisible = drop_hidden and may_hold_invisible(source)
    follows = False  # whether the text so far ends in a character that nobody sees
    parts: list[str] = []
    add, tags = parts.append, result.tags
    position, length = 0, len(source)
    after_tag = False  # whether a numbered start tag stands right before: its text needs no number of its own
    xml = is_xml(source)
    last_cdata = source.rfind("]]>") if xml else -1  # where the last one ends
    foreign = 0  # depth of SVG and MathML, where a slash ends an element

    def number(at: int, text: int) -> int:
        result.begin.append(at)
        result.text.append(text)
        result.end.append(text)
        return len(result.begin) - 1

    def shown(start: int, stop: int, *, entities: bool = True) -> str:
        nonlocal follows
        text = source[start:stop]
        if invisible and (follows or not text.isascii() or "&" in text):
            text, gone, follows = drop_invisible(text, start, entities=entities, follows=follows)
            result.dropped += gone
        return text

    def see(mark: int, tag: str, attrs: str) -> None:
        if attrs and not attrs.isspace():
            result.attrs[mark] = attrs
        elif tag not in SILENT:
            return
        if drop_hidden and (seen := look(tag, attrs)) is not None:
            result.looks[mark] = seen

    def write_text(until: int) -> None:
        text = shown(position, until) if invisible else source[position:until]
        if text and (not text.isspace() or text.strip(_WHITE)):
            if not after_tag:
                mark = number(position, position)
                tags.append((mark, ""))
                add(f"<!--{mark}-->")
            result.end[-1] = until
        add(text)

    match = _TOKEN.search(source)
    while match is not None:
        kind, at = match.lastgroup, match.start()
        if at > position:
            write_text(at)
        position = match.end()
        if kind == "unclosed":
            # The page was cut inside a tag; what only resembles one ("a <b and ...") is text, and stays.
            if match["unclosed"].lower() in _TAGS:
                result.dropped.append((at, length, "unclosed-tag"))
            else:
                position = at
            break
        after_tag = False
        if kind == "attr":
            attrs = match["attr"]
            mark = number(at, position)
            ended = attrs.endswith("/")
            add(f"<{match['start']} {NUMBER}={mark} {'/' if ended else ''}>")
            # libxml2 ignores a misplaced one of these, and ends one with a slash at once (which browsers do
            # not): then the text behind it needs its own number.
            tag = match["start"].lower()
            after_tag = tag not in _MISPLACED and (not ended or tag in VOID)
            tags.append((mark, tag))
            if attrs or tag in SILENT:
                see(mark, tag, attrs)
            if ended and xml and tag not in VOID:
                tags.append((-1, tag))
            if tag in _FOREIGN:
                result.foreign = drop_hidden
                foreign += not ended
        elif kind == "end":
            tag = match["end"].lower()
            if foreign and tag in _FOREIGN:
                foreign -= 1
            tags.append((-1, tag))
            add(f"</{match['end']}>")
        elif kind == "rattr":
            name = match["raw"].lower()
            ended = match["rattr"].endswith("/") and (xml or foreign > 0 or name in _SHOWN_RAW)
            if name == "template" or not ended:
                close = _closing(name, source, position)
                stop = close.start() if close else length
                if name in _SHOWN_RAW:
                    mark = number(at, position)
                    result.end[mark] = stop
                    tag = name if name in ("title", "textarea") else "pre"
                    body = shown(position, stop, entities=tag == name)
                    if tag != name:
                        body = escape(body, quote=False)
                    add(f"<{tag} {NUMBER}={mark}>{body}</{tag}>")
                    tags.append((mark, name))
                    see(mark, name, match["rattr"])
                    if name != "plaintext":
                        tags.append((-1, name))
                if name == "style" and len(styles) < _STYLES:
                    styles.append(source[position:stop] if _counts(match["rattr"], source, at) else "")
                position = close.end() if close else length
            if name not in _SHOWN_RAW:
                result.dropped.append((at, position, name))
        elif at + len(_CDATA) <= last_cdata and source.startswith(_CDATA, at):
            text = at + len(_CDATA)
            stop = source.index("]]>", text)
            result.dropped.append((at, text, "declaration"))
            body = shown(text, stop, entities=False)
            mark = number(text, text)
            result.end[mark] = stop
            tags.append((mark, ""))
            add(f"<!--{mark}-->{escape(body, quote=False)}")
            position = stop + 3
            result.dropped.append((stop, position, "declaration"))
        else:
            result.quirks = result.quirks and source[at : at + 9].lower() != "<!doctype"
            result.dropped.append((at, position, "comment" if kind == "comment" else "declaration"))
        match = _TOKEN.search(source, position)
    if position < length:
        if match is None:
            write_text(length)
        else:
            after_tag = False
            mark = number(position, position)
            tags.append((mark, ""))
            add(f"<!--{mark}-->" + shown(position, length).replace("<", "&lt;"))
            result.end[-1] = length
    result.marked = "".join(parts)
    if drop_hidden and styles and (sheet := read_sheet("\n".join(styles))):
        result.follow(source, sheet)
    else:
        result.settle()
    return result


class Target(Protocol):
    """What libxml2's events are sent to; see lxml's parser target interface."""

    scan: Scan

    def start(self, tag: str, attrs: Mapping[str, str]) -> None:
        """A start tag, real or implied (then without a number)."""
        ...

    def end(self, tag: str) -> None:
        """An end tag, real or implied."""
        ...

    def data(self, text: str) -> None:
        """A stretch of text with entities decoded; one text may come in several."""
        ...

    def comment(self, text: str) -> None:
        """The number of the text run that follows."""
        ...

    def close(self) -> None:
        """The end of the page."""

    def overdone(self) -> set[Rule]:
        """Rules of style sheets that hid more of the page than a page hides."""
        ...


Reader = TypeVar("Reader", bound=Target)


def parse(source: str, target: Target, *, drop_hidden: bool = True) -> None:
    """Scan and parse a page into a target; any text is accepted."""
    _feed(scan(sanitize(source), drop_hidden=drop_hidden), target)


def read(source: str, make: Callable[[], Reader], *, drop_hidden: bool = True) -> Reader:
    """Scan a page and parse it into a target that ``make`` makes; any text is accepted.

    Once more without the rules of style sheets that turn out to hide too much (see `Target.overdone`).
    """
    source = sanitize(source)
    scanned = scan(source, drop_hidden=drop_hidden)
    for left in (2, 1, 0):
        target = make()
        _feed(scanned, target)
        gone = target.overdone()
        if not gone or scanned.sheet is None:
            break
        scanned.follow(source, scanned.sheet.without(gone) if left else Sheet({}))
    return target


def _feed(scanned: Scan, target: Target) -> None:
    target.scan = scanned
    if scanned.marked.strip(_WHITE):
        # The stubs ask for methods that also take bytes; lxml sends str to a parser fed with markup.
        parser = etree.HTMLParser(target=cast(Any, target), huge_tree=True, encoding="utf-8")
        parser.feed(scanned.marked.encode())
        parser.close()
