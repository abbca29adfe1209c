"""Train llava-mini on a CPU: its vision tower, the projector behind it, then projector and language model.

    python benchmarks/vision/train.py tower RUN --steps 1200
    python benchmarks/vision/train.py align RUN --steps 400
    python benchmarks/vision/train.py reader RUN --steps 2000
    python benchmarks/vision/train.py pack RUN tokenprune/data/llava-mini
    python benchmarks/vision/train.py check RUN tokenprune/data/llava-mini
    python benchmarks/vision/train.py atp RUN tokenprune/data/llava-mini

RUN holds the rendered scenes, a checkpoint of each stage and its log (log.jsonl). A command that is given
again goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.vision.*

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import LlavaForConditionalGeneration  # noqa: E402

from benchmarks.vision import align as align_stage  # noqa: E402
from benchmarks.vision import tower as tower_stage  # noqa: E402
from benchmarks.vision.gaze import Gaze  # noqa: E402
from benchmarks.vision.model import build, save  # noqa: E402
from benchmarks.vision.optimizer import Both, warm_then_cosine  # noqa: E402
from benchmarks.vision.packing import project  # noqa: E402
from benchmarks.vision.prepared import FRAMES, MAKERS, prepared  # noqa: E402
from benchmarks.vision.questions import sample  # noqa: E402
from benchmarks.vision.reader import Batches  # noqa: E402
from benchmarks.vision.scenes import picture  # noqa: E402

State = dict[str, Any]
WORKERS = 2


class Run:
    """The folder of a training: its log and the stages' checkpoints."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._begin = time.perf_counter()

    def log(self, **values: Any) -> None:
        line = json.dumps({"seconds": round(time.perf_counter() - self._begin, 1)} | values)
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def load(self, stage: str) -> State | None:
        path = self.folder / f"{stage}.pt"
        return torch.load(path, weights_only=False) if path.exists() else None

    def store(self, stage: str, state: State) -> None:
        path = self.folder / f"{stage}.pt"
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)


def fit(
    run: Run,
    stage: str,
    steps: int,
    optimizer: Both,
    modules: dict[str, torch.nn.Module],
    batch_loss: Callable[[int, int], tuple[torch.Tensor, dict[str, float]]],
    check: Callable[[], dict[str, float]],
    every: int = 200,
) -> None:
    """Step to the end from the stage's last checkpoint; validate and store every so many steps.

    A step's batch is made of WORKERS parts, each the work of one thread that computes alone: threads that
    share every operation wait for each other thousands of times a step, which costs half the speed when
    anything else runs on the machine.
    """
    torch.set_num_threads(WORKERS)
    state = run.load(stage)
    start = 0
    if state is not None:
        start = state["step"]
        optimizer.load_state_dict(state["optimizer"])
        for name, module in modules.items():
            module.load_state_dict(state[name])

    def part(step: int, worker: int) -> dict[str, float]:
        torch.set_num_threads(1)
        value, right = batch_loss(step, worker)
        (value / WORKERS).backward()  # type: ignore[no-untyped-call]
        return right | {"loss": float(value.detach())}

    sums: dict[str, list[float]] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for step in range(start, steps):
            for found in pool.map(part, [step] * WORKERS, range(WORKERS)):
                for name, number in found.items():
                    sums.setdefault(name, []).append(number)
            optimizer.step(warm_then_cosine(step, steps))
            if (step + 1) % 50 == 0:
                means = {name: round(float(np.mean(values)), 4) for name, values in sums.items()}
                run.log(stage=stage, step=step + 1, **means)
                sums = {}
            if (step + 1) % every == 0 or step + 1 == steps:
                run.log(stage=stage, step=step + 1, validation=check())
                stored = {name: module.state_dict() for name, module in modules.items()}
                run.store(stage, stored | {"step": step + 1, "optimizer": optimizer.state_dict()})


