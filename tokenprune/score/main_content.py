"""Main content without a question: how likely each block belongs to what its page is about.

Three steps, each from what is known to work. The container: paragraphs vote for the elements around them
(Readability), the winner widens while what it gains is prose (in the spirit of maximum subsequence
segmentation, Pasternack and Roth 2009). Furniture: parts named so, and lines of links (Kohlschuetter et al.
2010). Context: a short line or a heading is worth what it stands with (jusText, Pomikalek 2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray
from tokenprune.score import page_rules as rules
from tokenprune.score.page_container import find_container, off_lines
from tokenprune.score.page_lines import BYLINE, Lines, span_letters
from tokenprune.units import Units


@dataclass(frozen=True)
class MainContent:
    """Scorer: how likely each unit is content, in [0, 1]; it does not read the question.

    Units need the markup of their page (``HtmlBlocks(markup=True)``); those without one all score 1.
    """

    def score(self, query: str, documents: Sequence[Units]) -> list[FloatArray]:
        """Return one float64 [n] per document."""
        return [_unit_scores(units) for units in documents]


def _unit_scores(units: Units) -> FloatArray:
    """Score the units of one page by their lines: the mean, weighted by letters."""
    markup = units.markup
    if markup is None or not markup.span_text:
        return np.ones(len(units))
    lines = line_scores(Lines.read(markup))[markup.span_line]
    letters = span_letters(markup)
    total = np.bincount(markup.span_unit, letters * lines, len(units))
    return np.asarray(total / np.maximum(np.bincount(markup.span_unit, letters, len(units)), 1))


def line_scores(lines: Lines) -> FloatArray:
    """Score the lines of a page, float64 [l] in [0, 1]; the steps are named in `page_rules`."""
    off = off_lines(lines)
    container, found = find_container(lines, off)
    inside = lines.inside([container])
    title = np.fromiter((t == "title" for t in lines.tag), dtype=bool, count=len(off))
    written = np.fromiter((t in rules.WRITTEN for t in lines.tag), dtype=bool, count=len(off))
    head = lines.level > 0
    prose = lines.prose / np.maximum(lines.words, 1)
    scores = np.where(inside, rules.TEXT + rules.PROSE * prose, rules.OUTSIDE * (1 + prose))
    scores[inside & (lines.words < rules.MIN_WORDS) & ~written & ~head] = rules.LOOSE
    links = _links(lines, container, found)
    scores[inside & links & ~head] = rules.LINKS
    scores[_teasers(lines, inside & ~off)] = rules.LINKS
    scores[_bylines(lines) & ~head] = rules.WHO_AND_WHEN
    scores[off] = rules.FURNITURE
    scores[title] = rules.PAGE_TITLE
    _headings(lines, scores, inside & head & ~off)
    _headline(lines, scores, inside & ~title & ~off, head & ~off, title)
    return scores


def _bylines(lines: Lines) -> BoolArray:
    """Short lines in a short part that is named as author, date or credit, bool [l]."""
    words = lines.sums(lines.words).tolist()
    rows = enumerate(zip(lines.role, words, strict=True))
    parts = [e for e, (role, n) in rows if role == BYLINE and n < 2 * rules.BYLINE_WORDS]
    return (lines.byline | lines.inside(parts)) & (lines.words < rules.BYLINE_WORDS)


def _links(lines: Lines, container: int, found: bool) -> BoolArray:
    """Return which lines are there to be clicked on, bool [l].

    A list or table inside the container is judged as a whole. Without a container the page may be a list of
    products or titles, whose names are links: then only menus go.
    """
    click = lines.link > rules.MAX_LINK_SHARE
    full = lines.sums(lines.letters * (lines.link > rules.ALL_LINK))
    mixed = lines.sums(lines.letters * lines.link) <= rules.MAX_LINK_SHARE * lines.sums(lines.letters)
    total, words = lines.sums(lines.letters), lines.sums(lines.words)
    count = lines.sums(np.ones(len(lines.text)))
    data, around = lines.data_tables(), lines.around(container)
    group = [0] * len(lines.parent)  # outermost list or table inside the container
    for e in range(1, len(group)):
        listing = lines.element_tag[e] in rules.LISTS or lines.element_tag[e] == "table"
        group[e] = group[lines.parent[e]] or (e if listing and e not in around else 0)
    tables = lines.inside(data)
    out = click & ~tables
    for k in np.flatnonzero(~tables).tolist():
        e = int(lines.node[k])
        g = group[e]
        if g:
            menu = full[g] > rules.MAX_LINK_SHARE * total[g]
            if menu and not found:
                menu = words[g] < rules.MENU_WORDS * count[g]
            out[k] = menu and (click[k] or lines.words[k] < rules.MIN_WORDS)
        elif click[k]:
            card = lines.parent[e] if lines.element_tag[e] in rules.WRITTEN else e
            out[k] = found and (card in around or card == 0 or not mixed[card])
    return out


def _teasers(lines: Lines, inside: BoolArray) -> BoolArray:
    """Return lines of other articles' teasers, bool [l]: linked headings in a row, each over a few words.

    Where they hold much of the prose inside, the page is a list of articles, and they are its content.
    """
    rows = np.flatnonzero(inside).tolist()
    heads = [i for i, k in enumerate(rows) if lines.level[k]]
    runs: list[list[int]] = [[]]
    for a, b in pairwise([*heads, len(rows)]):
        card = rows[a:b]
        if lines.away[card[0]] > rules.MAX_LINK_SHARE and lines.words[card[1:]].sum() <= rules.TEASER_WORDS:
            runs[-1].extend((*card, -1))
        else:
            runs.append([])
    teasers = [k for run in runs if run.count(-1) >= rules.TEASERS for k in run if k >= 0]
    out = np.zeros(len(inside), dtype=bool)
    if lines.prose[teasers].sum() <= rules.SECTION * lines.prose[rows].sum():
        out[teasers] = True
    return out


def _headings(lines: Lines, scores: FloatArray, mine: BoolArray) -> None:
    """Let headings be worth the best line that they lead."""
    best = [0.0] * 8  # below the next heading of each level, seen from the end
    levels = lines.level.tolist()
    for k in range(len(levels) - 1, -1, -1):
        level = levels[k]
        if mine[k]:
            empty = rules.LOOSE if lines.link[k] <= rules.MAX_LINK_SHARE else rules.LINKS
            scores[k] = best[level] or empty
            best[level:] = [0.0] * (8 - level)
            level -= 1
        elif not level:
            level = 7
        else:
            continue
        for n in range(1, level + 1):
            best[n] = max(best[n], float(scores[k]))


def _headline(lines: Lines, scores: FloatArray, inside: BoolArray, head: BoolArray, title: BoolArray) -> None:
    """Keep the headline that stands above the container, and the standfirst between the two."""
    if not inside.any():
        return
    first = int(np.flatnonzero(inside)[0])
    name = {w for k in np.flatnonzero(title)[:1].tolist() for w in lines.text[k].lower().split()}

    def is_headline(k: int) -> bool:
        words = lines.text[k].lower().split()
        return not name or sum(w in name for w in words) >= rules.HALF * len(words)

    top = head & (lines.level == 1)
    mine = np.flatnonzero(inside & head).tolist()
    if any(top[k] or (name and is_headline(k)) for k in mine if scores[k] >= rules.HALF):
        return
    above = [k for k in np.flatnonzero(top[:first]).tolist() if is_headline(k)]
    if above:
        scores[above[-1]] = rules.HEADLINE
        between = scores[above[-1] + 1 : first]
        lead = (
            (lines.prose[above[-1] + 1 : first] > 0)
            & (between >= rules.OUTSIDE)
            & (between != rules.WHO_AND_WHEN)
        )
        between[lead] = rules.LOOSE
