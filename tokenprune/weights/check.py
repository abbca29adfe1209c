"""Does an exported folder compute what the dense model computes with the same slices set to zero?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenprune.errors import ModelError
from tokenprune.weights.card import Card, read_card
from tokenprune.weights.kept import Biases, Kept
from tokenprune.weights.masked import masked

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far an exported model is from the masked dense one.

    Attributes:
        tokens: Tokens compared.
        largest: Largest difference of a logit.
        spread: Standard deviation of the dense logits, to compare it with.
        same_choice: Share of tokens after which both hold the same next token for the likeliest.
    """

    tokens: int
    largest: float
    spread: float
    same_choice: float


def check(
    folder: str | Path,
    model: PreTrainedModel,
    kept: Kept | None = None,
    biases: Biases | None = None,
    *,
    ids: torch.Tensor | None = None,
    tolerance: float = 1e-3,
) -> Agreement:
    """Load ``folder`` with transformers in float32 and compare it with ``model``, masked.

    Args:
        folder: What `tokenprune.weights.export.export` wrote.
        model: The dense model it was made from, with the weights it had then; best in float32.
        kept: What was kept; read from the card by default.
        biases: The biases that were given to the export; by default those found in the folder are taken for
            right, and all else is compared.
        ids: Token ids [batch, tokens] to compare on; some fixed random ones by default.
        tolerance: Largest difference of a logit allowed, as a share of the spread of the logits. 16-bit
            weights that were rounded in the export need more.

    Raises:
        ModelError: They differ by more, or the folder cannot be loaded.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    import tokenprune.weights.hf_model  # noqa: F401  # registers our classes

    card = read_card(folder)
    if ids is None:
        vocabulary = model.config.vocab_size
        ids = torch.randint(vocabulary, (2, 64), generator=torch.Generator().manual_seed(0))
    try:
        exported = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load {folder}: {error}; export the model again") from error
    exported = exported.to(model.device).eval()
    biases = _biases_in(exported, card, model) if biases is None else biases
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), masked(model, kept or card.kept, biases):
            expected = model(ids.to(model.device)).logits.float()
    finally:
        model.train(training)
    with torch.inference_mode():
        found = exported(ids.to(model.device)).logits
    result = Agreement(
        tokens=ids.numel(),
        largest=float((found - expected).abs().max()),
        spread=float(expected.std()),
        same_choice=float((found.argmax(-1) == expected.argmax(-1)).float().mean()),
    )
    # written so that a NaN fails
    if not result.largest <= tolerance * result.spread:
        raise ModelError(
            f"{folder} does not compute what the masked model computes: logits differ by up to "
            f"{result.largest:.2g} (their spread is {result.spread:.2g}); do not use it, and report this"
        )
    return result


def _biases_in(exported: PreTrainedModel, card: Card, dense: PreTrainedModel) -> Biases:
    """What the exported biases add to those of the dense model."""
    found: dict[str, torch.Tensor] = {}
    left = iter(exported.model.layers)
    for index, (layer, own) in enumerate(zip(card.layers, dense.model.layers, strict=True)):
        if not (layer.attention or layer.mlp or layer.biases):
            continue
        new = next(left)
        for kind, there, linear, before in (
            ("o_bias", layer.attention, "self_attn.o_proj", own.self_attn),
            ("down_bias", layer.mlp, "mlp.down_proj", own.mlp),
        ):
            if kind in layer.biases:
                name = linear.rpartition(".")[2]
                bias = getattr(before, name).bias if there else None
                added = new.get_submodule(linear).bias.detach()
                found[f"layers.{index}.{kind}"] = added if bias is None else added - bias.detach().float()
    return found
