"""From a model's name to a pruned folder: load, prune, recover, export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import ModelError, RecipeError, TokenPruneError
from tokenprune.models.catalog import list_models
from tokenprune.models.causal_lm import LoadedLM, fresh_causal_lm
from tokenprune.models.device import pick_dtype
from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.card import read_card
from tokenprune.weights.export import architecture_of, check_place, export, write_model
from tokenprune.weights.journal import CheckpointError, Journal, mark_of
from tokenprune.weights.latency import Latency
from tokenprune.weights.materialise import materialise
from tokenprune.weights.plan import check_model, plan
from tokenprune.weights.prune import Pruned, prune
from tokenprune.weights.recipes import Recipe, load_recipes
from tokenprune.weights.recovery.train import Recovery
from tokenprune.weights.text import perplexity, read_text, self_text, windows_of
from tokenprune.weights.units import Constraints, CostName

if TYPE_CHECKING:
    import torch

EVAL_WINDOW = 1024


@dataclass(frozen=True)
class Calibration:
    """Where windows come from.

    Attributes:
        file: Text or JSON lines; None: the model writes its own (Williams et al. 2024, arXiv 2410.17170).
        windows: How many.
        length: Tokens of each.
        seed: Of the model's own text.
    """

    file: Path | None = None
    windows: int = 32
    length: int = 512
    seed: int = 0

    def load(self, lm: LoadedLM, reporter: Reporter = SILENT) -> torch.Tensor:
        """Return int64 [windows, length]; raises RecipeError when the text is too short."""
        if self.windows < 1 or self.length < 2:
            raise RecipeError("calibration takes 1 window or more, of 2 tokens or more")
        _check_length(lm, self.length)
        if self.file is None:
            return self_text(lm.model, self.windows, self.length, self.seed, reporter)
        text = read_text(self.file)
        return windows_of(
            lm.tokenizer, text, self.windows, self.length, f"calibration text {str(self.file)!r}"
        )

    def card(self) -> dict[str, Any]:
        """Return what the pruning card says of it."""
        source = "written by the model" if self.file is None else self.file.name
        return {"text": source, "windows": self.windows, "tokens": self.length}


def prune_to(
    name: str,
    out: Path,
    label: str,
    recipe: Recipe,
    calibration: Calibration,
    sparsity: float | None = None,
    limits: Constraints | None = None,
    costs: CostName = "params",
    evaluate: Path | None = None,
    latency: Latency | None = None,
    overwrite: bool = False,
    recipes: Mapping[str, Recipe] | None = None,
    reporter: Reporter = SILENT,
    dtype: str | None = None,
) -> dict[str, float]:
    """Prune a named model into a folder, with a card; a run that was stopped goes on when it is given again.

    Args:
        name: As for `tokenprune.models.causal_lm.load_causal_lm`.
        out: Where to; the folder ``OUT.pruning`` beside it holds what is finished while it lasts. It grows to
            the size of the model's matrices in float32, several times that for recipes that train.
        label: The recipe's name.
        recipe: What to do.
        calibration: On what text.
        sparsity: Share that goes; the recipe's own by default.
        limits: What serving needs.
        costs: What the target counts.
        latency: A table for costs of latency; measured by default.
        evaluate: A text whose perplexity before and after goes into the card.
        overwrite: Replace a folder that was exported before.
        recipes: Where the recipe that comes ``then`` is looked up; the package's by default.
        reporter: Told of each step.
        dtype: Number format of the folder; that of the model's own checkpoint by default.

    Returns:
        Parameters before and after, zeros among these, and perplexities when asked for.

    Raises:
        TokenPruneError: Anything that cannot work; no folder is left.
    """
    import torch

    check_place(out.expanduser().absolute(), overwrite)
    _check_apart(name, out)
    planned = plan(recipe, sparsity, limits, costs, recipes or load_recipes())
    if latency is not None and costs != "latency":
        raise RecipeError(
            "a table of latency (--latency-from) serves a cost of latency alone: add --cost latency"
        )
    asked = None if dtype is None else pick_dtype("cpu", dtype)
    lm = fresh_causal_lm(name)
    check_model(lm.model, planned)
    windows = calibration.load(lm, reporter)
    held = None if evaluate is None else eval_windows(lm, evaluate, settable=False)
    then, recovery = planned.then, planned.recovery
    told = [one.recipe.model_dump(mode="json") for one in (planned, then) if one is not None]
    settings = [told, sparsity, asdict(limits or Constraints()), costs, latency and latency.model_dump()]
    journal = Journal(_beside(out, ".pruning"), mark_of(lm.model, windows, settings))
    found: dict[str, float] = {}
    if held is not None:
        found["dense"] = perplexity(lm.model, held, reporter)
    before = sum(p.numel() for p in lm.model.parameters())
    try:
        done = prune(
            lm.model, windows, recipe, sparsity, limits, costs, reporter, journal.part("prune"), latency
        )
    except CheckpointError:
        raise
    except TokenPruneError:  # it would end so again: what comes next is another run
        journal.close()
        raise
    small = materialise(lm.model, done.kept, done.biases)
    if then is not None:
        prune(small, windows, then.recipe, then.share, reporter=reporter, journal=journal.part("then"))
    shown = recipe_card(label, recipe, done)
    if recovery is not None:
        small = recovery.prepare(small)
        dense = fresh_causal_lm(name).model if recovery.needs_dense else None
        recovery.run(small, windows, dense, journal.path("recovery"), reporter)
        shown["recovery"] = recovery.describe()
    stored = asked or lm.stored
    if held is not None:
        cast_to(small, stored)  # what is measured is what is written
        cast_to(small, torch.float32)
        found["pruned"] = perplexity(small, held, reporter)
    reporter.stage("writing", None)
    cast_to(small, stored)
    export(
        lm.model,
        done.kept,
        out,
        biases=done.biases,
        small=small,
        tokenizer=lm.tokenizer,
        source=name,
        licence=next((known.licence for known in list_models() if known.name == name), None),
        recipe=shown,
        calibration=calibration.card(),
        perplexity=found,
        latency=done.latency,
        overwrite=overwrite,
    )
    journal.close()
    left = sum(p.numel() for p in small.parameters())
    zeros = sum(int((p == 0).sum()) for p in small.parameters())
    return {"parameters": before, "left": left, "zeros": zeros, **found}


def recover_to(
    folder: str,
    out: Path,
    recovery: Recovery,
    text: Path,
    length: int = 512,
    dense: str | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
    dtype: str | None = None,
) -> list[float]:
    """Train a pruned folder into another one; a run that was stopped goes on when it is given again.

    Args:
        folder: What `prune_to` wrote.
        out: Where to; ``OUT.recovery`` beside it is the checkpoint while it lasts.
        recovery: How.
        text: On what; all of its windows.
        length: Tokens of a window.
        dense: The model before any pruning, for distillation and selection; the card's by default.
        overwrite: Replace a folder that was exported before.
        reporter: Told of each step.
        dtype: Number format of the new folder; that of the old one by default.

    Returns:
        The loss of each step.

    Raises:
        TokenPruneError: Anything that cannot work.
    """
    check_place(out.expanduser().absolute(), overwrite)
    _check_apart(folder, out)
    card, asked = read_card(folder), None if dtype is None else pick_dtype("cpu", dtype)
    lm = fresh_causal_lm(folder)
    _check_length(lm, length)
    rows = windows_of(lm.tokenizer, read_text(text), None, length, f"text {str(text)!r}")
    teacher = None
    if recovery.needs_dense:
        source = dense or card.origin
        if source is None:
            raise RecipeError("the card does not say which model was pruned: name it with --dense")
        try:
            teacher = fresh_causal_lm(source).model
        except ModelError as error:
            if dense is not None:
                raise
            raise ModelError(
                f"the model before pruning, {source!r} as the card says, cannot be loaded: name it with "
                f"--dense ({error})"
            ) from error
    checkpoint = _beside(out, ".recovery")
    model = recovery.prepare(lm.model)
    losses = recovery.run(model, rows, teacher, checkpoint, reporter)
    told = {**card.recipe, "recovery": f"{recovery.describe()} on {text.name}"}
    kept = {key: value for key, value in card.perplexity.items() if key == "dense"}
    architecture = architecture_of(model)
    card = card.model_copy(update={"recipe": told, "perplexity": kept, "architecture": architecture})
    reporter.stage("writing", None)
    cast_to(model, asked or lm.stored)
    write_model(model, card.measured(model), out, tokenizer=lm.tokenizer, source=folder, overwrite=overwrite)
    return losses


def _check_apart(folder: str, out: Path) -> None:
    """Refuse to write over the model that is read: what it was before would be lost."""
    if Path(folder).expanduser().resolve() == out.expanduser().resolve():
        raise ModelError(f"{out} is the model that is read: choose another folder")


def _check_length(lm: LoadedLM, length: int) -> None:
    if length > lm.max_positions:
        raise RecipeError(
            f"windows of {length} tokens exceed the {lm.max_positions} positions of the model: give shorter "
            "ones (--window)"
        )


def cast_to(model: Any, dtype: torch.dtype | None) -> None:
    """Cast the parameters of a model in place, and leave its buffers (rotations) in float32."""
    if dtype is not None:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)


def _beside(out: Path, ending: str) -> Path:
    place = out.expanduser().absolute()
    return place.with_name(place.name + ending)


def recipe_card(label: str, recipe: Recipe, done: Pruned) -> dict[str, Any]:
    """Return what the pruning card says of a recipe."""
    shown = {"name": label, "sparsity": done.sparsity, "paper": recipe.paper, "structure": recipe.structure}
    shown["criterion"] = recipe.criterion.name
    shown["allocation"] = recipe.allocation.name
    shown["compensation"] = "none" if recipe.compensation is None else recipe.compensation.name
    if recipe.then is not None:
        shown["then"] = " ".join([recipe.then.name, *(f"{k} {v}" for k, v in recipe.then.options.items())])
    if done.latency is not None:
        shown["costs"] = "latency"
    if recipe.pattern:
        shown["pattern"] = recipe.pattern
    return shown


def eval_windows(
    lm: LoadedLM,
    file: Path,
    length: int = EVAL_WINDOW,
    count: int | None = None,
    *,
    settable: bool = True,
) -> torch.Tensor:
    """Return all windows of a text, or ``count`` of them, no longer than the model reads."""
    size, what = min(length, lm.max_positions), f"text {str(file)!r}"
    return windows_of(lm.tokenizer, read_text(file), count, size, what, settable=settable)
