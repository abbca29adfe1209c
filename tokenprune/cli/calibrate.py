"""``tokenprune calibrate``: which layer and heads of a model find the tokens that answer a question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tokenprune.engine.calibration import Calibration


def calibrate(
    model: Annotated[str, typer.Argument(help="A named model, a folder or a hub id.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Write the result here, not to where the methods find it.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="Fewer and shorter prompts: a first look.", show_default=False)
    ] = False,
    prompts: Annotated[int | None, typer.Option(help="Prompts to read.", show_default="48")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens of a prompt.", show_default="2048")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts.")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Share of answers an earlier layer may miss beyond the best.", show_default="0.05"),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="Take this layer, with the best heads for it.", show_default="by tolerance"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Number format of the model.", show_default="the fastest")
    ] = None,
) -> None:
    """Find out which layer, pooling and heads of a model find answers, for gemfilter and gemfilter-q.

    Generated prompts are read, each once: needles with distractors, and questions over passages. The table
    shows for each layer its cost (share of a full prefill) and the share of answers among the kept tokens.

    Example: tokenprune calibrate smollm2-135m --quick
    """
    from dataclasses import replace

    from tokenprune.calibrate.run import QUICK, Settings
    from tokenprune.calibrate.run import calibrate as run
    from tokenprune.engine.calibration import check_writable, shipped, store
    from tokenprune.engine.decoder import Decoder
    from tokenprune.models.causal_lm import load_causal_lm
    from tokenprune.models.progress import reporting

    given: dict[str, Any] = {"prompts": prompts, "tokens": tokens, "tolerance": tolerance, "layer": layer}
    settings = replace(
        QUICK if quick else Settings(), seed=seed, **{k: v for k, v in given.items() if v is not None}
    )
    check_writable(out)
    lm = load_causal_lm(model, dtype=dtype)
    decoder = Decoder(lm.model, lm.name)
    with reporting(model) as report:
        found = run(lm, decoder, settings, report)
    _show(found)  # what took minutes is not lost should the file fail
    path = store(found, out)
    typer.echo(f"written to {path}")
    if out is None and any(found.fingerprint == known.fingerprint for known in shipped()):
        typer.echo("it goes before the one that ships for these weights; remove the file to go back")


def _show(found: Calibration) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "cost", "question", "layer alone", "all heads", "last token"):
        table.add_column(heading, justify="right")
    for row in found.layers:
        layer = int(row["layer"])
        marks = "*" * (layer == found.question.layer) + "+" * (layer == found.published.layer)
        shares = (f"{row[name]:.2f}" for name in ("cost", "kept", "alone", "all_heads", "last_token"))
        table.add_row(f"{marks}{layer}", *shares)
    console = Console()
    console.print(table)
    chosen = found.question
    heads = "all heads" if chosen.heads is None else f"heads {', '.join(map(str, chosen.heads))}"
    earlier = "".join(
        f", and of layer {n} {', '.join(map(str, own))}" for n, own in sorted(chosen.earlier.items())
    )
    rule = "attention" if chosen.softmax else "raw q.k"
    if chosen.around is not None:
        rule += f" relative to {chosen.around} tokens about"
    console.print(
        f"* gemfilter-q: layer {chosen.layer} of {found.depth}, {rule}, pooling {chosen.kernel}, {heads}"
        f"{earlier}; answers kept: {_kept(chosen.kept)}"
    )
    console.print(f"+ gemfilter: layer {found.published.layer}; answers kept: {_kept(found.published.kept)}")
    console.print(f"{found.prompts}, the others are shown here.")
    if not any(chosen.kept.values()):
        console.print("No layer found any answer: take more prompts, or longer ones, before you go by this.")


def _kept(shares: Mapping[int, float]) -> str:
    return ", ".join(f"{share:.0%} at {count}" for count, share in shares.items())
