"""The lines of a page with what the markup says about each: what `main_content` decides over."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.markup import Markup
from tokenprune.score import page_rules as rules
from tokenprune.segment.html_tags import attributes
from tokenprune.segment.word_counts import word_count

PLAIN, OFF, ASIDE, CONTENT, BYLINE = range(5)
_PART = re.compile(r"[A-Za-z]+")
_IN_PAGE = re.compile(r"\bhref\s*=\s*[\"']?#", re.I)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@lru_cache(maxsize=8192)
def role_of(tag: str, source: str) -> int:
    """Tell what an element is for by its tag, ARIA role, microdata and names.

    Args:
        tag: its name.
        source: source of its attributes.

    Returns:
        OFF: furniture. ASIDE: comments or a gallery. CONTENT: holds the text. BYLINE: who and when.
    """
    if tag in rules.OFF_TAGS:
        return OFF
    found = attributes(source) if source else {}
    role = found.get("role", "").lower()
    if role in rules.OFF_ROLES or found.get("aria-modal") == "true":
        return OFF
    itemprop = found.get("itemprop", "").lower()
    if tag in rules.CONTENT_TAGS or role in rules.CONTENT_ROLES or itemprop in rules.CONTENT_PROPERTIES:
        return CONTENT
    names, own = found.get("class", ""), found.get("id", "")
    if own and len(_PART.findall(own)) <= rules.NAME_PARTS:
        names = f"{names} {own}"
    if names:
        names = rules.LAYOUT_NAMES.sub("", _CAMEL.sub("-", names).lower())
        if rules.ASIDE_NAMES.search(names):
            return ASIDE
        if tag != "blockquote" and rules.OFF_NAMES.search(names):  # a quoted tweet is part of the text
            return OFF
        if rules.BYLINE_NAMES.search(names):
            return BYLINE
        if rules.CONTENT_NAMES.search(names):
            return CONTENT
    return BYLINE if itemprop in rules.BYLINE_PROPERTIES else PLAIN


@dataclass
class Lines:
    """One row per line of a page, and one per element; element 0 is the page itself.

    Attributes:
        text: visible text of each line, escaped as in the output.
        node: int64 [l], block element around each line.
        tag: name of that element.
        level: int64 [l], 1 to 6 for headings, else 0.
        words: float64 [l].
        letters: float64 [l].
        link: float64 [l], share of letters inside links and buttons.
        away: float64 [l], share of letters inside links that leave the page.
        prose: float64 [l], words, weighted by how surely they are prose; 0 for short lines and links.
        byline: bool [l], whether most of a short line is named as author, date or credit by inline elements.
        off: bool [l], whether most of a short line is named as furniture by inline elements.
        element_tag: name of each element, "" for the page.
        parent: element around each element; parents come first; the page is its own.
        role: what each element is for, see `role_of`.
    """

    text: list[str]
    node: IntArray
    tag: list[str]
    level: IntArray
    words: FloatArray
    letters: FloatArray
    link: FloatArray
    away: FloatArray
    prose: FloatArray
    byline: BoolArray
    off: BoolArray
    element_tag: list[str]
    parent: list[int]
    role: list[int]

    @classmethod
    def read(cls, markup: Markup) -> Lines:
        """Gather the spans of a page into lines."""
        spans = len(markup.span_text)
        n = int(markup.span_line[-1]) + 1 if spans else 0
        sizes = span_letters(markup)
        letters = np.bincount(markup.span_line, sizes, n)
        first = np.flatnonzero(np.diff(markup.span_line, prepend=-1))
        parts = [markup.span_text[a:b] for a, b in pairwise([*first.tolist(), spans])]
        text = [" ".join("".join(p).split()) for p in parts]
        node = markup.span_node[first] + 1
        element_tag = ["", *markup.tag]
        tag = [element_tag[e] for e in node.tolist()]
        words = np.fromiter(map(word_count, text), dtype=np.float64, count=n)
        links, aways, bylines, offs = _inline_roles(markup)

        def share(flags: list[bool]) -> FloatArray:
            here = np.asarray([*flags, False], dtype=bool)[markup.span_inline]  # -1 is the last
            return np.asarray(np.bincount(markup.span_line, sizes * here, n) / np.maximum(letters, 1))

        link, few = share(links), words < rules.BYLINE_WORDS
        return cls(
            text=text,
            node=node,
            tag=tag,
            level=np.fromiter((rules.HEADINGS.get(t, 0) for t in tag), dtype=np.int64, count=n),
            words=words,
            letters=np.asarray(letters, dtype=np.float64),
            link=link,
            away=share(aways),
            prose=_prose(text, tag, words, link),
            byline=few & (share(bylines) > rules.HALF),
            off=few & (share(offs) > rules.HALF),
            element_tag=element_tag,
            parent=[0, *(p + 1 for p in markup.parent)],
            role=[PLAIN, *map(role_of, markup.tag, markup.attributes)],
        )

    def sums(self, values: FloatArray) -> FloatArray:
        """Sum a column of the lines, float64 [l], over each element and all it holds, float64 [e]."""
        out = np.bincount(self.node, values, len(self.parent)).tolist()
        for e in range(len(out) - 1, 0, -1):
            out[self.parent[e]] += out[e]
        return np.asarray(out)

    def inside(self, elements: Iterable[int]) -> BoolArray:
        """Return which lines stand in any of some elements, bool [l]."""
        out = [False] * len(self.parent)
        for e in elements:
            out[e] = True
        for e in range(1, len(out)):
            out[e] = out[e] or out[self.parent[e]]
        return np.asarray(out, dtype=bool)[self.node]

    def around(self, element: int) -> set[int]:
        """Return an element and all elements around it, without the page."""
        found: set[int] = set()
        while element:
            found.add(element)
            element = self.parent[element]
        return found

    def data_tables(self) -> set[int]:
        """Return the tables with header cells: their cells, links or not, are data."""
        found = set()
        for e, tag in enumerate(self.element_tag):
            if tag == "th":
                while e and self.element_tag[e] != "table":
                    e = self.parent[e]
                found.add(e)
        return found - {0}


def span_letters(markup: Markup) -> IntArray:
    """Return how many letters each span has, int64 [s]."""
    return np.fromiter(
        (len(t.strip()) for t in markup.span_text), dtype=np.int64, count=len(markup.span_text)
    )


def _prose(text: list[str], tag: list[str], words: FloatArray, link: FloatArray) -> FloatArray:
    """Weight the words of lines that are long, punctuated and hold few links by length; 0 for the others."""
    rows = zip(text, tag, words.tolist(), strict=True)
    marked = np.fromiter(
        (w >= rules.MIN_WORDS and t != "title" and (w >= rules.FULL_WORDS or bool(rules.SENTENCE.search(s)))
         for s, t, w in rows), dtype=bool, count=len(text),
    )  # fmt: skip
    sure = marked & (link <= rules.MAX_LINK_SHARE)
    return np.where(sure, words * np.minimum(1.0, words / rules.FULL_WORDS) * (1 - link), 0.0)


def _inline_roles(markup: Markup) -> tuple[list[bool], list[bool], list[bool], list[bool]]:
    """For each inline element: whether it is (in) a link or button, a link elsewhere, a byline, furniture."""
    link: list[bool] = []
    away: list[bool] = []
    byline: list[bool] = []
    off: list[bool] = []
    rows = zip(markup.inline_tag, markup.inline_parent, markup.inline_attributes, strict=True)
    for tag, parent, source in rows:
        up = parent >= 0
        role = role_of(tag, source) if source and tag not in ("html", "body") else PLAIN
        click = tag in ("button", "label") or (tag == "a" and "href" in source.lower())
        link.append(click or (up and link[parent]))
        away.append((click and not _IN_PAGE.search(source)) or (up and away[parent]))
        byline.append(role == BYLINE or tag == "time" or (up and byline[parent]))
        off.append(role in (OFF, ASIDE) or (up and off[parent]))
    return link, away, byline, off
