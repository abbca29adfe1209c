"""Scenes put to the model in our engine: encoded once, pruned by every method, asked with every question."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.common.context import Context
from benchmarks.vision.questions import PICTURE_TYPES, Question, questions, sample
from benchmarks.vision.scenes import Scene, Split, picture, video
from tokenprune.models.catalog import resolve_model
from tokenprune.vision.engine import VisionEngine, continue_all, rows_per_layer
from tokenprune.vision.methods.atp_llava import WEIGHTS

if TYPE_CHECKING:
    from tokenprune.engine.schedule import Reducer
    from tokenprune.vision.tokens import Reduced, VisualTokens

MODEL = "llava-mini"
FULL = "none"
ATP = "atp-llava"


@dataclass(frozen=True)
class Named:
    """A method as the tables call it.

    Attributes:
        name: shown.
        before: name of a method before the language model, None: none.
        options: of the method before the language model, or of atp-llava.
        inside: names of methods inside the language model; the first gets what is kept unless the method
            before it does.
    """

    name: str
    before: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    inside: tuple[str, ...] = ()

    def reduce(self, tokens: VisualTokens, keep: float) -> Reduced:
        """Return what is left of the tokens before the language model."""
        from tokenprune.vision.methods import vision_method
        from tokenprune.vision.methods.base import everything

        if self.before is None or keep == 1:
            return everything(tokens)
        return vision_method(self.before, **self.options).reduce(tokens, keep)

    def reducers(self, keep: float) -> tuple[Reducer, ...]:
        """Return what prunes inside the language model."""
        from tokenprune.vision.methods.base import inner_method

        if keep == 1:
            return ()
        own = {"keep": keep} if self.before is None else {}
        return tuple(inner_method(name, **(self.options if name == ATP else own)) for name in self.inside)


METHODS = {
    method.name: method
    for method in (
        Named("fopru rank", "fopru", {"strategy": "rank"}),
        Named("fopru row", "fopru", {"strategy": "row"}),
        *(Named(name, name) for name in ("visionzip", "divprune", "prumerge", "evs", "holitom")),
        Named("holitom + merge", "holitom", inside=("holitom-merge",)),
        Named("uniform", "uniform"),
        Named("random", "random"),
        Named("fastv", inside=("fastv",)),
        Named(ATP, options={"weights": MODEL}, inside=(ATP,)),
    )
}


def atp_modules(context: Context) -> list[tuple[Named, str]]:
    """Return ATP-LLaVA with each module that is there, with the module's hash.

    How much stays, a module has learned: for other shares others are trained (`train.py atp --target`), and
    each is measured at the share that comes of it. Thresholds moved by hand would be another method.
    """
    found = []
    for given in context.options.atp:
        file = Path(given) if given.endswith(".safetensors") else Path(resolve_model(given)) / WEIGHTS
        if not file.is_file():
            context.note(f"atp-llava is left out: there is no {file.name} in {given}")
            continue
        name = ATP if given == MODEL else f"{ATP} {file.stem}"
        method = Named(name, options={"weights": str(file)}, inside=(ATP,))
        found.append((method, _version(_model_file("model.safetensors"), file)))
    return found


def load(model: str = MODEL) -> VisionEngine:
    """Load a model in float32 on the CPU."""
    return VisionEngine(model, device="cpu", dtype="float32")


def _model_file(name: str) -> Path:
    return Path(resolve_model(MODEL)) / name


def _version(*files: Path) -> str:
    """Hash of weights: results belong to them."""
    content = b"".join(file.read_bytes() for file in files)
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()[:10]


def content(question: str, frames: int = 1) -> list[dict[str, str]]:
    """Return a user's turn as OpenAI parts; a video's frames come with their numbers."""
    parts: list[dict[str, str]] = []
    for frame in range(frames):
        if frames > 1:
            parts.append({"type": "text", "text": f"frame {frame + 1}"})
        parts.append({"type": "image"})
    return [*parts, {"type": "text", "text": question}]


def prompt_ids(engine: VisionEngine, question: str, frames: int = 1) -> list[int]:
    """Return the prompt's tokens, one placeholder for a picture."""
    tokenizer = engine.engine.lm.tokenizer
    turn = [{"role": "user", "content": content(question, frames)}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def images(scene: Scene) -> list[Image.Image]:
    """Draw a scene."""
    return [Image.fromarray(pixels) for pixels in scene.render()]


def encode(engine: VisionEngine, scene: Scene) -> VisualTokens:
    """Return the tokens of a picture or of a whole video."""
    drawn = images(scene)
    return engine.encoder.encode(drawn)[0] if len(drawn) == 1 else engine.encoder.encode([], [drawn])[0]


def ask(
    engine: VisionEngine, tokens: VisualTokens, left: Reduced, asked: Sequence[Question], inner: Any = ()
) -> list[str]:
    """Return the word the model answers to each question with what is left of the tokens."""
    from tokenprune.engine.sampling import SamplingParams
    from tokenprune.vision.prompts import seeing

    prompts = [
        seeing(prompt_ids(engine, question.text, tokens.grid[0]), engine.image_token, [tokens], [left])
        for question in asked
    ]
    lm = engine.engine.lm
    params = SamplingParams(max_tokens=2, temperature=0.0)
    found = continue_all(engine.engine.decoder, prompts, params, frozenset(lm.eos_ids), inner)
    return [lm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in found]


def rows_read(engine: VisionEngine, tokens: VisualTokens, left: Reduced, text: str, inner: Any) -> list[int]:
    """Return how many tokens each layer of the language model reads of a prompt."""
    from tokenprune.engine.reading import read_prompts
    from tokenprune.vision.llm import Inside
    from tokenprune.vision.prompts import seeing

    made = seeing(prompt_ids(engine, text, tokens.grid[0]), engine.image_token, [tokens], [left])
    reducer = Inside(tuple(inner)) if inner else None
    return rows_per_layer(read_prompts(engine.engine.decoder, [made], reducer=reducer)[0])


def pictures(count: int, split: Split = "test") -> Iterator[tuple[Scene, list[Question]]]:
    """Draw pictures, with a question of each type."""
    for number in range(count):
        scene = picture(split, number)
        yield scene, sample(scene, len(PICTURE_TYPES), np.random.default_rng((9, number)))


def videos(count: int, split: Split = "test") -> Iterator[tuple[Scene, list[Question]]]:
    """Draw videos of four frames, with all their questions."""
    for number in range(count):
        scene = video(split, number)
        yield scene, questions(scene)


def measure(
    context: Context, section: str, cases: Sequence[tuple[Scene, list[Question]]], keeps: Sequence[float]
) -> list[dict[str, Any]]:
    """Ask every question with every method at every share of the tokens.

    Returns:
        A row for each method and share: ``right``, one list of booleans by type, and ``kept``, the mean over
        scenes of the share of visual tokens that the layers of the language model read.
    """
    engine = load()
    store = context.store(section)
    version = _version(_model_file("model.safetensors"))
    wanted = [(Named(FULL), 1.0)]
    versions: dict[str, str] = {}  # of methods with weights of their own
    for name in context.options.methods:
        if name != ATP:
            wanted += [(METHODS[name], keep) for keep in keeps]
            continue
        for method, own in atp_modules(context):
            versions[method.name] = own
            wanted.append((method, 0.0))  # it decides itself how much stays
    rows: dict[tuple[str, float], dict[str, Any]] = {}
    for scene, asked in context.track(cases, len(cases), section):
        tokens = None
        for method, keep in wanted:
            own = versions.get(method.name, version)
            key = f"{own}|{scene.split} {scene.number}|{len(asked)}|{method.name}|{keep}"
            if key not in store:
                tokens = encode(engine, scene) if tokens is None else tokens
                left, inner = method.reduce(tokens, keep), method.reducers(keep)
                said = ask(engine, tokens, left, asked, inner)
                # What stays inside the language model may depend on the question.
                shares = []
                for question in asked if inner else asked[:1]:
                    read = rows_read(engine, tokens, left, question.text, inner)
                    shares.append((float(np.mean(read)) - (read[0] - len(left))) / len(tokens))
                store.put(
                    key,
                    {
                        "right": [word == q.answer for word, q in zip(said, asked, strict=True)],
                        "kept": float(np.mean(shares)),
                    },
                )
            row = rows.setdefault(
                (method.name, keep), {"method": method.name, "keep": keep, "kept": [], "right": {}}
            )
            row["kept"].append(store[key]["kept"])
            for question, right in zip(asked, store[key]["right"], strict=True):
                row["right"].setdefault(question.type, []).append(right)
    store.close()
    return [row | {"kept": float(np.mean(row["kept"]))} for row in rows.values()]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turn what `measure` returns into accuracies, and into shares of the accuracy with all tokens."""
    full = next(row for row in rows if row["method"] == FULL)
    whole = float(np.mean(_all(full)))
    return [
        {
            "method": row["method"],
            "keep": row["keep"],
            "kept": row["kept"],
            "n": len(_all(row)),
            "accuracy": float(np.mean(_all(row))),
            "of_full": float(np.mean(_all(row))) / whole if whole else 0.0,
            "types": {name: float(np.mean(right)) for name, right in row["right"].items()},
        }
        for row in rows
    ]


def _all(row: dict[str, Any]) -> list[bool]:
    return [right for group in row["right"].values() for right in group]
