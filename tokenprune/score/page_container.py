"""Where on a page its content is: which elements are furniture, and which one holds the text."""

from __future__ import annotations

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray
from tokenprune.score import page_rules as rules
from tokenprune.score.page_lines import ASIDE, CONTENT, OFF, Lines


def off_lines(lines: Lines) -> BoolArray:
    """Return which lines are furniture, bool [l]: in a part named so, or saying so of themselves.

    A part that holds most of the page's prose and its best container is no furniture, whatever its name.
    Comments and galleries can be longer than their article, so they are furniture beside any article; without
    one, as in a forum, they are what the page is about.
    """
    mass = lines.sums(lines.prose)
    total = mass[0]
    named = [e for e, role in enumerate(lines.role) if role == OFF]
    small = [e for e in named if not total or mass[e] <= rules.HALF * total]
    off = lines.off | lines.inside(small)
    if len(small) < len(named):
        around = lines.around(vote(lines, np.where(off, 0, lines.prose)))
        off |= lines.inside(e for e in named if e not in around)
    asides = [e for e, role in enumerate(lines.role) if role == ASIDE]
    for parts in (asides, [e for e in asides if mass[e] <= rules.HALF * total]):
        without = off | lines.inside(parts)
        rest = np.where(without, 0, lines.prose)
        if lines.sums(rest)[vote(lines, rest)] >= rules.MIN_PROSE:
            off = without
            break
    return off | _said_off(lines, np.where(off, 0, lines.prose))


def _said_off(lines: Lines, prose: FloatArray) -> BoolArray:
    """Short lines that say they are not the text ("Advertisement"), and what stands below such headings."""
    out = np.zeros(len(lines.text), dtype=bool)
    cells = lines.inside(lines.data_tables())
    enough = rules.SECTION * prose.sum()
    below, letters, links = (
        np.concatenate(([0.0], np.cumsum(v))) for v in (prose, lines.letters, lines.letters * lines.link)
    )
    nodes, levels = lines.node.tolist(), lines.level.tolist()
    for k in np.flatnonzero((lines.words <= rules.OFF_LINE_WORDS) & ~cells).tolist():
        text = lines.text[k]
        if not (rules.OFF_LINE.match(text) or rules.OFF_OPENING.match(text)):
            continue
        if not levels[k]:
            ended = lines.words[k] >= rules.FULL_SENTENCE and text.endswith((".", "!", "?"))
            sentence = lines.prose[k] > 0 or (ended and lines.link[k] == 0)
            out[k] = not sentence or bool(rules.NOTICE.search(text))
            continue
        scope, end = lines.parent[nodes[k]], k + 1
        while end < len(out) and not 0 < levels[end] <= levels[k]:
            if scope and scope not in lines.around(nodes[end]):
                break
            end += 1
        linked = links[end] - links[k] >= rules.SECTION_LINKS * (letters[end] - letters[k])
        if below[end] - below[k] <= enough and (linked or rules.ASIDE_LINE.search(text)):
            out[k:end] = True
    return out


def vote(lines: Lines, prose: FloatArray) -> int:
    """Return the element that most prose, float64 [l], stands in directly.

    Each line votes for the nearest element that can hold an article, with half its weight for the next one,
    and so on for three of them (Readability halves once and then divides by the distance).
    """
    votes = [0.0] * len(lines.parent)
    for e, value in zip(lines.node.tolist(), prose.tolist(), strict=True):
        if not value:
            continue
        for share in (1.0, 0.5, 0.25):
            while e and lines.element_tag[e] not in rules.CONTAINERS:
                e = lines.parent[e]
            votes[e] += value * share
            if not e:
                break
            e = lines.parent[e]
    named = [rules.NAMED if role == CONTENT else 1.0 for role in lines.role]
    return max(range(len(votes)), key=lambda e: votes[e] * named[e])


def find_container(lines: Lines, off: BoolArray) -> tuple[int, bool]:
    """Return the element that holds the content, and whether one stands out; else it is the page, 0.

    The best element widens to one around it while what that adds is prose, and enough of it.
    """
    prose = np.where(off, 0, lines.prose)
    best = vote(lines, prose)
    # A notice about cookies or scripts is well written, and stands outside the text.
    notice = np.zeros(len(prose), dtype=bool)
    for k in np.flatnonzero((prose > 0) & ~lines.inside([best])).tolist():
        notice[k] = _is_notice(lines.text[k])
    prose = np.where(notice, 0, prose)
    mass = lines.sums(prose)
    click = lines.link > rules.MAX_LINK_SHARE
    written = np.fromiter((t in rules.WRITTEN for t in lines.tag), dtype=bool, count=len(prose))
    loose = (prose == 0) & (notice | ~(written | (lines.level > 0)))
    other = lines.sums(np.where(~off & (click | loose), lines.words, 0))
    top = e = best
    named = lines.role[best] == CONTENT
    while e:
        e = lines.parent[e]
        added, rest = mass[e] - mass[top], other[e] - other[top]
        purity = added / max(added + rest, 1.0)
        if named and lines.role[e] != CONTENT:
            least = rules.WIDEN_OUT
        else:
            least = rules.WIDEN_PURE if purity >= rules.PURE else rules.WIDEN
        tagged = lines.element_tag[e] in rules.CONTENT_TAGS
        if added >= least * mass[top] and purity >= (rules.PURITY_TAGGED if tagged else rules.PURITY):
            top = e
            named = named or lines.role[e] == CONTENT
    read = lines.sums(np.where(off | click, 0, lines.words))
    if mass[top] < rules.SHORT_ARTICLE and read[top] < rules.MIN_MAIN * read[0]:
        return 0, False
    return top, mass[top] > 0


def _is_notice(text: str) -> bool:
    return len({m.lower() for m in rules.NOTICE.findall(text)}) > 1
