"""Which units of scored documents stay: by each pruner's own selector, or under one budget for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray
from tokenprune.budget import Budget, comparable
from tokenprune.job import Job
from tokenprune.pruners.base import Pruner
from tokenprune.select import floor
from tokenprune.select.budget import fill
from tokenprune.select.partial import only_the_best, use_up
from tokenprune.select.simple import KeepRatio
from tokenprune.tokens import TokenCounter
from tokenprune.units import Units


@dataclass
class Scored:
    """A document segmented and scored by its last pruner, waiting for the selection."""

    job: Job
    pruner: Pruner
    units: Units
    scores: FloatArray
    kept: str = "kept"  # the reason of what stays

    def finish(self, keep: BoolArray, counter: TokenCounter, dropped: str) -> None:
        """Give the document its output and receipt of this stage."""
        self.job.finish(self.pruner, self.units, self.scores, keep, counter, kept=self.kept, dropped=dropped)


def by_pruner(scored: Sequence[Scored]) -> list[list[int]]:
    """Return the positions of the items of each pruner, in order of appearance."""
    groups: dict[int, list[int]] = {}
    for n, item in enumerate(scored):
        groups.setdefault(id(item.pruner), []).append(n)
    return list(groups.values())


def _join(arrays: Sequence[FloatArray]) -> FloatArray:
    return np.concatenate(arrays) if arrays else np.empty(0)


def adaptive(scored: Sequence[Scored], counter: TokenCounter) -> list[BoolArray]:
    """Let each pruner's own selector decide; what leads a kept unit stays too."""
    masks: list[BoolArray] = [np.zeros(len(item.units), dtype=bool) for item in scored]
    for group in by_pruner(scored):
        selector = scored[group[0]].pruner.selector
        if isinstance(selector, KeepRatio):  # a budget like any other: exact, with all that units bring along
            items = [scored[n] for n in group]
            total = sum(int(i.units.cost.sum() + i.units.wrapper_cost.sum()) for i in items)
            chosen_masks = within_budget(items, Budget(keep_ratio=selector.ratio).limit(total) or 0, counter)
            for n, mask in zip(group, chosen_masks, strict=True):
                masks[n] = mask
            continue
        group = [n for n in group if not scored[n].job.beaten]
        items = [scored[n] for n in group]
        if not items:
            continue
        scores = _join([i.scores for i in items])
        cost = np.concatenate([i.units.cost for i in items])
        chosen = selector.select(scores, cost)
        bounds = np.cumsum([len(i.units) for i in items])[:-1]
        for n, item, mask in zip(group, items, np.split(chosen, bounds), strict=True):
            _with_leads(item.units, mask)
            masks[n] = mask
    return masks


def above_floor(item: Scored) -> BoolArray:
    """What of a document no budget drops: all that its pruner's floor lets pass, and what leads that."""
    floor_ = item.pruner.floor
    mask: BoolArray = np.ones(len(item.units), dtype=bool) if floor_ is None else item.scores >= floor_
    _with_leads(item.units, mask)
    return mask


def _with_leads(units: Units, mask: BoolArray) -> None:
    """Keep what leads a kept unit, too, and with a term the beginning of what it means."""
    if units.term is not None:
        led, first = np.unique(units.lead, return_index=True)
        while (alone := np.setdiff1d(np.flatnonzero(mask & units.term), units.lead[mask])).size:
            mask[first[np.searchsorted(led, alone)]] = True
    for unit in range(len(mask) - 1, -1, -1):  # a lead never stands behind what it leads
        if mask[unit] and units.lead[unit] >= 0:
            mask[units.lead[unit]] = True


