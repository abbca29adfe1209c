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
are added, or distractors are left out. The same name, limit and seed give the same cases. The text is of the
data sets that tokenprune/data/workloads/README.md names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from tokenprune.bench import casefile
from tokenprune.bench.case import Case
from tokenprune.bench.recipes import RECIPES
from tokenprune.bench.source import Source
from tokenprune.errors import ConfigError, UnknownNameError

NAMES: tuple[str, ...] = tuple(RECIPES)
SIZES = (200, 30_000)  # tokens that may be asked for
_FILE = re.compile(r"[/\\]|\.jsonl(?:\.gz)?$")


def load(name_or_path: str, limit: int | None = None, seed: int = 0) -> list[Case]:
    """Return the cases of a workload; see `sources`."""
    return [source.case() for source in sources(name_or_path, limit, seed)]


def sources(name_or_path: str, limit: int | None = None, seed: int = 0) -> list[Source]:
    """Return what the cases of a workload are made of.

    Args:
        name_or_path: one of `NAMES`, perhaps with ``:TOKENS``, or a JSONL file (see `casefile`).
        limit: at most so many cases, the first ones; None: all.
        seed: orders items and their passages; a file keeps its order.

    Raises:
        UnknownNameError: there is neither such a workload nor such a file.
        ConfigError: the size or the limit is out of range, or a line of the file is wrong.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit of a workload must be 1 or more, not {limit}")
    if name_or_path not in RECIPES and (_FILE.search(name_or_path) or Path(name_or_path).is_file()):
        found: Iterable[Source] = casefile.read(Path(name_or_path))
    else:
        recipe, size = _recipe(name_or_path)
        found = recipe(size, seed)
    made = list(islice(found, limit))
    if not made:
        raise ConfigError(f"workload {name_or_path!r} has no case")
    return made


def _recipe(name: str) -> tuple[Callable[[int | None, int], Iterable[Source]], int | None]:
    base, colon, asked = name.partition(":")
    if base not in RECIPES:
        raise UnknownNameError("workload", name, [*NAMES, "NAME:TOKENS", "FILE.jsonl"])
    if not colon:
        return RECIPES[base], None
    low, high = SIZES
    # Digits as people write them, and no more of them than the largest size has.
    if not re.fullmatch(r"[0-9]{1,6}", asked) or not low <= int(asked) <= high:
        raise ConfigError(f"{name!r}: the size must be a whole number of tokens, {low} to {high}")
    return RECIPES[base], int(asked)
