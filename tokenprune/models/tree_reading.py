"""A causal LM reads a prompt once and then a whole tree of continuations in a few passes.

Every node of the tree attends to the prompt and to its own ancestors only, at the position it would have on
its path (tree attention, as in SpecInfer, arXiv 2305.09781, section 4.2): the logits are those of reading
each path by itself. Layers with a window (Mistral, Gemma) see of that path what lies within it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenprune.arrays import BoolArray, FloatArray, IntArray
from tokenprune.errors import ModelError
from tokenprune.models.causal_lm import LoadedLM

if TYPE_CHECKING:
    import torch

_CHUNK = 256  # nodes read in one pass: bounds the logits held at once
PROMPT_END = -1
_SLIDING = "sliding_attention"  # as transformers names them


def read_tree(
    lm: LoadedLM,
    prompt: Sequence[int],
    token: IntArray,
    parent: IntArray,
    wanted: Mapping[int, Sequence[int]],
) -> dict[int, FloatArray]:
    """Return logits of chosen next tokens after the prompt and after nodes of a tree.

    Args:
        lm: the model.
        prompt: token ids, at least one.
        token: int64 [t], token of each node.
        parent: int64 [t], an earlier node, or `PROMPT_END`.
        wanted: node (or `PROMPT_END`) -> token ids whose logits are asked for.

    Returns:
        float64 arrays in the order asked, one per key of ``wanted``.

    Raises:
        ModelError: the prompt is empty, prompt and tree exceed what the model can read, or it has layers of
            another kind than full and sliding attention.
    """
    import torch
    from transformers import DynamicCache

    depth = np.zeros(len(token), dtype=np.int64)
    for node, up in enumerate(parent.tolist()):
        depth[node] = depth[up] + 1 if up >= 0 else 0
    longest = len(prompt) + (int(depth.max()) + 1 if len(depth) else 0)
    if not len(prompt) or longest > lm.max_positions:
        raise ModelError(f"{lm.name} reads 1 to {lm.max_positions} tokens; prompt and path have {longest}")
    windows = _windows(lm)
    position = np.concatenate([np.arange(len(prompt)), len(prompt) + depth])
    found: dict[int, FloatArray] = {}

    def collect(logits: torch.Tensor, first: int) -> None:
        for row in range(len(logits)):
            asked = wanted.get(first + row)
            if asked:
                found[first + row] = logits[row, list(asked)].float().cpu().numpy().astype(np.float64)

    # Without the config it keeps all of the prompt in layers with a window, too: the masks fit every layer.
    cache: Any = DynamicCache()
    with torch.inference_mode():
        ids = torch.tensor([list(prompt)], device=lm.device)
        collect(lm.model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits[0], PROMPT_END)
        for first in range(0, len(token), _CHUNK):
            last = min(first + _CHUNK, len(token))
            ids = torch.tensor(token[None, first:last], device=lm.device)
            own = position[len(prompt) + first : len(prompt) + last]
            seen = _seen(parent, first, last, len(prompt))
            away = own[:, None] - position[None, : len(prompt) + last]
            masks = {kind: _additive(seen & (away < window), lm) for kind, window in windows.items()}
            positions = torch.tensor(own[None], device=lm.device)
            collect(_read(lm, ids, positions, masks, cache), first)
    return found


def _read(
    lm: LoadedLM, ids: torch.Tensor, positions: torch.Tensor, masks: dict[str, torch.Tensor], cache: Any
) -> torch.Tensor:
    """Logits [n, vocabulary] of tokens [1, n] that see what the mask of each kind of layer lets them see."""
    mixed = len(masks) > 1
    mask: Any = masks if mixed else next(iter(masks.values()))
    try:
        output = lm.model(input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache)
    except AttributeError as error:
        if not mixed:
            raise
        # It takes the masks for one.
        raise _unreadable(lm, f"{' and '.join(masks)} without masks of their own") from error
    logits: torch.Tensor = output.logits[0]
    return logits


def _unreadable(lm: LoadedLM, kinds: str) -> ModelError:
    return ModelError(
        f"{lm.name} has layers of {kinds}, which cannot read a tree of answers: use a model of full or "
        "sliding-window attention"
    )


def _windows(lm: LoadedLM) -> dict[str, float]:
    """Tokens that a token sees at most, itself included, in each kind of layer that the model has."""
    config = lm.model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ("full_attention" if window is None else _SLIDING,))
    known = {"full_attention": math.inf, _SLIDING: window or math.inf}
    if unknown := sorted(kinds - set(known)):
        raise _unreadable(lm, ", ".join(unknown))
    if getattr(lm.model, "_is_stateful", False):  # not every one of them says so by its kinds of layers
        raise _unreadable(lm, "a recurrent state")
    return {kind: known[kind] for kind in sorted(kinds)}


def _seen(parent: IntArray, first: int, last: int, prompt: int) -> BoolArray:
    """Bool [last - first, prompt + last]: true for the prompt, ancestors and the node itself."""
    seen = np.zeros((last - first, prompt + last), dtype=bool)
    seen[:, :prompt] = True
    for node in range(first, last):
        at = node
        while at >= 0:
            seen[node - first, prompt + at] = True
            at = int(parent[at])
    return seen


def _additive(seen: BoolArray, lm: LoadedLM) -> torch.Tensor:
    """The mask [1, 1, *seen.shape] that is added to attention logits."""
    import torch

    dtype = lm.model.dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=lm.device)
    mask.masked_fill_(torch.from_numpy(~seen).to(lm.device), torch.finfo(dtype).min)
    return mask[None, None]
