"""HTML source -> a repaired, cleaned stream of tags and text that knows where it came from.

libxml2 repairs broken markup but forgets offsets. So the source is scanned first, with the rules of the HTML
standard's tokenizer (section 13.2.5), and each tag is replaced by one that carries only its number; text that
does not follow a start tag gets a comment with its number. libxml2 then reports repaired events in source
order and every event can be traced back. Comments, attributes and raw-text elements of the page never reach
libxml2, so a page cannot forge a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape, unescape
from typing import Any, Protocol, cast

from lxml import etree

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
_MISPLACED = frozenset(("html", "head", "body", "frameset"))
_TAGS = frozenset(
    "a abbr address article aside audio b blockquote body br button caption center cite code col colgroup dd"
    " div dl dt em fieldset figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe"
    " img input label legend li link main meta nav noscript object ol option p picture pre q s samp script"
    " section select small source span strong style sub summary sup svg table tbody td template textarea"
    " tfoot th thead time title tr tt u ul video".split()
)
_CLOSE = {name: re.compile(rf"</{name}(?=[\s/>])[^>]*+>?", re.I) for name in _RAW.split("|")}
_SCRIPT_MARK = re.compile(r"<!--|-->|</?script(?=[\s/>])", re.I)
_SHOWN_RAW = frozenset({"title", "textarea", "xmp", "plaintext"})
_ATTRIBUTE = re.compile(r"([^\s/>=]++)(?:\s*+=\s*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\s>]++)))?")

# Text hidden from people by inline style is a known way to inject prompts.
_HIDDEN_STYLE = re.compile(
    r"(?<![\w-])(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|font-size\s*:\s*0(?![.\d]*[1-9])"
    r"|opacity\s*:\s*0(?![.\d]*[1-9]))",
    re.I,
)

NUMBER = "tp-n"


def attributes(source: str) -> dict[str, str]:
    """Parse the attribute part of a start tag; names lower-cased, the first of a repeated name wins."""
    found: dict[str, str] = {}
    for m in _ATTRIBUTE.finditer(source):
        found.setdefault(m[1].lower(), m[2] or m[3] or m[4] or "")
    return found


def _hidden(source: str) -> bool:
    lowered = source.lower()
    if "hidden" not in lowered and "style" not in lowered:
        return False
    found = attributes(source)
    return found.get("hidden", "no").lower() not in ("no", "until-found") or bool(
        _HIDDEN_STYLE.search(unescape(found.get("style", "")))
    )


def _closing(name: str, source: str, position: int) -> re.Match[str] | None:
    """The tag that ends a raw-text element; None: it reaches to the end.

    In a comment inside a script, a nested ``<script>`` makes its own end tag not the script's (the "script
    data double escaped" state).
    """
    if name == "plaintext":
        return None
    if name != "script":
        return _CLOSE[name].search(source, position)
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


@dataclass
class Scan:
    """The marked source and what each mark means.

    Attributes:
        marked: the source as libxml2 reads it.
        begin: where each numbered start tag or text run begins in the original.
        text: where the text behind it begins (for a text run: where the run begins).
        end: where that text ends.
        attrs: attribute source of numbered start tags that have any; empty for text runs.
        hidden: numbers of start tags whose element people cannot see.
        dropped: (start, end, reason) of comments, raw-text elements and declarations, ascending.
    """

    marked: str = ""
    begin: list[int] = field(default_factory=list)
    text: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    attrs: dict[int, str] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    dropped: list[tuple[int, int, str]] = field(default_factory=list)


def scan(source: str) -> Scan:
    """Number every start tag and text run of a page. Linear in the length of the source."""
    result = Scan()
    parts: list[str] = []
    add = parts.append
    position, length = 0, len(source)
    after_tag = False  # whether a numbered start tag stands right before: its text needs no number of its own

    def number(at: int, text: int) -> int:
        result.begin.append(at)
        result.text.append(text)
        result.end.append(text)
        return len(result.begin) - 1

    def write_text(until: int) -> None:
        text = source[position:until]
        if not text.isspace():
            if not after_tag:
                add(f"<!--{number(position, position)}-->")
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
            add(f"<{match['start']} {NUMBER}={mark} {'/' if attrs.endswith('/') else ''}>")
            # libxml2 ignores a misplaced one of these, and then the text behind it needs its own number.
            after_tag = match["start"].lower() not in _MISPLACED
            if attrs and not attrs.isspace():
                result.attrs[mark] = attrs
                if _hidden(attrs):
                    result.hidden.add(mark)
        elif kind == "end":
            add(f"</{match['end']}>")
        elif kind == "rattr":
            name = match["raw"].lower()
            if name == "template" or not match["rattr"].endswith("/"):
                close = _closing(name, source, position)
                stop = close.start() if close else length
                if name in _SHOWN_RAW:
                    mark = number(at, position)
                    result.end[mark] = stop
                    tag = name if name in ("title", "textarea") else "pre"
                    body = source[position:stop]
                    if tag != name:
                        body = escape(body, quote=False)
                    add(f"<{tag} {NUMBER}={mark}>{body}</{tag}>")
                    if _hidden(match["rattr"]):
                        result.hidden.add(mark)
                position = close.end() if close else length
            if name not in _SHOWN_RAW:
                result.dropped.append((at, position, name))
        else:
            result.dropped.append((at, position, "comment" if kind == "comment" else "declaration"))
        match = _TOKEN.search(source, position)
    if position < length:
        if match is None:
            write_text(length)
        else:
            after_tag = False
            add(f"<!--{number(position, position)}-->" + source[position:].replace("<", "&lt;"))
            result.end[-1] = length
    result.marked = "".join(parts)
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


def parse(source: str, target: Target) -> None:
    """Scan and parse a page into a target; any text is accepted."""
    target.scan = scanned = scan(sanitize(source))
    if scanned.marked.strip():
        # The stubs ask for methods that also take bytes; lxml sends str to a parser fed with markup.
        parser = etree.HTMLParser(target=cast(Any, target), huge_tree=True, encoding="utf-8")
        parser.feed(scanned.marked.encode())
        parser.close()
