"""Recovery curves: perplexity against minutes of PERP, LoRA and distillation from a structured model.

    python benchmarks/weights/recovery.py --data DATA [--recipe wanda-sp] [--sparsity 0.25] [--minutes 30]
        [--ways perp,lora,distill] [--out build/recovery]

Prunes on the first half of lm/wikitext2, trains on it, and measures on the second half, as run.py does. The
number of steps follows from --minutes and the time of two trial steps; minutes are those of training alone,
wall clock. Share won back is of the logarithm of the perplexity. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tokenprune.bench.machine import machine
from tokenprune.weights.materialise import materialise
from tokenprune.weights.prune import prune
from tokenprune.weights.recipes import get_recipe
from tokenprune.weights.recovery.train import Recovery
from tokenprune.weights.text import mean_nll, windows_of

if TYPE_CHECKING:
    import torch

WAYS = {
    "perp": Recovery("perp", biases=True),
    "lora": Recovery("lora"),
    "distill": Recovery("full", distill=True, lr=1e-4),
}


class Watch:
    """Measures while a model is trained; its own time does not count."""

    def __init__(self, model: Any, held: torch.Tensor, every: int, curve: dict[str, Any], save: Any) -> None:
        self.model, self.held, self.every, self.curve, self.save = model, held, every, curve, save
        self.step, self.began = 0, time.perf_counter()
        self.before = 0.0

    def stage(self, label: str, total: float | None) -> None:
        """Begin to count."""
        self.began = time.perf_counter()

    def update(self, done: float, total: float | None = None) -> None:
        """Go on behind a checkpoint: points behind it are measured again."""
        self.step = int(done)
        self.curve["points"] = [p for p in self.curve["points"] if p["step"] <= self.step]
        if self.curve["points"]:
            last = self.curve["points"][-1]
            pace = self.curve["seconds_per_step"]
            self.before = 60 * last["minutes"] + pace * (self.step - last["step"])

    def advance(self, amount: float) -> None:
        """Count a step; measure now and then."""
        self.step += 1
        if self.step % self.every and self.step != self.curve["steps"]:
            return
        self.before += time.perf_counter() - self.began
        nll = mean_nll(self.model, self.held)
        point = {"step": self.step, "minutes": self.before / 60, "perplexity": math.exp(nll)}
        self.curve["points"].append(point)
        self.save()
        self.began = time.perf_counter()


def curves(
    dense: Any,
    calibration: torch.Tensor,
    text: torch.Tensor,
    held: torch.Tensor,
    settings: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Prune ``dense``, recover it in all ways, and return what was measured, which is kept in ``out``.

    Args:
        dense: A transformers decoder in float32; it stays as it is.
        calibration: int64 [n, tokens].
        text: To train on, int64 [n, tokens].
        held: To measure on, int64 [n, tokens].
        settings: recipe, sparsity, minutes, ways, points.
        out: Folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / "recovery.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if result.get("settings") != settings:
        result = {"settings": settings, "machine": machine(), "curves": {}}

    def save() -> None:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1) + "\n")
        part.replace(file)

    model = copy.deepcopy(dense)
    done = prune(model, calibration, get_recipe(settings["recipe"]), settings["sparsity"])
    small = materialise(model, done.kept, done.biases)
    del model
    if "pruned" not in result:
        result |= {"dense": math.exp(mean_nll(dense, held)), "pruned": math.exp(mean_nll(small, held))}
        save()
    for way in settings["ways"]:
        how = WAYS[way]
        teacher = dense if how.needs_dense else None
        if way not in result["curves"]:
            trial = how.prepare(copy.deepcopy(small))
            began = time.perf_counter()
            replace(how, steps=2).run(trial, text, teacher)
            pace = (time.perf_counter() - began) / 2
            steps = max(4, round(60 * settings["minutes"] / pace))
            start = {"step": 0, "minutes": 0.0, "perplexity": result["pruned"]}
            result["curves"][way] = {"steps": steps, "seconds_per_step": pace, "points": [start]}
            save()
        curve = result["curves"][way]
        if curve["points"][-1]["step"] == curve["steps"]:
            continue
        recovered = how.prepare(copy.deepcopy(small))
        every = max(1, curve["steps"] // settings["points"])
        watch = Watch(recovered, held, every, curve, save)
        replace(how, steps=curve["steps"]).run(recovered, text, teacher, out / f"{way}.recovery", watch)
    return result


def won_back(result: dict[str, Any], perplexity: float) -> float:
    """Return the share of the lost log-perplexity that is back."""
    lost = math.log(result["pruned"] / result["dense"])
    return math.log(result["pruned"] / perplexity) / lost


def table(result: dict[str, Any]) -> str:
    lines = ["| recovery | steps | minutes | perplexity | won back |", "|---|---:|---:|---:|---:|"]
    lines.append(f"| none (dense {result['dense']:.2f}) | 0 | 0 | {result['pruned']:.2f} | 0 % |")
    for way, curve in result["curves"].items():
        last = curve["points"][-1]
        share = won_back(result, last["perplexity"])
        lines.append(
            f"| {way} | {last['step']} | {last['minutes']:.1f} | {last['perplexity']:.2f} | {share:.0%} |"
        )
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for way, curve in result["curves"].items():
        points = curve["points"]
        axis.plot([p["minutes"] for p in points], [p["perplexity"] for p in points], marker=".", label=way)
    half = math.sqrt(result["dense"] * result["pruned"])
    for value, name in ((result["dense"], "dense"), (half, "half won back")):
        axis.axhline(value, color="#9a9a9a", linestyle="--", linewidth=1)
        place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        axis.annotate(name, (1, value), fontsize=8, color="#6a6a6a", **place)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("minutes of training")
    axis.set_ylabel("perplexity")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("TOKENPRUNE_DATA")
    made.add_argument("--data", type=Path, default=Path(default) if default else None)
    made.add_argument("--model", default="smollm2-135m")
    made.add_argument("--recipe", default="wanda-sp")
    made.add_argument("--sparsity", type=float, default=0.25)
    made.add_argument("--minutes", type=float, default=30.0)
    made.add_argument("--ways", default=",".join(WAYS))
    made.add_argument("--window", type=int, default=512)
    made.add_argument("--eval-windows", type=int, default=8)
    made.add_argument("--points", type=int, default=10)
    made.add_argument("--out", type=Path, default=Path("build/recovery"))
    return made


def main(argv: Sequence[str] | None = None) -> None:
    from benchmarks.weights.run import halves
    from tokenprune.models.causal_lm import fresh_causal_lm

    made = parser()
    args = made.parse_args(argv)
    ways = args.ways.split(",")
    if unknown := set(ways) - set(WAYS):
        made.error(f"unknown ways: {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    if args.data is None or not (args.data / "lm/wikitext2").is_dir():
        made.error("--data (or TOKENPRUNE_DATA) must name the folder that holds lm/wikitext2")
    first, second = halves(args.data)
    lm = fresh_causal_lm(args.model)
    text = windows_of(lm.tokenizer, first, None, args.window, "training text")
    calibration = windows_of(lm.tokenizer, first, min(32, len(text)), args.window, "calibration text")
    held = windows_of(lm.tokenizer, second, args.eval_windows, args.window, "held-out text")
    names = ("model", "recipe", "sparsity", "minutes", "window", "eval_windows", "points")
    settings = {name: getattr(args, name) for name in names} | {"ways": ways}
    result = curves(lm.model, calibration, text, held, settings, args.out)
    draw(result, args.out / "recovery.png")
    (args.out / "recovery.md").write_text(table(result) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
