"""Time to the first token in our engine: encoder, selection and prefill, with and without pruning in turn."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

from benchmarks.common.context import Context
from benchmarks.common.reading import clock
from benchmarks.vision import timing_model
from benchmarks.vision.asking import FULL, METHODS, Named, images, load, prompt_ids
from benchmarks.vision.scenes import video
from tokenprune.engine.sampling import SamplingParams
from tokenprune.vision.prompts import seeing


def run(context: Context) -> dict[str, Any]:
    options = context.options
    big = options.ttft_model == "llava-smol"
    engine = load(str(timing_model.build(options.out / "served" / "llava-smol"))) if big else load()
    name, now = clock()
    frames = options.ttft_frames
    drawn = images(video("test", 0, frames))
    ids = prompt_ids(engine, "what colour moved ?", frames)
    params = SamplingParams(max_tokens=1, temperature=0.0)
    chosen = [method for method in options.ttft_methods if method != FULL]

    def once(method: Named, keep: float) -> dict[str, float]:
        begin = now()
        tokens = engine.encoder.encode([], [drawn])[0]
        encoded = now()
        left = method.reduce(tokens, keep)
        selected = now()
        prompt = seeing(ids, engine.image_token, [tokens], [left])
        next(engine.generate(prompt, params, inner=method.reducers(keep)))
        end = now()
        return {
            "encode": encoded - begin, "select": selected - encoded, "prefill": end - selected,
            "total": end - begin, "tokens": float(len(prompt)),
        }  # fmt: skip

    pairs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {method: [] for method in chosen}
    for method in (Named(FULL), *(METHODS[name] for name in chosen)):
        once(method, options.ttft_keep)  # the first time compiles and allocates
    gc.collect()
    gc.freeze()
    for round_number in context.track(range(options.ttft_rounds), options.ttft_rounds, "ttft"):
        for method in chosen:
            turns = [lambda: once(Named(FULL), 1.0), lambda m=method: once(METHODS[m], options.ttft_keep)]
            if round_number % 2:
                pruned, full = turns[1](), turns[0]()
            else:
                full, pruned = turns[0](), turns[1]()
            pairs[method].append((full, pruned))
    rows = []
    for method, found in pairs.items():
        row: dict[str, Any] = {"method": method, "rounds": len(found)}
        for side, index in (("full", 0), ("pruned", 1)):
            row[side] = {
                part: float(np.median([pair[index][part] for pair in found])) for part in found[0][0]
            }
        row["speedup"] = float(np.median([full["total"] / pruned["total"] for full, pruned in found]))
        # The proxy keeps what it encoded by the picture's hash: the second question about it pays no encoder.
        row["speedup_encoded"] = float(
            np.median([f["prefill"] / (p["select"] + p["prefill"]) for f, p in found])
        )
        rows.append(row)
    found = {"clock": name, "model": options.ttft_model, "frames": frames, "keep": options.ttft_keep}
    return found | {"rows": rows}
