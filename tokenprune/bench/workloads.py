"""Workloads: what applications send, ready to run, and the user's own files.

==================== ====================================================================================
``rag-nq20``         a question and 20 retrieved passages, one of which answers it
``rag-html``         a question and a page of HTML
``chat-long``        a conversation of six turns, each with passages of its own; sent turn by turn
``agent-tools``      an agent's second or third step: calls, and long outputs of tools
``shared-document``  one document, asked four to six questions: the case where a prefix cache pays
``needle``           one sentence hidden in prompts of 500 to 7,500 tokens
``few-shot``         worked examples and a new problem; the proxy must leave it alone
==================== ====================================================================================

``NAME:TOKENS`` makes prompts of about so many tokens, such as ``rag-nq20:4000``: distractors of other items
are added, or distractors are left out. ``NAME:300,1000,2500`` makes prompts of several lengths, as many of
each and in random order: what fits of time against length are made of. The same name, limit and seed give the
same cases. The text is of the data sets that tokenprune/data/workloads/README.md names.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, islice, zip_longest
from pathlib import Path

from tokenprune.bench import casefile
from tokenprune.bench.case import Case
from tokenprune.bench.excerpts import generator
from tokenprune.bench.plan import by_group
from tokenprune.bench.recipes import RECIPES, Recipe
from tokenprune.bench.source import Source
from tokenprune.errors import ConfigError, UnknownNameError

NAMES: tuple[str, ...] = tuple(RECIPES)
SIZES = (200, 30_000)  # tokens that may be asked for
_LIMIT = "the limit of a workload must be 1 or more, not {}"
_FILE = re.compile(r"[/\\]|\.jsonl(?:\.gz)?$")


def load(
    name_or_path: str, limit: int | None = None, seed: int = 0, *, shared_first: bool = False
) -> list[Case]:
    """Return the cases of a workload; see `sources`.

    Args:
        name_or_path: of the workload.
        limit: at most so many cases.
        seed: orders items.
        shared_first: take whole groups, those of several cases first: with a limit, a warm prefix cache would
            else have nothing to hold where the first groups have one case each.
    """
    if not shared_first:
        return [source.case() for source in sources(name_or_path, limit, seed)]
    if limit is not None and limit < 1:
        raise ConfigError(_LIMIT.format(limit))
    lanes = by_group([source.case() for source in sources(name_or_path, None, seed)])
    lanes.sort(key=lambda lane: len(lane) == 1)
    return [case for lane in lanes for case in lane][:limit]


def sources(name_or_path: str, limit: int | None = None, seed: int = 0) -> list[Source]:
    """Return what the cases of a workload are made of.

    Args:
        name_or_path: one of `NAMES`, perhaps with ``:TOKENS`` or ``:TOKENS,TOKENS,...``, or a JSONL file (see
            `casefile`).
        limit: at most so many cases, the first ones; None: all. Of several lengths, all together.
        seed: orders items and their passages; a file keeps its order.

    Raises:
        UnknownNameError: there is neither such a workload nor such a file.
        ConfigError: a size or the limit is out of range, or a line of the file is wrong.
    """
    if limit is not None and limit < 1:
        raise ConfigError(_LIMIT.format(limit))
    if name_or_path not in RECIPES and (_FILE.search(name_or_path) or Path(name_or_path).is_file()):
        made = list(islice(casefile.read(Path(name_or_path)), limit))
    else:
        recipe, sizes = _recipe(name_or_path)
        if len(sizes) > 1:
            made = _mixed(name_or_path, recipe, sizes, limit, seed)
        else:
            made = list(islice(recipe(sizes[0] if sizes else None, seed), limit))
    if not made:
        raise ConfigError(f"workload {name_or_path!r} has no case")
    return made


def _mixed(name: str, recipe: Recipe, sizes: Sequence[int], limit: int | None, seed: int) -> list[Source]:
    """Cases of several lengths in random order.

    The lengths take turns over the items, so that no item comes at two lengths: a proxy that remembers what
    it has read would be faster the second time. Cases of one group keep their order.
    """
    turns = []
    for n, size in enumerate(sizes):
        grouped = groupby(recipe(size, seed), key=lambda source: source.group or source.id)
        turns.append(islice((list(group) for _, group in grouped), n, None, len(sizes)))
    made: list[list[Source]] = []
    left = sys.maxsize if limit is None else limit
    for units in zip_longest(*turns):
        if left <= 0:
            break
        for unit, size in zip(units, sizes, strict=True):
            if unit and left > 0:
                made.append([_at(source, size) for source in unit[:left]])
                left -= len(made[-1])
    order = generator(seed, name).permutation(len(made))
    return [source for n in order for source in made[n]]


def _at(source: Source, size: int) -> Source:
    group = None if source.group is None else f"{source.group}@{size}"
    return replace(source, id=f"{source.id}@{size}", group=group)


def _recipe(name: str) -> tuple[Recipe, list[int]]:
    base, colon, asked = name.partition(":")
    if base not in RECIPES:
        raise UnknownNameError("workload", name, [*NAMES, "NAME:TOKENS", "NAME:TOKENS,TOKENS", "FILE.jsonl"])
    sizes = [_size(name, word.strip()) for word in asked.split(",")] if colon else []
    if len(set(sizes)) < len(sizes):
        raise ConfigError(f"{name!r}: a size is named twice")
    return RECIPES[base], sizes


def _size(name: str, word: str) -> int:
    low, high = SIZES
    # Digits as people write them, and no more of them than the largest size has.
    if not re.fullmatch(r"[0-9]{1,6}", word) or not low <= int(word) <= high:
        raise ConfigError(
            f"{name!r}: the size must be a whole number of tokens, {low} to {high}, or several with commas "
            "between"
        )
    return int(word)
