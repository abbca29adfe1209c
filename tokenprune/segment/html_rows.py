"""What becomes of each tag of a page: whether it starts, ends or parts something, or is nothing.

One row for each tag in the order of the page, in columns that are worked out at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from tokenprune.arrays import BoolArray, IntArray
from tokenprune.segment.html_names import PerName, among
from tokenprune.segment.html_repair import Events
from tokenprune.segment.html_source import CLOSES, ENDED, KNOWN, NO_TAG, OPENS, Source
from tokenprune.segment.html_tags import (
    BLOCKS,
    ENDED_BY,
    ENDED_BY_MASK,
    ENDERS,
    GENERIC,
    HEADINGS,
    INLINE,
    PRE,
    UNWRAPPED_BLOCKS,
    VOID,
    WRITTEN_AS,
)
from tokenprune.segment.html_tree import Tree, last_of, moved_down, tree

# Elements nested deeper lose their tags (not their words), as browsers flatten them too: every block would
# have to pay for all the elements around it.
_MAX_DEPTH = 200

# What a tag does: nothing, start or end an element of the output, break a line, part what is on both sides
# as the edge of a block does, show a picture. STANDS is an element without anything in it.
NOTHING, STARTS, ENDS, BREAKS, PARTS, SHOWS, STANDS = range(7)

# By kind of tag: OPENS, CLOSES, ENDED, NO_TAG.
_ACTS = {
    **dict.fromkeys(BLOCKS | INLINE, (STARTS, ENDS, STANDS, NOTHING)),
    **dict.fromkeys(UNWRAPPED_BLOCKS, (PARTS, PARTS, PARTS, NOTHING)),
    "br": (BREAKS, NOTHING, BREAKS, NOTHING),
    "hr": (PARTS, NOTHING, PARTS, NOTHING),
}
_ACTS_OF = PerName(lambda name: _ACTS.get(name, (NOTHING,) * 4), int)
_WRITTEN_AS = PerName(lambda name: KNOWN.index(WRITTEN_AS[name]) if name in WRITTEN_AS else -1, int)
_ENDER = PerName(lambda name: ENDERS.get(name, 0), int)
_ENDED_BY = PerName(lambda name: ENDED_BY_MASK.get(name, 0), int)
_IS_VOID = among(VOID)


@dataclass
class Rows:
    """The tags of a page, one a row; int64 [n] unless said otherwise.

    Attributes:
        kind: of the tag, as in `Source.code`; NO_TAG of one that is left out.
        place: of its name.
        mark: of the source, -1 for none.
        event: whose text stands behind the tag, -1 for none.
        act: what the tag does.
        begin: where its source starts.
        after: where it ends.
        close: where the element ends that it ends.
        cursor: where the text behind it starts.
        stop: where that ends.
        sets: bool [n], whether the tag says where the text behind it stands.
    """

    kind: IntArray
    place: IntArray
    mark: IntArray
    event: IntArray
    act: IntArray
    begin: IntArray
    after: IntArray
    close: IntArray
    cursor: IntArray
    stop: IntArray
    sets: BoolArray

    def insert(self, added: list[tuple[int, dict[str, int]]]) -> None:
        """Add copies of rows before them, without their texts; some of their columns are given."""
        at = [row for row, _ in added]
        for f in fields(self):
            column = getattr(self, f.name)
            new = column[at] if f.name != "event" else np.full(len(at), -1)
            for k, (_, given) in enumerate(added):
                new[k] = given.get(f.name, new[k])
            setattr(self, f.name, np.insert(column, at, new))

    def elements(self) -> Tree:
        """The elements that are written."""
        return tree((self.act == STARTS) * 1 - (self.act == ENDS))


def placed(page: Source, events: Events) -> Rows:
    """Lay out the tags and texts of a page; what they do is what their names say."""
    code, mark = events.codes, events.marks
    kind, place, known = code & 3, code >> 2, mark >= 0
    said = _WRITTEN_AS.of(page.names)[place]
    place = np.where(said < 0, place, said)
    sets = known & (page.has_words[mark] | (kind == OPENS) | (kind == ENDED))
    after = page.afters[mark]
    last = last_of(sets)
    cursor, stop = np.where(last < 0, 0, after[last]), np.where(last < 0, 0, page.stops[mark][last])
    at = moved_down(cursor, 0)
    return Rows(
        kind=kind,
        place=place,
        mark=mark,
        event=np.arange(len(code)),
        act=_ACTS_OF.of(page.names).ravel()[4 * place + kind],
        begin=np.where(known, page.begins[mark], at),
        after=np.where(known, after, at),
        close=moved_down(stop, 0),
        cursor=cursor,
        stop=stop,
        sets=sets,
    )


def keep_tags(rows: Rows, names: list[str], kept: Mapping[int, str]) -> None:
    """Let tags stay whose attributes do, by mark."""
    if not kept:
        return
    whole = _all_elements(rows)
    has = np.isin(rows.mark, list(kept))
    void = _IS_VOID.of(names)[rows.place, 0]
    image = rows.place == (names.index("img"))
    rows.act[has & image] = SHOWS
    rows.act[has & ~void & (rows.kind == OPENS)] = STARTS
    rows.act[has & ~void & (rows.kind == ENDED)] = STANDS
    rows.act[whole.close[has[whole.opens]]] = ENDS


def leave_out(rows: Rows, gone: BoolArray) -> None:
    """Take tags out with the elements that they start, bool [n]."""
    whole = _all_elements(rows)
    gone = gone.copy()
    gone[whole.close[gone[whole.opens]]] = True
    rows.act[gone] = NOTHING
    rows.kind[gone] = NO_TAG


def _all_elements(rows: Rows) -> Tree:
    return tree((rows.kind == OPENS) * 1 - (rows.kind == CLOSES))


def nest(rows: Rows, names: list[str]) -> Tree:
    """Return the elements that are written, in each other as any parser will read them; may add rows."""
    if (stands := np.flatnonzero(rows.act == STANDS)).size:
        rows.insert([(row, {"act": STARTS}) for row in stands.tolist()])
        ends = rows.act == STANDS
        rows.act[ends], rows.kind[ends], rows.close[ends] = ENDS, NO_TAG, rows.after[ends]
    found = rows.elements()
    if _fits(rows, names, found):
        return found
    rows.insert(_Fitter(rows, names).fit())
    return rows.elements()


def _fits(rows: Rows, names: list[str], found: Tree) -> bool:
    """Whether elements are not too deep in each other, and can stand where they do."""
    place, parent = rows.place[found.opens], found.parent
    enders = _ENDER.of(names)[place]
    inner = np.flatnonzero(enders)
    inner = inner[parent[inner] >= 0]
    if (enders[inner] & _ENDED_BY.of(names)[place[parent[inner]]]).any():
        return False
    steps = (rows.act == STARTS) * 1 - (rows.act == ENDS)
    return len(place) <= _MAX_DEPTH or int(np.cumsum(steps).max()) <= _MAX_DEPTH


class _Fitter:
    """Takes out tags of elements that are too deep, or that cannot stand where they do.

    Inline tags that are gone held elements apart of which one ends the other. The outer one ends early then;
    where it says more than the inner one, the inner one's tags go.
    """

    def __init__(self, rows: Rows, names: list[str]) -> None:
        self.rows, self.names = rows, names
        self.acts = rows.act.tolist()
        self.stack: list[int] = []  # row of each open tag, -1 for one that is not written, or ended early
        self.open: list[int] = []  # places in the stack of those that are written
        self.added: list[tuple[int, dict[str, int]]] = []

    def fit(self) -> list[tuple[int, dict[str, int]]]:
        """Change what tags do; return the rows to be added."""
        begins = (self.rows.kind == OPENS) | (self.rows.kind == ENDED)
        for row in np.flatnonzero(self.rows.act).tolist():
            act, name = self.acts[row], self._name(row)
            deep = len(self.open) >= _MAX_DEPTH
            if act == STARTS:
                if deep or (name in ENDERS and self._clashes(row, name)):
                    self.acts[row] = PARTS if name in BLOCKS else NOTHING
                    self.stack.append(-1)
                else:
                    self.open.append(len(self.stack))
                    self.stack.append(row)
            elif act == ENDS:
                if self.stack.pop() >= 0:
                    self.open.pop()
                else:
                    self.acts[row] = PARTS if name in BLOCKS | UNWRAPPED_BLOCKS else NOTHING
            elif act == PARTS and deep and begins[row] and name != "hr":
                self.acts[row] = NOTHING
        self.rows.act = np.asarray(self.acts, dtype=np.int64)
        return self.added

    def _name(self, row: int) -> str:
        return self.names[int(self.rows.place[row])]

    def _clashes(self, row: int, name: str) -> bool:
        """Whether a block loses its tags inside the elements around it; otherwise these may end before it."""
        while self.open and name in ENDED_BY.get(outer := self._name(self.stack[self.open[-1]]), ()):
            if name in GENERIC or outer in PRE or (outer in HEADINGS and name != "table"):
                return True
            at = self.open.pop()
            end = {
                "act": ENDS,
                "kind": NO_TAG,
                "mark": -1,
                "place": int(self.rows.place[self.stack[at]]),
                "close": int(self.rows.begin[row]),
            }
            self.added.append((row, end))
            self.stack[at] = -1
        return False
