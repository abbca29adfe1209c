"""Many questions about one scene in one sequence, each of which sees what it would see alone.

Behind the prompt's beginning (the pictures' tokens) follow the questions with their answers, padded to slots
of one length. A question attends to the beginning and to itself, and its positions go on where the beginning
ends: what the model computes is what it would compute for every question's own prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from benchmarks.vision.model import PATCHES
from benchmarks.vision.questions import Question


def head_text(frames: int) -> str:
    """Write the prompt's beginning as the chat template would: a video's frames come with their numbers."""
    if frames == 1:
        return "<s>user <image>"
    return "<s>user " + " ".join(f"frame {index + 1} <image>" for index in range(frames))


@dataclass(frozen=True)
class Pack:
    """Questions of a batch of scenes.

    Attributes:
        head: ids of the prompt's beginning, every picture expanded to its tokens, [h].
        slots: ids of question, "assistant" and answer, padded at the end, [b, k, l].
        ends: index in its slot of the token behind which the answer comes, [b, k].
        answers: ids of the answers, [b, k].
    """

    head: Tensor
    slots: Tensor
    ends: Tensor
    answers: Tensor


def pack(
    tokenizer: PreTrainedTokenizerFast, batch: Sequence[Sequence[Question]], frames: int, length: int
) -> Pack:
    """Tokenize; every scene has as many questions as the others.

    Raises:
        ValueError: a question does not fit into ``length`` tokens with its answer.
    """
    head = []
    for index in tokenizer.encode(head_text(frames), add_special_tokens=False):
        head += [index] * (PATCHES if index == tokenizer.convert_tokens_to_ids("<image>") else 1)
    slots, ends, answers = [], [], []
    for questions in batch:
        for question in questions:
            ids = tokenizer.encode(f"{question.text} assistant {question.answer}", add_special_tokens=False)
            if len(ids) > length:
                raise ValueError(f"{question.text!r} has more than {length} tokens with its answer")
            ends.append(len(ids) - 2)
            answers.append(ids[-1])
            slots.append(ids + [tokenizer.pad_token_id] * (length - len(ids)))
    shape = (len(batch), -1)
    return Pack(
        torch.tensor(head),
        torch.tensor(slots).view(*shape, length),
        torch.tensor(ends).view(shape),
        torch.tensor(answers).view(shape),
    )


def mask_and_positions(
    steps: Tensor, slots: int, length: int, shown: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return who may attend to whom [b, 1, s, s] (0 or the least float) and the positions [b, s].

    Args:
        steps: from each token of the beginning to the position of the next, [b, h].
        slots: number of questions.
        length: of each.
        shown: bool [b, h], which tokens of the beginning are there at all; None: all.
    """
    batch, head = steps.shape
    size = head + slots * length
    slot = torch.cat([torch.full((head,), -1), torch.arange(slots).repeat_interleave(length)])
    causal = torch.arange(size)[:, None] >= torch.arange(size)[None]
    seen = (causal & ((slot[None] == -1) | (slot[:, None] == slot[None]))).expand(batch, -1, -1)
    if shown is not None:
        there = torch.cat([shown, torch.ones(batch, slots * length, dtype=torch.bool)], dim=1)
        itself = torch.eye(size, dtype=torch.bool)  # a token that sees nothing would be no number
        seen = seen & (there[:, None] | itself)
        steps = steps * shown
    mask = torch.zeros(batch, size, size).masked_fill(~seen, torch.finfo(torch.float32).min)
    behind = steps.sum(1, keepdim=True)
    positions = torch.cat([steps.cumsum(1) - steps, behind + torch.arange(length).repeat(slots)], dim=1)
    return mask[:, None], positions


def project(model: LlavaForConditionalGeneration, features: Tensor) -> Tensor:
    """Turn the tower's states [n, 1 + patches, width] into input of the language model [n, patches, h]."""
    projected: Tensor = model.model.multi_modal_projector(features[:, 1:])
    return projected


@dataclass(frozen=True)
class Patches:
    """How the patches of a batch are put to the language model.

    Attributes:
        steps: from the position of each patch to that of the next, [frames * patches] (or a row per scene).
        shown: bool [b, frames * patches], which are there at all; None: all.
    """

    steps: Tensor
    shown: Tensor | None = None


def states(
    model: LlavaForConditionalGeneration, packed: Pack, images: Tensor, how: Patches | None = None
) -> Tensor:
    """Return the last states of all slots [b, k, l, h]; images are projected, [b, frames * patches, h].

    Args:
        model: whose projector made the images.
        packed: the questions.
        images: what stands for the patches.
        how: they are put; None: all, each one position behind the other, as in the model as it is used.
    """
    batch, slots, length = packed.slots.shape
    embed = model.get_input_embeddings()
    head = embed(packed.head)[None].expand(batch, -1, -1)
    patches = packed.head == model.config.image_token_index
    head = head.masked_scatter(patches[None, :, None].expand_as(head), images)
    inputs = torch.cat([head, embed(packed.slots.flatten(1))], dim=1)
    steps, shown = torch.ones(batch if how is not None else 1, len(packed.head)), None
    if how is not None:
        steps[:, patches] = how.steps.expand(batch, -1)
        if how.shown is not None:
            shown = torch.ones(batch, len(packed.head), dtype=torch.bool)
            shown[:, patches] = how.shown
    mask, positions = mask_and_positions(steps, slots, length, shown)
    found = model.model.language_model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return found[:, len(packed.head) :].view(batch, slots, length, -1)


def answer_loss(
    model: LlavaForConditionalGeneration, packed: Pack, images: Tensor, how: Patches | None = None
) -> tuple[Tensor, Tensor]:
    """Return the loss of the answers and of the end behind them, and which answers are right [b, k]."""
    found = states(model, packed, images, how)
    index = packed.ends[..., None, None].expand(-1, -1, 1, found.shape[-1])
    logits = model.lm_head(found.gather(2, index)[:, :, 0])
    behind = model.lm_head(found.gather(2, index + 1)[:, :, 0])
    ends = torch.full_like(packed.answers, model.config.text_config.eos_token_id)
    loss = F.cross_entropy(logits.flatten(0, 1), packed.answers.flatten())
    loss = loss + 0.05 * F.cross_entropy(behind.flatten(0, 1), ends.flatten())
    return loss, logits.argmax(-1) == packed.answers
