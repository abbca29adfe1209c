"""The pruning card: pruning.json for programs, README.md for readers, both written beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tokenprune.errors import ModelError
from tokenprune.validation import faults
from tokenprune.weights.kept import Biases, Kept, LayerKept, Shape
from tokenprune.weights.latency import Latency

CARD = "pruning.json"
README = "README.md"
_TOKENS = 1024  # length of the prompt whose cost is compared


class LayerCard(BaseModel):
    """What stays of a layer of the dense model.

    Attributes:
        attention: The attention stays.
        kv_heads: Indices of the KV groups that stay.
        mlp: The FFN stays.
        channels: Indices of the FFN channels that stay, as ranges [first, last].
        experts: Indices of the experts that stay; None without experts.
        biases: Biases that compensation added: ``o_bias``, ``down_bias``.
        parameters: Parameters of the layer now.
        dense_parameters: And before.
    """

    model_config = ConfigDict(frozen=True)

    attention: bool
    kv_heads: list[int]
    mlp: bool
    channels: list[tuple[int, int]]
    experts: list[int] | None
    biases: list[str]
    parameters: int
    dense_parameters: int


class Costs(BaseModel):
    """Parameters, bytes of KV cache a token (16 bits) and operations of a 1,024-token prompt."""

    model_config = ConfigDict(frozen=True)

    parameters: int
    kv_bytes_per_token: int
    prefill_flops: int


class Card(BaseModel):
    """All that is known about how a model was pruned.

    Attributes:
        tokenprune: Version that wrote it.
        architecture: Class that loads it; one that starts with TokenPrune needs this package.
        source: The model that was pruned.
        licence: Its licence.
        recipe: What was done.
        calibration: On what text.
        perplexity: Measured before and after.
        dense: Costs before.
        pruned: Costs now.
        sizes: KV groups, FFN channels and experts of a dense layer.
        layers: One for each layer of the dense model.
        latency: The table that costs of latency were counted by.
        zeros: Share of zeros left in the matrices of the layers that stay, numbered as they are now.
        earlier: Of a model that had been pruned before: its recipes until then, the first one first, each
            with the ``source`` it was applied to.
    """

    model_config = ConfigDict(frozen=True)

    tokenprune: str
    architecture: str
    source: str | None
    licence: str | None
    recipe: dict[str, Any]
    calibration: dict[str, Any]
    perplexity: dict[str, float]
    dense: Costs
    pruned: Costs
    sizes: dict[str, list[int]]
    layers: list[LayerCard]
    zeros: dict[str, float]
    latency: Latency | None = None
    earlier: list[dict[str, Any]] = []

    @property
    def origin(self) -> str | None:
        """The model before any pruning, as far as is known."""
        return self.earlier[0].get("source") if self.earlier else self.source

    @classmethod
    def of(cls, *, dense: Any, kept: Kept, biases: Biases, version: str, **known: Any) -> Card:
        """Fill in what follows from the dense config and what is kept; ``known`` are the other fields."""
        whole, shape = Kept.all_of(dense), Shape.of(dense)
        layers = []
        for index, layer in enumerate(kept.layers):
            added = [kind for kind in ("o_bias", "down_bias") if f"layers.{index}.{kind}" in biases]
            layers.append(
                LayerCard(
                    attention=layer.attention,
                    kv_heads=list(layer.kv_heads) if layer.attention else [],
                    mlp=layer.mlp,
                    channels=_ranges(layer.channels) if layer.mlp else [],
                    experts=None if layer.experts is None else list(layer.experts),
                    biases=added,
                    parameters=kept.layer_params(dense, index) + shape.hidden * len(added),
                    dense_parameters=whole.layer_params(dense, index),
                )
            )
        sizes = {
            "kv_heads": [shape.kv_heads] * shape.layers,
            "channels": list(shape.intermediate),
            "experts": [count or 0 for count in shape.experts],
        }
        return cls(
            tokenprune=version,
            dense=_costs(whole, dense, {}),
            pruned=_costs(kept, dense, biases),
            sizes=sizes,
            layers=layers,
            **known,
        )

    def measured(self, small: Any) -> Card:
        """Return the card with what ``small`` really holds: parameters, and biases that training added."""
        layers, left = list(self.layers), iter(small.model.layers)
        for index, layer in enumerate(layers):
            if not (layer.attention or layer.mlp or layer.biases):
                continue
            new = next(left)
            there = {
                "o_bias": getattr(new.self_attn, "o_proj", None),
                "down_bias": getattr(new.mlp, "down_proj", None),
            }
            added = [kind for kind, linear in there.items() if getattr(linear, "bias", None) is not None]
            layers[index] = layer.model_copy(
                update={"biases": added, "parameters": sum(p.numel() for p in new.parameters())}
            )
        total = sum(p.numel() for p in small.parameters())
        pruned = self.pruned.model_copy(update={"parameters": total})
        return self.model_copy(update={"layers": layers, "pruned": pruned})

    def zero_shares(self) -> list[float]:
        """Return the share of zeros in each layer of the dense model; 0 where it is dropped."""
        shares, new = [], 0
        for layer in self.layers:
            stays = layer.attention or layer.mlp or bool(layer.biases)
            shares.append(self.zeros.get(str(new), 0.0) if stays else 0.0)
            new += stays
        return shares

    @property
    def kept(self) -> Kept:
        """What stays, as it was exported."""
        return Kept(
            tuple(
                LayerKept(
                    layer.attention,
                    tuple(layer.kv_heads),
                    layer.mlp,
                    tuple(i for first, last in layer.channels for i in range(first, last + 1)),
                    None if layer.experts is None else tuple(layer.experts),
                )
                for layer in self.layers
            )
        )


def write_card(card: Card, folder: Path) -> None:
    """Write both files into ``folder``; raises OSError."""
    (folder / CARD).write_text(json.dumps(card.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    (folder / README).write_text(_readme(card), encoding="utf-8")


def read_card(folder: str | Path) -> Card:
    """Read the card of an exported folder.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    path = Path(folder).expanduser() / CARD
    try:
        return Card.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{Path(folder)} has no {CARD}; give a folder that `tokenprune weights prune` wrote"
        ) from error
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        why = faults(error) if isinstance(error, ValidationError) else error
        raise ModelError(f"cannot read {path}: {why}; export the model again") from error


