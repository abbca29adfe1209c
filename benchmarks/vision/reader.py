"""Training of projector and language model behind the tower that is trained already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from benchmarks.vision.gaze import Gaze, wanted
from benchmarks.vision.model import PATCHES, tokenizer
from benchmarks.vision.packing import Pack, Patches, answer_loss, pack, project
from benchmarks.vision.prepared import MAKERS, prepared
from benchmarks.vision.questions import Question, questions, sample
from benchmarks.vision.scenes import Pixels, Scene, Split
from benchmarks.vision.tower import labels, normalized

LENGTH = 9  # of a question with its answer, tokens
PICTURE_QUESTIONS = 16
SPARSE = 0.6  # of videos, where patches that show nothing new are left out in training
LEAST_STEP = 0.04  # from a patch to the next on average, in the closest packing that is trained


def clip(scene: Scene, frames: tuple[int, ...]) -> Scene:
    """Return a video of fewer frames; they have to begin with the first and end with the last."""
    things = tuple(replace(thing, path=tuple(thing.path[f] for f in frames)) for thing in scene.things)
    return replace(scene, things=things, frames=len(frames))


def patch_steps(rng: np.random.Generator, frames: int) -> Tensor:
    """Draw how far each patch's position lies from the next's, [frames * patches].

    A picture of which tokens are left out is a shorter one, a video's frames become unequally short, and what
    is left lies in runs: the language model has to know such distances, as one does that has read texts of
    all lengths. No token is left out here.
    """
    if rng.random() < 0.3:
        return torch.ones(frames * PATCHES)
    shares = np.exp(rng.uniform(np.log(LEAST_STEP), 0, frames if rng.random() < 0.7 else 1))
    each = np.broadcast_to(shares[:, None], (frames, PATCHES))
    drawn = each if rng.random() < 0.3 else rng.random(each.shape) < each
    return torch.from_numpy(drawn.astype(np.float32)).flatten()


def sparse(scenes: Sequence[Scene], rng: np.random.Generator) -> Patches:
    """Leave out patches of later frames of videos that show nothing new: all of them, or a share.

    New is what the moving thing covers in a frame or has just uncovered. A model that has never seen a frame
    that is not whole takes a patch that is missing for something that has moved.
    """
    shown = np.ones((len(scenes), scenes[0].frames, PATCHES), dtype=bool)
    for number, scene in enumerate(scenes):
        assert scene.mover is not None
        moving = [scene.things[scene.mover]]
        covers = np.stack([labels(moving, frame)[:, 1] > 0 for frame in range(scene.frames)])
        stays = 0.0 if rng.random() < 0.5 else rng.random()
        shown[number, 1:] = covers[1:] | covers[:-1] | (rng.random((scene.frames - 1, PATCHES)) < stays)
    return Patches(patch_steps(rng, scenes[0].frames), torch.from_numpy(shown).flatten(1))


class Batches:
    """Scenes with questions, and what the model makes of them."""

    def __init__(
        self, model: LlavaForConditionalGeneration, pixels: Path, split: Split, counts: dict[str, int]
    ) -> None:
        self.model = model
        self.split = split
        self.tokenizer: PreTrainedTokenizerFast = tokenizer()
        self.drawn: dict[str, Pixels] = {
            kind: prepared(pixels, kind, split, count) for kind, count in counts.items()
        }

    def loss(
        self, kind: str, numbers: np.ndarray, rng: np.random.Generator, frames: tuple[int, ...] = (0,)
    ) -> tuple[Tensor, Tensor, list[list[Question]]]:
        """Return the answers' loss, which of them are right [b, k], and the questions."""
        _, asked, packed, images = self.batch(kind, numbers, rng, frames)
        return *answer_loss(self.model, packed, images), asked

    def taught(
        self, gaze: Gaze, kind: str, numbers: np.ndarray, rng: np.random.Generator, frames: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the answers' loss, the loss of where to look, and which answers are right [b, k]."""
        scenes, asked, packed, images = self.batch(kind, numbers, rng, frames)
        if kind == "video" and rng.random() < SPARSE:
            how = sparse(scenes, rng)
        else:
            how = Patches(patch_steps(rng, len(frames)))
        with gaze.watching():
            loss, right = answer_loss(self.model, packed, images, how)
        targets = wanted(scenes, asked, packed, self.model.config.image_token_index)
        return loss, gaze.loss(packed, targets), right

    def batch(
        self, kind: str, numbers: np.ndarray, rng: np.random.Generator, frames: tuple[int, ...]
    ) -> tuple[list[Scene], list[list[Question]], Pack, Tensor]:
        """Return scenes, questions as they are and packed, and the pictures [b, frames * patches, h]."""
        scenes = [MAKERS[kind](self.split, int(number)) for number in numbers]
        if kind == "picture":
            asked = [sample(scene, PICTURE_QUESTIONS, rng) for scene in scenes]
        else:
            scenes = [clip(scene, frames) for scene in scenes]
            asked = [questions(scene) for scene in scenes]
        packed = pack(self.tokenizer, asked, len(frames), LENGTH)
        shown = np.stack([self.drawn[kind][number, list(frames)] for number in numbers])
        with torch.no_grad():  # the tower stays as it is
            seen = self.model.model.vision_tower(normalized(shown.reshape(-1, *shown.shape[2:])))
        images = project(self.model, seen.last_hidden_state)
        return scenes, asked, packed, images.view(len(scenes), len(frames) * PATCHES, -1)

    def accuracy(
        self, kind: str, count: int, frames: tuple[int, ...] = (0,), size: int = 20
    ) -> dict[str, float]:
        """Return the share of right answers by type of question, of the first scenes of the split."""
        found: dict[str, list[bool]] = defaultdict(list)
        with torch.no_grad():
            for start in range(0, count, size):
                numbers = np.arange(start, min(start + size, count))
                _, right, asked = self.loss(kind, numbers, np.random.default_rng(start), frames)
                for row, own in zip(right.tolist(), asked, strict=True):
                    for question, is_right in zip(own, row, strict=True):
                        found[question.type].append(is_right)
        return {name: round(float(np.mean(values)), 4) for name, values in sorted(found.items())}
