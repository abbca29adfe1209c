"""``tokenprune weights``: prune a model's weights, measure and inspect what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenprune.cli.weights_inspect import inspect
from tokenprune.cli.weights_parts import parts

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Prune the weights of a model into a folder that vLLM and transformers load.\n\n"
    "Example: tokenprune weights prune smollm2-135m out --recipe flap --sparsity 0.2 --calibration text.txt",
)
app.command("inspect")(inspect)
app.command("parts")(parts)

_Model = Annotated[
    str,
    typer.Argument(help="A name of `tokenprune models list`, a folder or a hub id.", show_default=False),
]


@app.command("prune")
def prune(
    model: _Model,
    out: Annotated[Path, typer.Argument(help="The new folder.", show_default=False)],
    recipe: Annotated[str, typer.Option(help="A recipe of `tokenprune methods`.", show_default=False)],
    sparsity: Annotated[
        float | None, typer.Option(help="Share that goes, 0 to 1; the recipe's own by default.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Text, .jsonl or .jsonl.gz with `text`; without one the model writes its own."),
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Calibration windows.")] = 32,
    window: Annotated[int, typer.Option(min=2, help="Tokens of a calibration window.")] = 512,
    text: Annotated[
        Path | None, typer.Option(help="Measure perplexity on this text before and after, for the card.")
    ] = None,
    recipes: Annotated[
        Path | None, typer.Option(help="YAML file with recipes of your own, of what `weights parts` lists.")
    ] = None,
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="KV groups and channels of each layer stay divisible by this.")
    ] = 1,
    channel_multiple: Annotated[int, typer.Option(min=1, help="FFN channels stay a multiple of this.")] = 1,
    cost: Annotated[
        str,
        typer.Option(
            help="What the sparsity of units counts: params, flops, kv_bytes or latency (measured here)."
        ),
    ] = "params",
    latency_from: Annotated[
        Path | None, typer.Option(help="A pruned folder whose card holds the table for --cost latency.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the calibration text the model writes.")] = 0,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="bfloat16, float16 or float32; by default that of the model's own files.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder pruned before.")] = False,
) -> None:
    """Prune a model into a new folder, with a card of what was done. A stopped run goes on.

    \b
    Examples:
      tokenprune weights prune smollm2-135m out --recipe wanda --calibration text.txt
      tokenprune weights prune smollm2-135m out --recipe flap --sparsity 0.2 --calibration text.txt
    """
    from tokenprune.models.progress import reporting
    from tokenprune.weights.card import latency_of
    from tokenprune.weights.recipes import get_recipe, load_recipes
    from tokenprune.weights.run import Calibration, prune_to
    from tokenprune.weights.units import Constraints, cost_name

    chosen, counted = get_recipe(recipe, recipes), cost_name(cost)
    limits = Constraints(tensor_parallel, channel_multiple, min_channels=channel_multiple)
    with reporting("weights prune") as reporter:
        found = prune_to(
            model,
            out,
            recipe,
            chosen,
            Calibration(calibration, windows, window, seed),
            sparsity,
            limits,
            counted,
            text,
            None if latency_from is None else latency_of(latency_from),
            overwrite,
            load_recipes(recipes),
            reporter,
            dtype,
        )
    share = found["left"] / found["parameters"]
    zeros = found["zeros"] / found["left"]
    empty = f", {zeros:.1%} of these are zeros" if zeros > 0.005 else ""
    typer.echo(f"{out}: {found['left']:,.0f} of {found['parameters']:,.0f} parameters ({share:.1%}){empty}")
    if "pruned" in found:
        typer.echo(f"perplexity {found['dense']:.3f} -> {found['pruned']:.3f}")


@app.command("eval")
def evaluate(
    model: _Model,
    text: Annotated[Path, typer.Option(help="Text, .jsonl or .jsonl.gz with `text`.", show_default=False)],
    window: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 1024,
    windows: Annotated[int | None, typer.Option(min=1, help="So many windows; all by default.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the perplexity of a model, pruned or not, in float32.

    Example: tokenprune weights eval out --text text.txt
    """
    import json

    from tokenprune.models.causal_lm import fresh_causal_lm
    from tokenprune.models.progress import reporting
    from tokenprune.weights.plan import check_finite
    from tokenprune.weights.run import eval_windows
    from tokenprune.weights.text import perplexity

    with reporting("weights eval") as reporter:
        lm = fresh_causal_lm(model)
        check_finite(lm.model)
        rows = eval_windows(lm, text, window, windows)
        found = perplexity(lm.model, rows, reporter)
    if json_:
        parameters = sum(p.numel() for p in lm.model.parameters())
        typer.echo(json.dumps({"perplexity": found, "tokens": rows.numel(), "parameters": parameters}))
    else:
        typer.echo(f"perplexity {found:.3f} on {rows.numel():,} tokens in windows of {rows.shape[1]:,}")


@app.command("recover")
def recover(
    folder: Annotated[str, typer.Argument(help="A folder that `weights prune` wrote.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The new folder.", show_default=False)],
    text: Annotated[
        Path, typer.Option(help="What to train on: text, .jsonl or .jsonl.gz.", show_default=False)
    ],
    train: Annotated[str, typer.Option(help="perp (norms, biases, masked LoRA), lora or full.")] = "perp",
    biases: Annotated[
        bool, typer.Option("--biases", help="Train new biases too, where the model can hold them.")
    ] = False,
    distill: Annotated[bool, typer.Option("--distill", help="Learn from the dense model's outputs.")] = False,
    select: Annotated[
        float, typer.Option(help="Share of the text to train on: what pruning hurt most.")
    ] = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="Updates.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Windows an update.")] = 2,
    window: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 512,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 5e-4,
    rank: Annotated[int, typer.Option(min=1, help="Of LoRA.")] = 8,
    dense: Annotated[
        str | None, typer.Option(help="The model before pruning; the card's source by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of windows and of LoRA.")] = 0,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="bfloat16, float16 or float32; by default that of the folder's files.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder pruned before.")] = False,
) -> None:
    """Train a pruned model into a new folder; what was pruned stays pruned. A stopped run goes on.

    \b
    Examples:
      tokenprune weights recover out better --text text.txt
      tokenprune weights recover out better --text text.txt --train full --distill --lr 1e-4
    """
    from tokenprune.models.progress import reporting
    from tokenprune.weights.card import read_card
    from tokenprune.weights.recovery.train import Recovery, part_name
    from tokenprune.weights.run import recover_to

    how = Recovery(part_name(train), distill, steps, batch, lr, rank, 2.0 * rank, select, seed, biases)
    with reporting("weights recover") as reporter:
        losses = recover_to(folder, out, how, text, window, dense, overwrite, reporter, dtype)
    said = f"loss {losses[0]:.3f} -> {losses[-1]:.3f}" if losses else "was trained already"
    typer.echo(f"{out}: {said}; loads as {read_card(out).architecture}")
