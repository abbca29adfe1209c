"""What the split of a page at every "<" has not cut as the HTML standard does: comments, scripts."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress

import numpy as np

from tokenprune.segment.html_sheets import is_for_screens
from tokenprune.segment.html_source import (
    AS_TEXT,
    CDATA,
    CLOSES,
    ENDED,
    KNOWN,
    LATER,
    NO_TAG,
    OPENS,
    RAW,
    RAW_NAMES,
    SHOWN_RAW,
    TAGS,
    Reader,
    Source,
)
from tokenprune.segment.html_tags import said_by
from tokenprune.segment.invisible import Dropped

# One attribute list. Possessive throughout: a tag is matched in one pass or not at all.
_VALUE = r"(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|(?![\"'])[^\s>]++)"
_ATTRIBUTES = rf"(?:[\s/]++|=?+[^\s/>=]++(?:\s*+=\s*+{_VALUE}?+)?+|=)*+"
_TOKEN = re.compile(
    rf"<(?:(?P<comment>!--(?:-?>|[^-]*+(?:-(?!-!?>)[^-]*+)*+(?:--!?>|\Z)))"
    rf"|(?P<raw>{RAW})(?=[\s/>])(?P<rattr>{_ATTRIBUTES})>"
    rf"|(?P<start>[a-z][^\s/>]*+)(?P<attr>{_ATTRIBUTES})>"
    rf"|(?P<unclosed>[a-z][^\s/>]*+){_ATTRIBUTES}\Z"
    rf"|/(?P<end>[a-z][^\s/>]*+){_ATTRIBUTES}>"
    rf"|(?P<bogus>[!?/][^>]*+>?))",
    re.S | re.I,
)
# Either case is spelled out: only so the search jumps from "</" to "</".
_CLOSE = {
    name: re.compile("</" + "".join(f"[{c}{c.upper()}]" for c in name) + r"(?=[\s/>])[^>]*+>?")
    for name in RAW_NAMES - {"plaintext"}
}
_SCRIPT_MARK = re.compile(r"<!--|-->|</?script(?=[\s/>])", re.I)
_FOREIGN = tuple(4 * KNOWN.index(name) + kind for name in ("svg", "math") for kind in (OPENS, CLOSES))
_SHADOW_ROOT = re.compile(r"\bshadowroot(?:mode)?\s*=\s*[\"']?(?:open|closed)\b", re.I)
_STYLES = 50  # style elements that are read


@dataclass
class _Columns:
    """The columns of `Source` while they grow."""

    tag: list[str] = field(default_factory=list)
    code: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    begin: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    verbatim: set[int] = field(default_factory=set)
    cut: int = -1
    styles: list[str] = field(default_factory=list)
    quirks: bool = True
    dropped: list[Dropped] = field(default_factory=list)


class Mender:
    """Reads what the split at every "<" has not cut as the standard does."""

    def __init__(self, split: Source, reader: Reader) -> None:
        self.split, self.reader, self.source = split, reader, split.source
        self.codes, self.begins, self.afters = (
            split.codes.tolist(),
            split.begins.tolist(),
            split.afters.tolist(),
        )
        self.out = _Columns()
        cdata = CDATA in self.source and split.xml
        self.last_cdata = self.source.rfind("]]>") if cdata else -1  # where the last one ends
        self.foreign, self.counted = 0, 0  # depth of SVG and MathML, and up to which tag of the output

    def mend(self) -> Source:
        """Return the page with every tag in its place."""
        out, length = self.out, len(self.source)
        k = taken = 0
        while True:
            try:
                k = self.codes.index(LATER, k)
            except ValueError:
                break
            match = _TOKEN.match(self.source, self.begins[k])
            if match is None:
                self.codes[k] = AS_TEXT
                k += 1
                continue
            self._take(taken, k)
            position = self._read(match)
            k = taken = bisect_left(self.begins, position, k)
            stop = self.begins[k] if k < len(self.begins) else length
            out.text.append(self.source[position:stop])
        self._take(taken, len(self.codes))
        self._join_texts()
        return Source(
            self.source,
            out.tag,
            np.asarray(out.code, dtype=np.int64),
            out.text,
            np.asarray(out.begin, dtype=np.int64),
            np.asarray(out.after, dtype=np.int64),
            self.reader.names,
            self.reader.looks,
            verbatim=out.verbatim,
            cut=out.cut,
            styles=out.styles,
            quirks=out.quirks,
            dropped=out.dropped,
        )

    def _take(self, start: int, stop: int) -> None:
        split, out = self.split, self.out
        if start < stop:
            out.tag += split.tag[start:stop]
            out.code += self.codes[start:stop]
            out.text += split.text[start:stop]
            out.begin += self.begins[start:stop]
            out.after += self.afters[start:stop]

    def _join_texts(self) -> None:
        """Give each "<" that is text, and what stands behind it, to the text before it."""
        out = self.out
        if AS_TEXT not in out.code:
            return
        keep = [code != AS_TEXT for code in out.code]
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
            if match["unclosed"].lower() in TAGS:
                self._add(at, end)
                out.dropped.append((at, end, "unclosed-tag"))
                return end
            self._add(at, at)
            out.cut = len(out.code) - 1
            self.codes[:] = [AS_TEXT] * len(self.codes)  # all the rest is text
            return at
        if kind in ("attr", "end"):
            tag = self.source[at + 1 : end - 1]
            name = match["start"] if kind == "attr" else "/" + match["end"]
            code = self.reader.read(name.lower(), tag, match["attr"] or "")
            said = said_by(name.lower(), match["attr"]) if kind == "attr" else None
            if said is None:
                self._add(at, end, tag, code)
                return end
            start, stop = (match.start("attr") + place for place in said)
            self._add(at, start, tag, code)
            out.text.append(self.source[start:stop])
            # What is left of the tag: of a void one once more, as words on both sides are apart.
            self._add(stop, end, "input", code) if code & 3 == ENDED else self._add(stop, end)
            return end
        if kind == "rattr":
            return self._read_raw(match)
        if at + len(CDATA) <= self.last_cdata and self.source.startswith(CDATA, at):
            text = at + len(CDATA)
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
        if name == "template" and _SHADOW_ROOT.search(attrs):  # what is in it is shown
            tag = self.source[at + 1 : position - 1]
            self._add(at, position, tag, self.reader.read(name, tag, attrs) & ~3)
            return position
        shown = name in SHOWN_RAW
        ended = attrs.endswith("/") and (shown or self._in_foreign() or self.split.xml)
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
            inside = self._last(0, at) > self._last(1, at)
            out.styles.append(self.source[position:stop] if not inside and is_for_screens(attrs) else "")
        self._add(at, end)
        out.dropped.append((at, end, name))
        return end

    @cached_property
    def _noscripts(self) -> tuple[list[int], list[int]]:
        """Where ``noscript`` elements start and end."""
        starts, ends = (
            [m.start() for m in re.finditer(tag, self.source)] for tag in ("<noscript", "</noscript")
        )
        return starts, ends

    def _last(self, which: int, at: int) -> int:
        """Where the last of these stands before a place, -1 for none."""
        places = self._noscripts[which]
        found = bisect_left(places, at)
        return places[found - 1] if found else -1

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
