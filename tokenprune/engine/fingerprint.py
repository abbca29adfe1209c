"""A short name for the weights of a decoder, the same on every machine and in every fresh process."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from tokenprune.engine.decoder import Decoder

_SAMPLES = 64  # values of each matrix that are looked at: a fine-tune changes nearly all of them


def fingerprint(decoder: Decoder) -> str:
    """Return 16 hex digits of the shape of a model, its rotation, and values spread over all its weights.

    Values count as bfloat16, so that a model has one fingerprint in float32 and in bfloat16. In float16 it
    may have another. Reading all of the weights would take longer than loading them.
    """
    import torch

    weights = decoder.weights
    shape = (
        decoder.depth,
        weights.heads,
        weights.kv_heads,
        weights.head_dim,
        decoder.hidden,
        decoder.vocabulary,
        f"{weights.epsilon:.3e}",
        f"{weights.scale:.5e}",
        [layer.window for layer in weights.layers],
    )
    digest = hashlib.sha256(repr(shape).encode())
    rotary = weights.rotary
    turns = getattr(rotary, "original_inv_freq", None)
    digest.update(f"{getattr(rotary, 'attention_scaling', 1.0):.4f}".encode())
    with torch.inference_mode():
        digest.update(_sample(rotary.inv_freq if turns is None else turns))
        digest.update(_sample(weights.embedding))
        for layer in weights.layers:
            for projection in (layer.qkv, layer.out, layer.gate_up, layer.down):
                digest.update(_sample(projection.weight))
    return digest.hexdigest()[:16]


def _sample(weight: torch.Tensor) -> bytes:
    import torch

    flat = weight.reshape(-1)
    at = torch.linspace(0, len(flat) - 1, _SAMPLES, dtype=torch.float64).long().to(flat.device)
    sampled: bytes = flat[at].to(torch.bfloat16).cpu().view(torch.int16).numpy().tobytes()
    return sampled