def with_floor(
    scored: Sequence[Scored], masks: list[BoolArray], jobs: Sequence[Job], *, early: bool = False
) -> list[BoolArray]:
    """Keep the best of documents when no word of the whole call would stay (see `tokenprune.select.floor`).

    One document may well go away entirely; so may all under a selector that counts, as `TopK` does.

    Args:
        scored: documents of a stage.
        masks: what its selectors keep.
        jobs: all documents of the call.
        early: another pruner comes behind: where the scores tell no unit from another, it gets all of them.
    """
    mine = {id(item.job) for item in scored}
    if any(mask.any() for mask in masks) or any(
        job.current.text.strip() for job in jobs if id(job) not in mine
    ):
        return masks
    able = [item for item in scored if not item.job.beaten and floor.holds(item.pruner.selector)]
    items = [able[k] for group in by_pruner(able) for k in group]
    if not items:
        return masks
    scores = _on_one_scale(items)
    if early and floor.tell_nothing(scores):
        chosen = [np.ones(len(item.units), dtype=bool) for item in items]
    else:
        chosen = floor.best_of_nothing([item.units for item in items], scores)
    place = {id(item): n for n, item in enumerate(scored)}
    for item, mask in zip(items, chosen, strict=True):
        if mask.any():
            _with_leads(item.units, mask)
            masks[place[id(item)]], item.kept = mask, floor.REASON
    return masks


def _on_one_scale(scored: Sequence[Scored]) -> list[FloatArray]:
    """Scores of each document that can be compared with those of the others, whatever scorers gave them."""
    groups = by_pruner(scored)
    joined = [_join([scored[n].scores for n in g]) for g in groups]
    costs = [np.concatenate([scored[n].units.cost for n in g]) for g in groups]
    scores: list[FloatArray] = [np.empty(0)] * len(scored)
    for group, values in zip(groups, comparable(joined, costs), strict=True):
        bounds = np.cumsum([len(scored[n].units) for n in group])[:-1]
        for n, part in zip(group, np.split(values, bounds), strict=True):
            scores[n] = part
    return scores


def _above_their_floors(scored: Sequence[Scored]) -> list[FloatArray]:
    """Scores on one scale, -inf of what no budget keeps; its best stay where nothing else would."""
    raw = [
        scores if item.units.term is None else np.where(item.units.term, -np.inf, scores)
        for item, scores in zip(scored, _on_one_scale(scored), strict=True)
    ]
    scores = list(raw)
    for n, item in enumerate(scored):
        least = np.inf if item.job.beaten else item.pruner.floor
        if least is not None:
            scores[n] = np.where(item.scores < least, -np.inf, raw[n])
    if any(
        own > -np.inf and text.strip()
        for item, values in zip(scored, scores, strict=True)
        for own, text in zip(values.tolist(), item.units.texts, strict=True)
    ):
        return scores
    able = [n for n, item in enumerate(scored) if not item.job.beaten and item.pruner.floor is not None]
    best = floor.best_of_nothing([scored[n].units for n in able], [raw[n] for n in able])
    for n, mask in zip(able, best, strict=True):
        if mask.any():
            scores[n], scored[n].kept = np.where(mask, raw[n], -np.inf), floor.REASON
    return scores


def within_budget(
    scored: Sequence[Scored], limit: int, counter: TokenCounter, *, in_part: bool = False
) -> list[BoolArray]:
    """Share the budget among all documents by score; cut units ``in_part`` where it would stay unused."""
    scores = _above_their_floors(scored)

    def tokens(n: int, units: Units, mask: BoolArray) -> int:
        return counter.count(scored[n].pruner.renderer.render(units, mask).text)

    in_order = [item.pruner.in_order for item in scored]
    documents = [item.units for item in scored]
    masks = fill(documents, scores, limit, lambda n, mask: tokens(n, documents[n], mask), in_order)
    if in_part:
        alone = only_the_best(scores, masks, in_order, limit)
        if alone is not None:
            nothing = [np.zeros(len(units), dtype=bool) for units in documents]
            begun, kept, cut = use_up(documents, alone, nothing, limit, tokens, in_order)
        if alone is None or not any(mask.any() for mask in kept):
            begun, kept, cut = use_up(documents, scores, masks, limit, tokens, in_order)
        documents, masks = begun, kept
        for item, units, parts in zip(scored, documents, cut, strict=True):
            item.units, item.scores = units, np.append(item.scores, item.scores[parts])
    return masks
