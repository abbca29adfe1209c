"""Perplexity, size and cost of pruning of every recipe on one model.

    python benchmarks/weights/run.py --data DATA [--recipes magnitude,wanda@0.5,flap@0.2] [--windows 32]
        [--window 512] [--eval-windows 24] [--out build/weights.json]

Calibrates on the first half of the articles of lm/wikitext2 and evaluates on the second half and, with
--shakespeare, on lm/shakespeare. A recipe may carry a sparsity behind an @. All in float32 on the CPU;
seconds are CPU time of this process when torch has one thread. Results are stored after every recipe and
found again, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tokenprune.bench.machine import machine
from tokenprune.models.causal_lm import fresh_causal_lm
from tokenprune.weights.materialise import materialise
from tokenprune.weights.prune import prune
from tokenprune.weights.recipes import get_recipe
from tokenprune.weights.sites import matrices
from tokenprune.weights.text import perplexity, windows_of

RECIPES = (
    "magnitude,wanda,wanda-owl,sparsegpt,dsnot,gblm,wanda-2:4,sparsegpt-2:4,"
    "wanda-sp,flap,flap-refit,cfsp,amp,llm-pruner,shortgpt,finercut"
)


def halves(data: Path) -> tuple[str, str]:
    rows = articles(data / "lm/wikitext2/wikitext2.jsonl.gz")
    return "\n\n".join(rows[: len(rows) // 2]), "\n\n".join(rows[len(rows) // 2 :])


def articles(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def clock() -> float:
    import torch

    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    lm = fresh_causal_lm(args.model)
    first, second = halves(args.data)
    texts = {"wikitext2": second}
    if args.shakespeare:
        texts["shakespeare"] = articles(args.data / "lm/shakespeare/shakespeare.jsonl.gz")[0]
    calibration = windows_of(lm.tokenizer, first, args.windows, args.window, "calibration text")
    row: dict[str, Any] = {"recipe": name}
    model = lm.model
    if name != "dense":
        label, _, share = name.partition("@")
        recipe = get_recipe(label)
        began = clock()
        done = prune(model, calibration, recipe, float(share) if share else None)
        row["seconds"] = clock() - began
        row["sparsity"] = done.sparsity
        model = materialise(model, done.kept, done.biases)
    row["parameters"] = sum(p.numel() for p in model.parameters())
    layers = [w for layer in model.model.layers for w in matrices(layer).values() if w.numel()]
    row["nonzero_in_layers"] = sum(int((w != 0).sum()) for w in layers)
    for text, content in texts.items():
        rows = windows_of(lm.tokenizer, content, args.eval_windows, args.window, text)
        row[text] = perplexity(model, rows)
    row["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def table(rows: list[dict[str, Any]]) -> str:
    texts = [t for t in ("wikitext2", "shakespeare") if t in rows[0]]
    lines = [
        "| recipe | sparsity | "
        + " | ".join(texts)
        + " | parameters, M | non-zero in layers, M | seconds | peak, GB |",
        "|---|---:|" + "---:|" * (len(texts) + 4),
    ]
    for row in rows:
        lines.append(
            f"| {row['recipe']} | {row.get('sparsity', 0):.2f} | "
            + " | ".join(f"{row[t]:.2f}" for t in texts)
            + f" | {row['parameters'] / 1e6:.1f} | {row['nonzero_in_layers'] / 1e6:.1f} "
            f"| {row.get('seconds', 0):.0f} | {row['peak_gb']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("TOKENPRUNE_DATA")
    parser.add_argument("--data", type=Path, default=Path(default) if default else None)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--eval-windows", type=int, default=24)
    parser.add_argument("--shakespeare", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/weights.json"))
    args = parser.parse_args()
    if args.data is None or not (args.data / "lm/wikitext2").is_dir():
        parser.error("--data (or TOKENPRUNE_DATA) must name the folder that holds lm/wikitext2")
    import torch

    settings = {
        "model": args.model,
        "windows": args.windows,
        "window": args.window,
        "eval_windows": args.eval_windows,
        "threads": torch.get_num_threads(),
        "shakespeare": args.shakespeare,
    }
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    if result.get("settings") != settings:
        result = {"settings": settings, "machine": machine(), "rows": []}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in ("dense", *args.recipes.split(",")):
        if name not in {row["recipe"] for row in result["rows"]}:
            result["rows"].append(measure(name, args))
            args.out.write_text(json.dumps(result, indent=1) + "\n")
            print(result["rows"][-1], flush=True)
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
