"""Haystacks over lengths and depths, kinds of needles in turn: is the answer kept, and is it given?"""

from __future__ import annotations

from itertools import product
from typing import Any

from benchmarks.common.context import Context
from benchmarks.common.reading import Case, clock, compared, in_turns
from benchmarks.common.token_methods import MODEL, methods
from benchmarks.needle.haystack import KINDS, build
from tokenprune.engine.engine import Engine

Cell = tuple[int, float]


def cases(lengths: list[int], depths: list[float], each: int, seed: int) -> dict[Cell, list[Case]]:
    """``each`` cases per length and depth. Kinds take turns, so that rows and columns have all of them."""
    return {
        (tokens, depth): [
            build(tokens, depth, KINDS[(row + column + 2 * n) % len(KINDS)], seed + n) for n in range(each)
        ]
        for (row, tokens), (column, depth) in product(enumerate(lengths), enumerate(depths))
    }


def run(context: Context) -> dict[str, Any]:
    options = context.options
    engine = Engine(MODEL, dtype=options.dtype)
    engine.warm_up()
    made = cases(options.lengths, options.depths, options.each, options.seed)
    chosen = methods(options.methods, options.keep)
    every = [case for cell in made.values() for case in cell]
    found = in_turns(context, engine, chosen, every, "needle")
    rows = []
    for name, results in found.items():
        by_case = dict(zip((case.id for case in every), results, strict=True))
        cells = [
            {
                "tokens": tokens,
                "depth": depth,
                "n": len(own),
                **{
                    field: sum(bool(by_case[case.id][field]) for case in own)
                    for field in ("answer_kept", "answered")
                },
            }
            for (tokens, depth), own in made.items()
        ]
        kinds = {}
        for kind in KINDS:
            own = [by_case[case.id] for case in every if case.id.startswith(f"{kind}-")]
            kinds[kind] = {
                "n": len(own),
                "answer_kept": sum(bool(row["answer_kept"]) for row in own),
                "answered": sum(bool(row["answered"]) for row in own),
            }
        rows.append({"method": name, **compared(results, found["full"]), "cells": cells, "kinds": kinds})
    return {
        "model": MODEL,
        "dtype": options.dtype,
        "keep": options.keep,
        "clock": clock()[0],
        "lengths": options.lengths,
        "depths": options.depths,
        "rows": rows,
    }
