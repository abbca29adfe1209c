"""Every method on every set: answer kept and given, F1, NLL, tokens, time to the first token, peak KV."""

from __future__ import annotations

from typing import Any

from benchmarks.common.context import Context
from benchmarks.common.reading import clock, compared, in_turns
from benchmarks.common.token_methods import MODEL, methods
from benchmarks.tokens.cases import cases
from tokenprune.engine.engine import Engine


def run(context: Context) -> dict[str, Any]:
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    options = context.options
    engine = Engine(MODEL, dtype=options.dtype)
    engine.warm_up()
    chosen = methods(options.methods, options.keep)
    sets = {}
    for name in options.sets:
        sample = cases(context.data, name, options.sample, options.seed)
        found = in_turns(context, engine, chosen, sample, name)
        sets[name] = [
            {"method": method, **compared(rows, found["full"])} for method, rows in found.items() if rows
        ]
    return {
        "model": MODEL,
        "dtype": options.dtype,
        "keep": options.keep,
        "clock": clock()[0],
        "sets": {name: rows for name, rows in sets.items() if rows},
    }
