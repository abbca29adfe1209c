"""Show what was removed from a model, layer by layer: a table with bars, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.weights.card import Card, read_card

if TYPE_CHECKING:
    from rich.console import Group

_WIDTH = 16


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
    rows = zip(card.layers, card.kept.layers, shares(card), strict=True)
    new = 0
    for index, (layer, kept, (attention, ffn)) in enumerate(rows):
        stays = layer.attention or layer.mlp or bool(layer.biases)
        cells = [
            str(index),
            _bar(attention),
            f"{len(kept.kv_heads)}/{card.sizes['kv_heads'][index]}",
            _bar(ffn),
            f"{len(kept.channels)}/{card.sizes['channels'][index]}",
        ]
        if experts:
            cells.append(f"{len(kept.experts or ())}/{card.sizes['experts'][index]}" if kept.experts else "")
        zeros = card.zeros.get(str(new), 0.0) if stays else 0.0
        cells += [f"{zeros:.0%}" if zeros else "", " ".join(layer.biases)]
        cells.append(f"{layer.parameters / layer.dense_parameters:.0%}")
        table.add_row(*cells)
        new += stays
    return Group(*(Text(line) for line in _head(card)), table)


def picture(folder: str | Path, out: str | Path) -> Path:
    """Draw the same as an image; the ending of ``out`` names the format (png, svg, pdf).

    Raises:
        ModelError: The folder holds no pruned model, or ``out`` cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    card = read_card(folder)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("drawing", "measure", error.name or "matplotlib") from error

    stays = shares(card)
    figure = Figure(figsize=(max(6.0, 0.25 * len(stays) + 1.5), 4.2), layout="constrained")
    rows = figure.subplots(2, 1, sharex=True, sharey=True)
    names = ("attention: KV groups kept", "FFN: channels kept")
    for axis, name, values in zip(rows, names, zip(*stays, strict=True), strict=True):
        axis.bar(range(len(stays)), [1.0] * len(stays), color="#e6e6e6")
        axis.bar(range(len(stays)), values, color="#3b6ea5")
        axis.set_title(name, loc="left", fontsize=9)
        axis.set_ylim(0, 1)
        axis.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axis.spines[["top", "right"]].set_visible(False)
    rows[1].set_xlabel("layer of the dense model")
    figure.suptitle(_head(card)[0], fontsize=10)
    target = Path(out).expanduser()
    try:
        figure.savefig(target, dpi=150)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot draw to {target}: {error}; use a writable .png, .svg or .pdf") from error
    return target


def _head(card: Card) -> list[str]:
    source = Path(card.source).name if card.source else "a model"
    recipe = ", ".join(f"{key} {value}" for key, value in card.recipe.items())
    lines = [f"{source}, pruned" + (f": {recipe}" if recipe else "")]
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
