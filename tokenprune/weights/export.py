"""Write a pruned model as a folder that servers load, whole or not at all, with a card of what was done."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune import __version__, folders
from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.folders import LICENCES, whole_folder
from tokenprune.models.device import loading_alone
from tokenprune.weights.card import CARD, README, Card, earlier_of, write_card
from tokenprune.weights.kept import Biases, Kept
from tokenprune.weights.latency import Latency
from tokenprune.weights.materialise import materialise

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def export(
    model: PreTrainedModel,
    kept: Kept,
    folder: str | Path,
    *,
    biases: Biases | None = None,
    small: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    source: str | Path | None = None,
    licence: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    perplexity: Mapping[str, float] | None = None,
    latency: Latency | None = None,
    overwrite: bool = False,
) -> Path:
    """Cut ``model`` down to ``kept`` and write it to ``folder``.

    Args:
        model: The dense model, its weights compensated or zeroed as the recipe wants.
        kept: What stays of it.
        folder: Where to write; its parent is made if need be.
        biases: What compensation adds to projections, see `tokenprune.weights.materialise.materialise`.
        small: ``model`` cut down already, and perhaps trained since; it is cut here by default.
        tokenizer: Copied beside the weights.
        source: Name or folder of the model that was pruned; a licence file in a folder is copied.
        licence: The source model's licence, an SPDX name.
        recipe: What was done: name, sparsity, criterion and so on, as it should stand in the card.
        calibration: On what: text, tokens and so on.
        perplexity: Numbers for the card by name, such as ``dense`` and ``pruned``.
        latency: The table that costs of latency were counted by, for the card.
        overwrite: Replace a folder that was exported before; nothing else is ever replaced.

    Returns:
        The folder.

    Raises:
        ModelError: The folder exists, the weights hold NaN or infinity, or it cannot be written; then
            there is no folder, or the old one.
        MissingExtraError: torch or transformers is not installed.
    """
    place = Path(folder).expanduser().absolute()
    check_place(place, overwrite)
    small = materialise(model, kept, biases) if small is None else small
    card = Card.of(
        dense=model.config,
        kept=kept,
        biases=biases or {},
        version=__version__,
        architecture=architecture_of(small),
        zeros=_zeros(small),
        source=None if source is None else str(source),
        licence=licence,
        recipe=dict(recipe or {}),
        calibration=dict(calibration or {}),
        perplexity=dict(perplexity or {}),
        latency=latency,
        earlier=earlier_of(source),
    )
    return write_model(
        small, card.measured(small), place, tokenizer=tokenizer, source=source, overwrite=overwrite
    )


def write_model(
    small: PreTrainedModel,
    card: Card,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    source: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model that is cut already with its card; arguments and errors as for `export`."""
    try:
        from safetensors import SafetensorError
    except ImportError as error:
        raise MissingExtraError("writing models", "models", error.name or "safetensors") from error

    place = Path(folder).expanduser().absolute()
    check_place(place, overwrite)
    _check_finite(small)
    try:
        with whole_folder(place) as out:
            _write(small, tokenizer, source, card, out)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot write the model to {place}: {error}; nothing was left there, free some space or choose "
            "another folder"
        ) from error
    return place


def architecture_of(small: PreTrainedModel) -> str:
    """Return the class that loads a model."""
    named = small.config.architectures
    return str(named[0]) if named else type(small).__name__


def check_place(place: Path, overwrite: bool) -> None:
    """Raise ModelError where nothing may be written; good to know before hours of pruning."""
    folders.check_place(place, overwrite, CARD, "pruned model")


def _check_finite(small: PreTrainedModel) -> None:
    import torch

    for name, tensor in small.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ModelError(
                f"{name} holds NaN or infinity; nothing is written: check the source checkpoint, or prune in "
                "float32"
            )


def _zeros(small: PreTrainedModel) -> dict[str, float]:
    """Share of zeros among the matrices of each layer, where there are any."""
    share: dict[str, float] = {}
    for index, layer in enumerate(small.model.layers):
        matrices = [parameter for parameter in layer.parameters() if parameter.dim() > 1]
        total = sum(matrix.numel() for matrix in matrices)
        if total:
            zero = sum(int((matrix == 0).sum()) for matrix in matrices) / total
            if zero > 0.001:  # dense weights underflow now and then
                share[str(index)] = round(zero, 4)
    return share


def _write(
    small: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    source: str | Path | None,
    card: Card,
    out: Path,
) -> None:
    with loading_alone():
        small.save_pretrained(out)
    if tokenizer is not None:
        tokenizer.save_pretrained(out)
    origin = Path(source).expanduser() if source is not None else None
    if origin is not None and origin.is_dir():
        for name in LICENCES:
            if (origin / name).is_file():
                shutil.copyfile(origin / name, out / name)
    write_card(card, out)


__all__ = ["CARD", "README", "check_place", "export", "write_model"]