def train_tower(run: Run, options: argparse.Namespace) -> None:
    """Crowds for the half, pictures and frames of videos."""
    counts = {"picture": options.pictures, "video": options.videos, "crowd": options.crowds}
    pixels = {
        kind: prepared(options.pixels or run.folder, kind, "train", count) for kind, count in counts.items()
    }
    model = build()
    tower = model.model.vision_tower
    heads = tower_stage.Heads(tower.config.hidden_size)
    optimizer = Both([tower, heads], options.rate)

    def batch(rng: np.random.Generator, kind: str, count: int, size: int, drawn: Any, split: Any) -> Any:
        numbers = np.sort(rng.choice(count, size, replace=False))
        frames = rng.integers(0, FRAMES[kind], size)
        scenes = [MAKERS[kind](split, int(number)) for number in numbers]
        return (drawn[numbers, frames], *tower_stage.targets(scenes, frames))

    def step_loss(step: int, worker: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng((1, step, worker))
        size = options.batch // WORKERS
        parts = [
            batch(rng, kind, counts[kind], own, pixels[kind], "train")
            for kind, own in (("crowd", size - size // 4 * 2), ("picture", size // 4), ("video", size // 4))
        ]
        shown = tower_stage.normalized(np.concatenate([part[0] for part in parts]))
        patches, whole = (torch.cat([part[i] for part in parts]) for i in (1, 2))
        return tower_stage.loss(tower, heads, shown, patches, whole)

    def check() -> dict[str, float]:
        drawn = prepared(options.pixels or run.folder, "picture", "validation", 500)
        with torch.no_grad():
            shown, patches, whole = batch(np.random.default_rng(2), "picture", 500, 250, drawn, "validation")
            return tower_stage.loss(tower, heads, tower_stage.normalized(shown), patches, whole)[1]

    fit(run, "tower", options.steps, optimizer, {"tower": tower, "heads": heads}, step_loss, check)


def with_tower(run: Run) -> LlavaForConditionalGeneration:
    """Return a fresh model with the trained tower."""
    trained = run.load("tower")
    if trained is None:
        raise SystemExit(f"{run.folder} holds no trained tower: run the stage 'tower' first")
    model = build()
    model.model.vision_tower.load_state_dict(trained["tower"])
    align_stage.spread(model)
    return model


def train_align(run: Run, options: argparse.Namespace) -> None:
    """Pictures only: a frame of a video looks the same."""
    model = with_tower(run)
    projector = model.model.multi_modal_projector
    targets = align_stage.Targets(model)
    pixels = prepared(options.pixels or run.folder, "picture", "train", options.pictures)
    optimizer = Both([projector], options.rate)

    def batch_loss(split: Any, drawn: Any, numbers: np.ndarray) -> tuple[torch.Tensor, dict[str, float]]:
        scenes = [picture(split, int(number)) for number in numbers]
        patches, _ = tower_stage.targets(scenes, np.zeros(len(scenes), dtype=int))
        with torch.no_grad():
            seen = model.model.vision_tower(tower_stage.normalized(drawn[numbers, 0])).last_hidden_state
        return align_stage.loss(targets, project(model, seen), patches)

    def step_loss(step: int, worker: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng((4, step, worker))
        numbers = np.sort(rng.choice(options.pictures, options.batch // WORKERS, replace=False))
        return batch_loss("train", pixels, numbers)

    def check() -> dict[str, float]:
        drawn = prepared(options.pixels or run.folder, "picture", "validation", 500)
        with torch.no_grad():
            return batch_loss("validation", drawn, np.arange(100))[1]

    fit(
        run, "align", options.steps, optimizer, {"projector": projector, "targets": targets}, step_loss, check
    )


def train_reader(run: Run, options: argparse.Namespace) -> None:
    """Pictures, and videos from the share of the steps on that is asked for: two frames first, then all."""
    if options.start is None:
        model = with_tower(run)
        aligned = run.load("align")
        if aligned is None:
            raise SystemExit(f"{run.folder} holds no trained projector: run the stage 'align' first")
        model.model.multi_modal_projector.load_state_dict(aligned["projector"])
    else:
        model = LlavaForConditionalGeneration.from_pretrained(options.start, dtype="float32")
        if run.load("tower") is None:
            run.store("tower", {"tower": model.model.vision_tower.state_dict()})  # `pack` asks for it
    pixels = options.pixels or run.folder
    counts = {"picture": options.pictures, "video": options.videos}
    train = Batches(model, pixels, "train", counts)
    validation = Batches(model, pixels, "validation", {"picture": 500, "video": 200})
    gaze = Gaze(model)
    trained = [model.model.multi_modal_projector, model.model.language_model]
    optimizer = Both(trained, options.rate, options.lift)

    def step_loss(step: int, worker: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng((2, step, worker))
        done = step / options.steps
        kind, frames, size = "picture", (0,), options.batch // WORKERS
        if done > options.video_from and step % 3:
            whole = done > (1 + options.video_from) / 2
            kind, frames = "video", (0, 1, 2, 3) if whole else (0, 3)
            size = max(1, size // len(frames) * 2)
        numbers = rng.choice(counts[kind], size, replace=False)
        loss, looking, right = train.taught(gaze, kind, numbers, rng, frames)
        shares = {f"{kind} {len(frames)}": float(right.float().mean()), "looking": float(looking.detach())}
        return loss + options.gaze * looking, shares

    def check() -> dict[str, float]:
        found = validation.accuracy("picture", 60)
        return found | validation.accuracy("video", 20, (0, 1, 2, 3), size=5)

    modules = {"projector": model.model.multi_modal_projector, "language": model.model.language_model}
    fit(run, "reader", options.steps, optimizer, modules, step_loss, check)


def pack_model(run: Run, options: argparse.Namespace) -> None:
    """Store the trained model as a checkpoint, beside its card."""
    tower, reader = run.load("tower"), run.load("reader")
    if tower is None or reader is None:
        raise SystemExit(f"{run.folder} does not hold both trained stages")
    model = build()
    model.model.vision_tower.load_state_dict(tower["tower"])
    model.model.multi_modal_projector.load_state_dict(reader["projector"])
    model.model.language_model.load_state_dict(reader["language"])
    save(model, options.out)


def check_model(run: Run, options: argparse.Namespace) -> None:
    """Print the accuracy of a stored checkpoint by type of question, on scenes of the test split."""
    model = LlavaForConditionalGeneration.from_pretrained(options.out, dtype="float32")
    drawn = {"picture": options.pictures, "video": options.videos}
    test = Batches(model, options.pixels or run.folder, "test", drawn)
    found = test.accuracy("picture", options.pictures)
    found |= test.accuracy("video", options.videos, (0, 1, 2, 3), size=5)
    run.log(stage="check", model=str(options.out), test=found)


def train_atp_module(run: Run, options: argparse.Namespace) -> None:
    """Train the thresholds of ATP-LLaVA on the stored model, which stays as it is; store them."""
    from tokenprune.vision.atp_train import ATPTraining, Example, train_atp
    from tokenprune.vision.engine import VisionEngine

    def examples() -> Iterator[Example]:
        for number in count():
            scene = picture("train", number)
            shown = [Image.fromarray(scene.render()[0])]
            for question in sample(scene, 2, np.random.default_rng((3, number))):
                yield shown, question.text, question.answer

    def log(step: int, loss: float, share: float) -> None:
        if step % 20 == 0:
            run.log(stage="atp", step=step, loss=round(loss, 4), share=round(share, 4))

    engine = VisionEngine(str(options.out), device="cpu", dtype="float32")
    how = ATPTraining(target=options.target, steps=options.steps)
    file = options.out / "atp.safetensors" if options.file is None else options.file
    train_atp(engine, examples(), how=how, log=log).save(file)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = made.add_subparsers(dest="stage", required=True)
    for name, steps, batch, rate in (
        ("tower", 1200, 16, 2e-3),
        ("align", 400, 32, 3e-3),
        ("reader", 2000, 8, 2e-3),
    ):
        stage = stages.add_parser(name)
        stage.add_argument("run", type=Path)
        stage.add_argument("--steps", type=int, default=steps)
        stage.add_argument("--batch", type=int, default=batch, help="scenes a step")
        stage.add_argument("--rate", type=float, default=rate, help="peak learning rate")
        stage.add_argument("--pictures", type=int, default=20_000, help="drawn in advance")
        stage.add_argument("--videos", type=int, default=4_000, help="drawn in advance")
        stage.add_argument("--pixels", type=Path, help="where the drawn scenes lie, RUN by default")
    stages.choices["tower"].add_argument("--crowds", type=int, default=10_000, help="drawn in advance")
    stages.choices["reader"].add_argument(
        "--video-from", type=float, default=0.4, help="share of the steps after which videos begin"
    )
    stages.choices["reader"].add_argument(
        "--lift", type=float, default=4.0, help="how many times as high Muon's rate is"
    )
    stages.choices["reader"].add_argument(
        "--gaze", type=float, default=1.0, help="weight of the loss of where to look"
    )
    stages.choices["reader"].add_argument(
        "--start", type=Path, help="a stored checkpoint to go on from, in the place of the first two stages"
    )
    for name in ("pack", "check", "atp"):
        stage = stages.add_parser(name)
        stage.add_argument("run", type=Path)
        stage.add_argument("out", type=Path, help="folder of the checkpoint")
    check = stages.choices["check"]
    check.add_argument("--pictures", type=int, default=500)
    check.add_argument("--videos", type=int, default=200)
    check.add_argument("--pixels", type=Path, help="where the drawn scenes lie, RUN by default")
    stages.choices["atp"].add_argument("--steps", type=int, default=300)
    stages.choices["atp"].add_argument("--target", type=float, default=0.25, help="share of visual tokens")
    stages.choices["atp"].add_argument("--file", type=Path, help="to write, OUT/atp.safetensors by default")
    return made


def main(argv: list[str] | None = None) -> None:
    options = parser().parse_args(argv)
    stages = {
        "tower": train_tower,
        "align": train_align,
        "reader": train_reader,
        "pack": pack_model,
        "check": check_model,
        "atp": train_atp_module,
    }
    stages[options.stage](Run(options.run), options)


if __name__ == "__main__":
    main()
