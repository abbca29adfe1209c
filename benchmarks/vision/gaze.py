"""Teaching one layer where to look: a second loss beside that of the answers.

At the token behind which the answer comes, one head of the layer is taught to attend to the patches of the
things that the question is about, and another, for questions of number, to the patches that hold their
centres, with the first token as a fixed share: how much is left for it tells how many there are. In a video
the one attends to what moved in the first frame, the other in the last. Without this loss a model of this
size needs several times as many steps until it finds anything by its name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from benchmarks.vision.model import PATCHES
from benchmarks.vision.packing import Pack
from benchmarks.vision.questions import Question
from benchmarks.vision.scenes import Scene
from benchmarks.vision.tower import labels

LAYER = 3  # of six: what moved has to be seen below it
FIRST_SHARE = 2.0  # of the first token beside 1 for every thing that is counted


class Gaze:
    """Keeps what the layer reads in every thread's last pass through the model."""

    def __init__(self, model: LlavaForConditionalGeneration):
        self._attention = model.model.language_model.layers[LAYER].self_attn
        self._seen = threading.local()

    @contextmanager
    def watching(self) -> Iterator[None]:
        def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            names = ("hidden_states", "position_embeddings", "attention_mask")
            self._seen.read = tuple(kwargs[name] for name in names)

        hook = self._attention.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def loss(self, packed: Pack, wanted: Tensor) -> Tensor:
        """Return the cross entropy of the two heads' attention [b, k, 2, head] with what is wanted.

        Rows of zeros are not taught.
        """
        states, (cos, sin), mask = self._seen.read
        _, slots, length = packed.slots.shape
        head, width = len(packed.head), self._attention.head_dim
        split = (*states.shape[:2], -1, width)
        q, k = (
            (F.linear(states, projection.weight[: 2 * width])).view(split).transpose(1, 2)
            for projection in (self._attention.q_proj, self._attention.k_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        rows = head + torch.arange(slots) * length + packed.ends  # [b, k]
        asking = q.gather(2, rows[:, None, :, None].expand(-1, 2, -1, width))
        logits = asking @ k.mT * self._attention.scaling  # [b, 2, k, s]
        seen = mask[:, 0].expand(len(rows), -1, -1)
        seen = seen.gather(1, rows[..., None].expand(-1, -1, seen.shape[-1]))  # [b, k, s]
        logs = (logits + seen[:, None]).log_softmax(-1)[..., :head].transpose(1, 2)
        taught = wanted.sum(-1) > 0
        each: Tensor = -(wanted * logs).sum(-1)[taught]
        return each.mean()


def wanted(scenes: Sequence[Scene], asked: Sequence[Sequence[Question]], packed: Pack, image: int) -> Tensor:
    """Return where the two heads should look [b, k, 2, head]; ``image`` is the id of a patch's token."""
    where = torch.nonzero(packed.head == image)[:, 0]
    found = torch.zeros(len(scenes), len(asked[0]), 2, len(packed.head))
    for b, (scene, questions) in enumerate(zip(scenes, asked, strict=True)):
        # Alone, so that a patch that several things cover is each one's.
        own = np.stack(
            [
                np.concatenate([labels([thing], frame) for frame in range(scene.frames)])
                for thing in scene.things
            ]
        )
        covers, centres = torch.from_numpy(own[:, :, 1] > 0).float(), torch.from_numpy(own[:, :, 5])
        for k, question in enumerate(questions):
            about = list(question.about)
            seen = covers[about].sum(0).clamp(max=1)
            if scene.frames > 1:
                found[b, k, 0, where[:PATCHES]] = seen[:PATCHES]
                found[b, k, 1, where[-PATCHES:]] = seen[-PATCHES:]
                continue
            found[b, k, 0, where] = seen
            if question.type == "count":
                found[b, k, 1, where] = centres[about].sum(0)
                found[b, k, 1, 0] = FIRST_SHARE
    assert len(where) == scenes[0].frames * PATCHES
    return found / found.sum(-1, keepdim=True).clamp(min=1e-9)
