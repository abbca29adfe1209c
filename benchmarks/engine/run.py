"""The engine by itself: prefill against transformers, and what selection of prompt tokens saves and keeps.

    python benchmarks/engine/run.py [--sections prefill,methods] [--tokens 512,1024,2048,4096] [--rounds 5]
        [--dtype float32] [--out build/engine.json]

`prefill`: our full prefill against transformers' (sdpa, cache filled, logits of the last token), in turns;
the figure is the median of the ratios of the rounds. `methods`: time to the first token of each method
against our own full prefill of the same prompts, everything counted, and whether the answer of a generated
haystack (benchmarks/needle) is among the kept tokens and in the greedy answer. Beside it stands the limit:
what the layers that must run cost if nothing else did, in floating-point operations.

On a busy machine use one thread (OMP_NUM_THREADS=1): then the clock is the CPU time of this process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.reading import clock, compared, measure
from benchmarks.common.token_methods import HELP, KEEP, MODEL
from benchmarks.common.token_methods import methods as by_name
from benchmarks.needle.haystack import KINDS, build
from tokenprune.bench.machine import machine
from tokenprune.engine.engine import Engine, Strategy
from tokenprune.engine.methods.gemfilter import GemFilter, QuestionGemFilter, narrowed

NAMES = (
    "gemfilter", "gemfilter-q", "gemfilter-q near", "gemfilter-q narrow", "lazyllm", "lazyllm 40 %",
    "lazyllm-q 40 %",
)  # fmt: skip


def prefill(engine: Engine, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    import torch

    rows = []
    _, now = clock()
    for size in sizes:
        ids = torch.randint(
            0, engine.decoder.vocabulary, (size,), generator=torch.Generator().manual_seed(size)
        )
        plain = ids.tolist()

        def theirs(ids: torch.Tensor = ids) -> torch.Tensor:
            with torch.inference_mode():
                return engine.lm.model(ids[None], use_cache=True, logits_to_keep=1).logits[0, -1].float()

        def ours(plain: list[int] = plain) -> torch.Tensor:
            return engine.prefill(plain).logits

        difference = float((theirs() - ours()).abs().max())
        seconds: dict[str, list[float]] = {"transformers": [], "engine": []}
        for _ in range(rounds):
            for name, run in (("transformers", theirs), ("engine", ours)):
                began = now()
                run()
                seconds[name].append(now() - began)
        ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
        rows.append(
            {
                "tokens": size,
                **{f"{name}_s": statistics.median(times) for name, times in seconds.items()},
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "largest_logit_difference": difference,
            }
        )
        print(
            f"{size:6} tokens  transformers {rows[-1]['transformers_s']:7.2f} s  engine "
            f"{rows[-1]['engine_s']:7.2f} s  {rows[-1]['ratio']:.2f}x "
            f"({min(ratios):.2f} to {max(ratios):.2f})  logits differ by {difference:.1e}",
            flush=True,
        )
    return rows


def methods(engine: Engine, sizes: list[int], rounds: int, names: list[str]) -> list[dict[str, Any]]:
    """One case per round: depths spread over the context, another needle each time."""
    rows = []
    _, now = clock()
    chosen = by_name(names, KEEP)
    for size in sizes:
        cases = [build(size, (i + 0.5) / rounds, KINDS[i % len(KINDS)], size + i) for i in range(rounds)]
        seen: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
        for case in cases:
            for name, method in chosen.items():
                seen[name].append(measure(engine, method, case, now, nll=False))
        for name, mine in seen.items():
            limit = statistics.median(limit_of(engine, chosen[name].strategy, row) for row in mine)
            row = {"method": name, **compared(mine, seen["full"]), "limit": limit}
            rows.append({"size": size, **row})
            print(
                f"{size:6} {name:18} {row['seconds']:7.2f} s  {row['speedup']:5.2f}x (limit {limit:5.2f}x)  "
                f"kept {row['kept']:6.0f}  answer kept {row['answer_kept']}/{rounds}, given "
                f"{row['answered']}/{rounds}  KV {row['peak_kv_mb']:.1f} MB",
                flush=True,
            )
    return rows


def limit_of(engine: Engine, strategy: Strategy | None, row: dict[str, Any]) -> float:
    """How many times fewer operations than the full prompt a method needs at least, for a row it measured."""
    whole = [row["tokens"]] * engine.decoder.depth
    cost = operations(engine, row["work"])
    if isinstance(strategy, GemFilter):
        cost += operations(engine, whole[: strategy.layer_of(engine.decoder)])
    if isinstance(strategy, QuestionGemFilter):
        *before, layer = sorted(look.layer for look in strategy.choice(engine.decoder).looks())
        first = before[0] + 1 if before else layer  # layers that read everything
        onward = narrowed(strategy.narrow, row["tokens"], strategy.keep) or row["tokens"]
        near = None if strategy.near is None else strategy.near * onward // row["tokens"]
        cost += operations(engine, whole[:first], strategy.near)
        cost += operations(engine, [onward] * (layer - first), near)
    return operations(engine, whole) / cost


def operations(engine: Engine, rows: list[int], near: int | None = None) -> float:
    """Multiplications and additions of layers that see so many rows: linear maps and causal attention."""
    weights = engine.decoder.weights
    layer = weights.layers[0]
    linear = sum(p.weight.numel() for p in (layer.qkv, layer.out, layer.gate_up, layer.down))
    wide = weights.heads * weights.head_dim
    seen = [n * (n / 2 if near is None or near > n else near - near * near / (2 * n)) for n in rows]
    return sum(2.0 * linear * n + 4.0 * wide * s for n, s in zip(rows, seen, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", default="prefill,methods")
    parser.add_argument("--tokens", default="512,1024,2048,4096")
    parser.add_argument("--methods", default=",".join(NAMES), help=HELP)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=Path("build/engine.json"))
    args = parser.parse_args()
    import torch

    engine = Engine(MODEL, dtype=args.dtype)
    engine.warm_up()
    sizes = [int(size) for size in args.tokens.split(",")]
    result: dict[str, Any] = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "clock": clock()[0],
        "model": MODEL,
        "dtype": args.dtype,
        "rounds": args.rounds,
    }
    print(", ".join(f"{key} {value}" for key, value in result.items()), flush=True)
    for section in args.sections.split(","):
        if section == "prefill":
            result[section] = prefill(engine, sizes, args.rounds)
        elif section == "methods":
            result[section] = methods(engine, sizes, args.rounds, args.methods.split(","))
        else:
            parser.error(f"unknown section {section!r}; there are prefill and methods")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
