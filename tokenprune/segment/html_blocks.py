"""The block tree of a page as units: HtmlRAG (arXiv 2411.02959, section 3.2), with the defects mended.

An element of more than ``max_words`` words is split into its children; a smaller one is a block. Text that
stands bare between the children of a split element is a block as well, so every word can be pruned. A
paragraph or ``<pre>`` longer than that is cut between sentences or lines. Output keeps the original tags.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from tokenprune.document import Document
from tokenprune.segment.html_clean import read
from tokenprune.segment.html_compact import compact
from tokenprune.segment.html_contents import entries_of_contents
from tokenprune.segment.html_cutter import Cutter, visible
from tokenprune.segment.html_limit import TokenLimit
from tokenprune.segment.html_markup import markup, scoped
from tokenprune.segment.html_page import TEXT, CleanPage
from tokenprune.segment.html_ranges import partition
from tokenprune.segment.sentences import A_SENTENCE
from tokenprune.tokens import TokenCounter, counts_between
from tokenprune.units import Pieces, Units, contexts


@dataclass(frozen=True)
class HtmlBlocks:
    """Segmenter: blocks of a cleaned page.

    Args:
        max_words: granularity; the paper uses 256 for its first step and 128 for its second.
        keep_attributes: attributes that stay in the output (none by default).
        brief: whether the output leaves out what the HTML standard makes optional (see `html_compact`).
        markup: whether the units carry the page's markup, for scorers that read it; headings then lead only
            what lies in the same part of the page.
        drop_hidden: whether text that people do not see goes.
        sentence_words: a sentence of up to about so many words stays whole, however fine the blocks are; by
            default ``max_words``.
        max_tokens: what has more tokens is cut as well, sentences and long words included; None: no limit.
    """

    max_words: int = 128
    keep_attributes: Collection[str] = ()
    brief: bool = True
    markup: bool = False
    drop_hidden: bool = True
    sentence_words: int | None = None
    max_tokens: int | None = None

    def segment(self, document: Document, counter: TokenCounter) -> Units:
        """Clean a page and cut it into blocks; any text is accepted, well formed or not."""
        cleaned = read(document.text, self.keep_attributes, self.drop_hidden)
        page = cleaned.page
        written = compact(page) if self.brief else page.text
        words = max(1, self.max_words)
        limit = None if self.max_tokens is None else TokenLimit(page, written, counter, self.max_tokens)
        cutter = Cutter(page, document, words, max(words, self.sentence_words or 0), limit)
        cutter.walk()
        pieces = _Pieces(page, cutter)
        units = pieces.units(written, document, counter)
        units.notes = cleaned.notes
        units.entry = entries_of_contents(cleaned.source, units.pieces, units.texts)
        if self.markup:
            units.markup = markup(cleaned, pieces.event, pieces.owner, units.pieces.text)
            units.lead = scoped(units.lead, units.markup)
        return units

    def finer(self, max_tokens: int) -> HtmlBlocks:
        """Return a segmenter whose blocks are small enough for a budget of ``max_tokens``.

        A sentence that fits the budget, or a short one, is not cut: parts may say the opposite of the whole.
        """
        return replace(
            self,
            max_words=max(4, min(self.max_words, max_tokens // 4)),
            sentence_words=self.max_words,
            max_tokens=max(A_SENTENCE, max_tokens),
        )


class _Pieces:
    """What the output can be made of, one row for each event or part of a text that is in it.

    Attributes:
        event: int64 [p], the event that each piece is (part of).
        owner: int64 [p], unit of each piece; ``-1 - w`` for wrapper w.
    """

    def __init__(self, page: CleanPage, cutter: Cutter) -> None:
        self.page, self.cutter = page, cutter
        runs = np.asarray(cutter.runs, dtype=np.int64).reshape(-1, 3)
        lengths = runs[:, 1] - runs[:, 0]
        ends = np.cumsum(lengths)
        event = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(runs[:, 0] - ends + lengths, lengths)
        shown = cutter.shown[event]
        self.event, self.owner = event[shown], np.repeat(runs[:, 2], lengths)[shown]
        at = np.concatenate(([0], np.cumsum(shown)))
        self.parts = {int(at[ends[k] - 1]): part for k, part in cutter.parts.items()}

    def units(self, written: list[str], document: Document, counter: TokenCounter) -> Units:
        """Return the columns of the units; ``written`` are the page's events in their shortest form."""
        page, cutter, event, owner = self.page, self.cutter, self.event, self.owner
        n, wrappers = len(cutter.wrapper), len(cutter.wrapper_parent)
        texts = self._texts(n)
        places = event.tolist()
        text = list(map(page.text.__getitem__, places))
        brief = list(map(written.__getitem__, places))
        begin, after = page.begins[event], page.afters[event]
        for p, (part, start, end) in self.parts.items():
            text[p] = brief[p] = part
            begin[p], after[p] = start, end
        begin = np.maximum.accumulate(begin) if len(begin) else begin
        after = np.maximum(after, begin)
        lengths = np.fromiter(map(len, brief), dtype=np.int64, count=len(brief))
        bounds = np.concatenate(([0], np.cumsum(lengths)))
        tokens = counts_between(counter.starts("".join(brief)), bounds)
        cost = np.zeros(n, dtype=np.int64)
        wrapper_cost = np.zeros(wrappers, dtype=np.int64)
        own = owner >= 0
        np.add.at(cost, owner[own], tokens[own])
        np.add.at(wrapper_cost, -1 - owner[~own], tokens[~own])
        starts, owners, reasons = partition(cutter.unit_begin, page.dropped, len(document.text))
        return Units(
            document=document,
            texts=texts,
            context=contexts(texts, cutter.leads.lead),
            cost=cost,
            wrapper=np.asarray(cutter.wrapper, dtype=np.int64),
            wrapper_parent=np.asarray(cutter.wrapper_parent, dtype=np.int64),
            wrapper_cost=wrapper_cost,
            lead=np.asarray(cutter.leads.lead, dtype=np.int64),
            level=np.asarray(cutter.leads.level, dtype=np.int64),
            along=np.asarray(cutter.leads.along, dtype=bool),
            term=cutter.leads.terms(),
            pieces=Pieces(text, owner, begin, after, page.kinds[event] != TEXT, document.text, brief),
            range_start=starts,
            range_owner=owners,
            range_reason=reasons,
        )

    def _texts(self, n: int) -> list[str]:
        """The words of each unit; its pieces stand together, but for tags of wrappers between them."""
        own = np.flatnonzero(self.owner >= 0)
        says = list(map(self.cutter.says.__getitem__, self.event[own].tolist()))
        for p, (part, _, _) in self.parts.items():
            says[int(np.searchsorted(own, p))] = part
        bounds = np.searchsorted(self.owner[own], np.arange(n + 1)).tolist()
        return [visible(says[a:b]) for a, b in pairwise(bounds)]
