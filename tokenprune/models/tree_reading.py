"""A causal LM reads a prompt once and then a whole tree of continuations in a few passes.

Every node of the tree attends to the prompt and to its own ancestors only, at the position it would have on
its path (tree attention, as in SpecInfer, arXiv 2305.09781, section 4.2): the logits are those of reading
each path by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenprune.arrays import FloatArray, IntArray
from tokenprune.errors import ModelError
from tokenprune.models.causal_lm import LoadedLM

if TYPE_CHECKING:
    import torch

_CHUNK = 256  # nodes read in one pass: bounds the logits held at once
PROMPT_END = -1


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
        ModelError: the prompt is empty, or prompt and tree exceed what the model can read.
    """
    import torch
    from transformers import DynamicCache

    depth = np.zeros(len(token), dtype=np.int64)
    for node, up in enumerate(parent.tolist()):
        depth[node] = depth[up] + 1 if up >= 0 else 0
    longest = len(prompt) + (int(depth.max()) + 1 if len(depth) else 0)
    if not len(prompt) or longest > lm.max_positions:
        raise ModelError(f"{lm.name} reads 1 to {lm.max_positions} tokens; prompt and path have {longest}")
    found: dict[int, FloatArray] = {}

    def collect(logits: torch.Tensor, first: int) -> None:
        for row in range(len(logits)):
            asked = wanted.get(first + row)
            if asked:
                found[first + row] = logits[row, list(asked)].float().cpu().numpy().astype(np.float64)

    cache: Any = DynamicCache(config=lm.model.config)
    with torch.inference_mode():
        ids = torch.tensor([list(prompt)], device=lm.device)
        collect(lm.model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits[0], PROMPT_END)
        for first in range(0, len(token), _CHUNK):
            last = min(first + _CHUNK, len(token))
            ids = torch.tensor(token[None, first:last], device=lm.device)
            positions = torch.tensor(len(prompt) + depth[None, first:last], device=lm.device)
            output = lm.model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=_mask(parent, first, last, len(prompt), lm),
                past_key_values=cache,
            )
            collect(output.logits[0], first)
    return found


def _mask(parent: IntArray, first: int, last: int, prompt: int, lm: LoadedLM) -> torch.Tensor:
    """Additive mask [1, 1, last - first, prompt + last]: 0 for the prompt, ancestors and the node itself."""
    import torch

    seen = np.zeros((last - first, prompt + last), dtype=bool)
    seen[:, :prompt] = True
    for node in range(first, last):
        at = node
        while at >= 0:
            seen[node - first, prompt + at] = True
            at = int(parent[at])
    dtype = lm.model.dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=lm.device)
    mask.masked_fill_(torch.from_numpy(~seen).to(lm.device), torch.finfo(dtype).min)
    return mask[None, None]
