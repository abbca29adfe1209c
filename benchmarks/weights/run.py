"""Perplexity, answers, size and cost of pruning of every recipe on one model.

    python benchmarks/weights/run.py --data DATA [--recipes magnitude,wanda@0.5,flap@0.2] [--windows 32]
        [--window 512] [--eval-windows 20] [--eval-window 1024] [--questions 40] [--out build/weights]
        [--keep]

Each recipe runs as `tokenprune weights prune` does, in a process of its own: calibrated on the first half of
the articles of lm/wikitext2, exported, loaded again, and evaluated on the second half, on lm/shakespeare and
by the NLL of the gold answers behind the gold passages of retrieval/nq20. A recipe may carry a sparsity
behind an @. All in float32 on the CPU; seconds are CPU time of the process when torch has one thread. Rows
are stored one by one in OUT/rows.json and found again, so a run that was stopped goes on. Folders of models
that became smaller stay in OUT with --keep, to be served. Folders that another program made
(llmcompressor_peer.py, on the windows in OUT/calibration.npy) are evaluated with --folders name=DIR,name=DIR.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.nll import messages
from benchmarks.common.resumed import add_row, resumed
from benchmarks.rag_quality import contexts
from tokenprune.errors import TokenPruneError
from tokenprune.models.causal_lm import LoadedLM, fresh_causal_lm, load_tokenizer
from tokenprune.quality import answer_nll
from tokenprune.weights.card import read_card
from tokenprune.weights.recipes import get_recipe
from tokenprune.weights.run import Calibration, prune_to
from tokenprune.weights.text import perplexity, windows_of

RECIPES = (
    "magnitude,wanda,wanda-owl,ecoflap,sparsegpt,dsnot,gblm,perp,wanda-2:4,sparsegpt-2:4,"
    "wanda-sp,flap,flap-refit,cfsp,amp,llm-pruner,adapt-pruner,minitron,shortgpt,finercut"
)
SERVED = ("units", "depth", "experts")


def halves(data: Path) -> tuple[str, str]:
    rows = articles(data / "lm/wikitext2/wikitext2.jsonl.gz")
    return "\n\n".join(rows[: len(rows) // 2]), "\n\n".join(rows[len(rows) // 2 :])


def articles(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def write_calibration(args: argparse.Namespace) -> None:
    """Write the text, and the windows that are cut of it for programs with a tokenizer of their own."""
    first, _ = halves(args.data)
    text = args.out / "calibration.txt"
    text.write_text(first, encoding="utf-8")
    rows = windows_of(load_tokenizer(args.model), first, args.windows, args.window, "calibration text")
    np.save(args.out / "calibration.npy", rows.numpy())


def clock() -> float:
    import torch

    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def gold_nll(lm: LoadedLM, args: argparse.Namespace) -> float:
    """Mean over questions; the answer stands behind the passage that holds it."""
    found = []
    for item in contexts.items(args.data, "nq20", args.questions, 0):
        gold = [i for i, passage in enumerate(item.passages) if passage.relevant]
        text = contexts.render(item.passages, contexts.whole(item.passages, gold))
        found.append(answer_nll(lm, messages(text, item.question), item.answers[0]))
    known = [value for value in found if value is not None]
    return sum(known) / len(known)


def measure(name: str, args: argparse.Namespace, made: str | None = None) -> dict[str, Any]:
    """Return the row of a recipe, or of a folder that is made already."""
    row: dict[str, Any] = {"recipe": name}
    _, second = halves(args.data)
    folder, source = args.out / name.replace(":", "-"), made or args.model
    pruning = made is None and name != "dense"
    if pruning:
        label, _, share = name.partition("@")
        recipe = get_recipe(label)
        calibration = Calibration(args.out / "calibration.txt", args.windows, args.window)
        began = clock()
        prune_to(
            args.model, folder, label, recipe, calibration, float(share) if share else None, overwrite=True
        )
        row["seconds"] = clock() - began
        row["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        row["sparsity"] = read_card(folder).recipe["sparsity"]
        row["structure"] = recipe.structure
        source = str(folder)
    lm = fresh_causal_lm(source)
    weights = list(lm.model.parameters())
    row["parameters"] = sum(p.numel() for p in weights)
    row["nonzero"] = sum(int((p != 0).sum()) for p in weights)
    for text_name, content in (
        ("wikitext2", second),
        ("shakespeare", articles(args.data / "lm/shakespeare/shakespeare.jsonl.gz")[0]),
    ):
        rows = windows_of(lm.tokenizer, content, args.eval_windows, args.eval_window, text_name)
        row[text_name] = perplexity(lm.model, rows)
    row["gold_nll"] = gold_nll(lm, args)
    if pruning and not (args.keep and row["structure"] in SERVED):
        shutil.rmtree(folder)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| recipe | sparsity | wikitext2 | shakespeare | gold-answer NLL | parameters, M | not zero, M "
        "| seconds | peak, GB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['recipe']} | {row['error']} |")
            continue
        lines.append(
            f"| {row['recipe']} | {row.get('sparsity', 0):.2f} | {row['wikitext2']:.2f} "
            f"| {row['shakespeare']:.2f} | {row['gold_nll']:.3f} | {row['parameters'] / 1e6:.1f} "
            f"| {row['nonzero'] / 1e6:.1f} | {row.get('seconds', 0):.0f} | {row.get('peak_gb', 0):.1f} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("TOKENPRUNE_DATA")
    made.add_argument("--data", type=Path, default=Path(default) if default else None)
    made.add_argument("--model", default="smollm2-135m")
    made.add_argument("--recipes", default=RECIPES)
    made.add_argument("--folders", default="")
    made.add_argument("--windows", type=int, default=32)
    made.add_argument("--window", type=int, default=512)
    made.add_argument("--eval-windows", type=int, default=20)
    made.add_argument("--eval-window", type=int, default=1024)
    made.add_argument("--questions", type=int, default=40)
    made.add_argument("--keep", action="store_true")
    made.add_argument("--out", type=Path, default=Path("build/weights"))
    return made


def main() -> None:
    command = parser()
    args = command.parse_args()
    if args.data is None or not (args.data / "lm/wikitext2").is_dir():
        command.error("--data (or TOKENPRUNE_DATA) must name the folder that holds lm/wikitext2")
    import torch

    settings = {
        key: getattr(args, key)
        for key in ("model", "windows", "window", "eval_windows", "eval_window", "questions")
    } | {"threads": torch.get_num_threads()}
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "rows.json"
    result = resumed(file, settings)
    write_calibration(args)
    folders = dict(pair.split("=", 1) for pair in args.folders.split(",") if pair)
    # a process for each recipe: its peak of memory is its own
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in ("dense", *filter(None, args.recipes.split(",")), *folders):
            if name in {row["recipe"] for row in result["rows"]}:
                continue
            try:
                row = pool.apply(measure, (name, args, folders.get(name)))
            except TokenPruneError as error:
                row = {"recipe": name, "error": str(error)}
            add_row(file, result, row)
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
