"""Show what was removed from a model, layer by layer: a table with bars, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.folders import picture_file
from tokenprune.weights.card import Card, read_card

if TYPE_CHECKING:
    from rich.console import Group

_WIDTH = 10  # so that a row fits 80 columns


def shares(card: Card) -> list[tuple[float, float]]:
    """Share of the attention and of the FFN (channels times experts) that stays, for each dense layer."""
    result = []
    for index, layer in enumerate(card.kept.layers):
        attention = len(layer.kv_heads) / card.sizes["kv_heads"][index]
        ffn = len(layer.channels) / card.sizes["channels"][index]
        if layer.experts is not None:
            ffn *= len(layer.experts) / card.sizes["experts"][index]
        result.append((attention, ffn))
    return result


def report(folder: str | Path) -> Group:
    """Build what ``tokenprune weights inspect`` prints.

    Raises:
        ModelError: The folder holds no pruned model.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    card = read_card(folder)
    table = Table(box=None, pad_edge=False)
    experts = any(layer.experts is not None for layer in card.layers)
    for heading in ("layer", "attention", "KV groups", "FFN", "channels", *(["experts"] if experts else [])):
        table.add_column(
            heading, justify="right" if heading in ("layer", "KV groups", "channels") else "left"
        )
    for heading in ("zeros", "biases", "parameters"):
        table.add_column(heading, justify="left" if heading == "biases" else "right")
    rows = zip(card.layers, card.kept.layers, shares(card), card.zero_shares(), strict=True)
    for index, (layer, kept, (attention, ffn), zeros) in enumerate(rows):
        cells = [
            str(index),
            _bar(attention),
            f"{len(kept.kv_heads)}/{card.sizes['kv_heads'][index]}",
            _bar(ffn),
            f"{len(kept.channels)}/{card.sizes['channels'][index]}",
        ]
        if experts:
            cells.append(f"{len(kept.experts or ())}/{card.sizes['experts'][index]}" if kept.experts else "")
        cells += [f"{zeros:.0%}" if zeros else "", " ".join(b.removesuffix("_bias") for b in layer.biases)]
        cells.append(f"{layer.parameters / layer.dense_parameters:.0%}")
        table.add_row(*cells)
    return Group(*(Text(line) for line in _head(card)), table)


def picture(folder: str | Path, out: str | Path) -> Path:
    """Draw the same as an image; the ending of ``out`` names the format (png, svg, pdf).

    Zeros are a pale part of what stays.

    Raises:
        ModelError: The folder holds no pruned model, or ``out`` cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    card = read_card(folder)
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise MissingExtraError("drawing", "measure", error.name or "matplotlib") from error

    stays, zeros = shares(card), card.zero_shares()
    figure = Figure(figsize=(max(6.0, 0.25 * len(stays) + 1.5), 4.2), layout="constrained")
    rows = figure.subplots(2, 1, sharex=True, sharey=True)
    experts = any(layer.experts is not None for layer in card.layers)
    names = ("attention: KV groups kept", f"FFN: {'channels of experts' if experts else 'channels'} kept")
    for axis, name, values in zip(rows, names, zip(*stays, strict=True), strict=True):
        axis.bar(range(len(stays)), [1.0] * len(stays), color="#e6e6e6")
        if any(zeros):
            axis.bar(range(len(stays)), values, color="#a9c1da", label="zeros")
        filled = [value * (1 - zero) for value, zero in zip(values, zeros, strict=True)]
        axis.bar(range(len(stays)), filled, color="#3b6ea5")
        axis.set_title(name, loc="left", fontsize=9)
        axis.set_ylim(0, 1)
        axis.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axis.spines[["top", "right"]].set_visible(False)
    rows[1].set_xlabel("layer of the dense model")
    rows[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if any(zeros):
        rows[0].legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    figure.suptitle(_title(card), fontsize=10)
    try:
        target = picture_file(out)
        figure.savefig(target, dpi=150)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot draw to {str(out)!r}: {error}; use a writable .png, .svg or .pdf"
        ) from error
    return target


def _title(card: Card) -> str:
    """What fits above a small picture: whose picture it is."""
    known = [str(card.recipe["name"])] if "name" in card.recipe else []
    known += [f"sparsity {card.recipe['sparsity']}"] if "sparsity" in card.recipe else []
    return f"{_source(card)}, pruned" + (f": {', '.join(known)}" if known else "")


def _source(card: Card) -> str:
    return Path(card.source).name if card.source else "a model"


def _head(card: Card) -> list[str]:
    recipe = ", ".join(f"{key} {value}" for key, value in card.recipe.items())
    lines = [f"{_source(card)}, pruned" + (f": {recipe}" if recipe else "")]
    for step in card.earlier:
        lines.append("before that: " + ", ".join(f"{key} {value}" for key, value in step.items()))
    dense, pruned = card.dense, card.pruned
    saved = (
        f"parameters {_millions(dense.parameters)} -> {_millions(pruned.parameters)}"
        f" ({pruned.parameters / dense.parameters:.0%})"
    )
    if dense.kv_bytes_per_token:
        saved += f", KV cache {pruned.kv_bytes_per_token / dense.kv_bytes_per_token:.0%}"
    lines.append(saved + f", prompt operations {pruned.prefill_flops / dense.prefill_flops:.0%}")
    if card.perplexity:
        lines.append(
            "perplexity " + ", ".join(f"{key} {value:.2f}" for key, value in card.perplexity.items())
        )
    lines.append(f"loads as {card.architecture}")
    return [*lines, ""]


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"


def _bar(share: float) -> str:
    """A bar of blocks and dots; what stays at all shows as a block, what is dropped says so."""
    if not share:
        return "dropped".ljust(_WIDTH, "·")
    full = max(1, round(share * _WIDTH))
    return "█" * full + "·" * (_WIDTH - full)