def earlier_of(source: str | Path | None) -> list[dict[str, Any]]:
    """Return the recipes that a model went through already, for `Card.earlier`; of most there are none."""
    if source is None or not (Path(source).expanduser() / CARD).is_file():
        return []
    card = read_card(source)
    return [*card.earlier, {**card.recipe, "source": card.source}]


def latency_of(folder: str | Path) -> Latency:
    """Return the table that a folder was pruned by; raises ModelError where there is none."""
    latency = read_card(folder).latency
    if latency is None:
        raise ModelError(f"{Path(folder)} was not pruned with --cost latency: its card has no table")
    return latency


def _costs(kept: Kept, dense: Any, biases: Biases) -> Costs:
    return Costs(
        parameters=kept.params(dense, biases),
        kv_bytes_per_token=kept.kv_bytes_per_token(dense),
        prefill_flops=kept.prefill_flops(dense, _TOKENS),
    )


def _ranges(indices: tuple[int, ...]) -> list[tuple[int, int]]:
    """Ascending numbers as [first, last] ranges: thousands of channels stay readable."""
    ranges: list[tuple[int, int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    return ranges


def _readme(card: Card) -> str:
    head = ["---", *([f"license: {card.licence.lower()}"] if card.licence else [])]
    if card.source and "/" in card.source and not Path(card.source).expanduser().exists():
        head.append(f"base_model: {card.source}")
    name = Path(card.source).name if card.source else "a model"
    lines = [*head, "tags: [pruned, tokenprune]", "---", "", f"# {name}, pruned", ""]
    lines += [f"Pruned from `{name}`" + (f" (licence: {card.licence})" if card.licence else "") + " with"]
    lines += [f"tokenprune {card.tokenprune}. How, and every index that was kept: `{CARD}`.", ""]
    for step in card.earlier:
        lines += [f"It had been pruned before: {', '.join(f'{k} {v}' for k, v in step.items())}.", ""]
    for title, values in (("Recipe", card.recipe), ("Calibration", card.calibration)):
        if values:
            lines += [f"{title}: " + ", ".join(f"{key} {value}" for key, value in values.items()) + ".", ""]
    lines += ["| | dense | pruned | saved |", "|---|---:|---:|---:|"]
    for title, field in (
        ("parameters", "parameters"),
        ("KV cache, bytes a token (16 bit)", "kv_bytes_per_token"),
        (f"operations of a {_TOKENS:,}-token prompt", "prefill_flops"),
    ):
        before, after = getattr(card.dense, field), getattr(card.pruned, field)
        lines.append(f"| {title} | {before:,} | {after:,} | {1 - after / before:.1%} |")
    if card.latency is not None:
        lines += ["", _timed(card.latency)]
    if card.perplexity:
        lines += ["", "Perplexity: " + ", ".join(f"{k} {v:.3f}" for k, v in card.perplexity.items()) + "."]
    experts, zeros = any(layer.experts for layer in card.layers), card.zero_shares()
    if any(zeros):
        share = sum(zeros) / sum(z > 0 for z in zeros)
        lines += ["", f"Zeros among the weights of the layers: {share:.1%}. They are stored like all others."]
    heads = ["layer", "KV groups", "FFN channels", "parameters"]
    heads[3:3] = [*(["experts"] if experts else []), *(["zeros"] if any(zeros) else [])]
    lines += ["", f"| {' | '.join(heads)} |", "|" + "---:|" * len(heads)]
    for index, (layer, kept) in enumerate(zip(card.layers, card.kept.layers, strict=True)):
        cells = [
            str(index),
            _of(len(layer.kv_heads), card.sizes["kv_heads"][index]),
            _of(len(kept.channels), card.sizes["channels"][index]),
        ]
        if experts:
            cells.append(_of(len(layer.experts), card.sizes["experts"][index]) if layer.experts else "")
        if any(zeros):
            cells.append(f"{zeros[index]:.0%}")
        lines.append(f"| {' | '.join(cells)} | {layer.parameters / layer.dense_parameters:.0%} |")
    lines += ["", "## Load", "", *_loading(card), ""]
    return "\n".join(lines)


def _timed(latency: Latency) -> str:
    ffn, attention = (
        ", ".join(f"{1000 * seconds:.2f} ms with {width:,}" for width, seconds in sorted(table.items()))
        for table in (latency.ffn, latency.attention)
    )
    return (
        f"Costs were seconds of a {latency.tokens:,}-token prompt with {latency.threads} threads on "
        f"{latency.machine}: an FFN took {ffn} channels, an attention {attention} KV groups."
    )


def _of(count: int, whole: int) -> str:
    return f"{count} of {whole}" if count else "dropped"


def _loading(card: Card) -> list[str]:
    if not card.architecture.startswith("TokenPrune"):
        return [f"A plain `{card.architecture}`: transformers, vLLM and others load it as it is."]
    return [
        "Its layers differ in size. Where tokenprune is installed, vLLM serves this folder as it is and",
        "transformers loads it without remote code:",
        "",
        "```python",
        "import tokenprune.weights",
        "from transformers import AutoModelForCausalLM",
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        "```",
    ]
