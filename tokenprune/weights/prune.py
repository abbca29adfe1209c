"""A recipe run on a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenprune.errors import ModelError, RecipeError, UnknownNameError
from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.allocation.base import LayerRatios
from tokenprune.weights.choose import Pattern
from tokenprune.weights.criteria.base import ElementLearner
from tokenprune.weights.elements import ElementPruning
from tokenprune.weights.gradients import gradients
from tokenprune.weights.journal import Journal
from tokenprune.weights.kept import Kept, Shape
from tokenprune.weights.latency import Latency, measure
from tokenprune.weights.learned_units import LoraImportance
from tokenprune.weights.recipes import ALLOCATIONS, COMPENSATIONS, CRITERIA, POOL, RECOVERIES, Recipe, part
from tokenprune.weights.sites import matrices
from tokenprune.weights.structured import UnitPruning
from tokenprune.weights.units import Constraints, CostName

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Pruned:
    """What a recipe did to a model, which it changed in place.

    Attributes:
        kept: What stays.
        biases: What compensation adds, see `tokenprune.weights.kept`.
        latency: The table that a cost of latency was counted by.
        sparsity: What was asked for, or follows from a pattern.
    """

    kept: Kept
    sparsity: float
    biases: dict[str, torch.Tensor] = field(default_factory=dict)
    latency: Latency | None = None


def prune(
    model: Any,
    windows: torch.Tensor,
    recipe: Recipe,
    sparsity: float | None = None,
    limits: Constraints | None = None,
    costs: CostName = "params",
    reporter: Reporter = SILENT,
    journal: Journal | None = None,
    latency: Latency | None = None,
) -> Pruned:
    """Run a recipe without the recovery at its end; ``model`` changes in place.

    Args:
        model: A transformers decoder in float32.
        windows: Calibration text, int64 [n, tokens].
        recipe: What to do.
        sparsity: Share that goes; of the matrices' weights for elements, of the layers' cost for units and
            depth, of the experts for experts. The recipe's own by default.
        limits: What serving needs (units).
        costs: What the target of units counts.
        reporter: Told of each step.
        latency: A table for costs of latency; measured here by default, at the length of the windows.
        journal: Keeps what is finished; a run that was stopped goes on behind it.

    Raises:
        RecipeError: The recipe, the target or the text do not fit the model.
        ModelError: An architecture that is not known, or weights that are not finite.
    """
    Shape.of(model.config)
    check_finite(model)
    pattern = None if recipe.pattern is None else Pattern.parse(recipe.pattern)
    share = sparsity_of(recipe, sparsity, pattern)
    criterion = part(recipe.criterion, CRITERIA[recipe.structure], f"criterion of {recipe.structure}")
    journal = journal or Journal()
    if recipe.structure == "elements":
        _elements(model, windows, recipe, criterion, pattern, share, reporter, journal)
        return Pruned(Kept.all_of(model.config), share)
    if recipe.structure == "units":
        if costs == "latency" and latency is None:
            latency = Latency.model_validate(
                journal.once("latency", lambda: measure(model, windows.shape[1]).model_dump())
            )
        how = _units(recipe, criterion, limits, costs, latency)
        return _units_in_rounds(model, windows, recipe, how, share, reporter, journal)
    kept = criterion.run(model, windows, share, reporter, journal)
    return Pruned(kept, share)


def sparsity_of(recipe: Recipe, asked: float | None, pattern: Pattern | None) -> float:
    """Return the share that goes; raises RecipeError when it is out of range or against the pattern."""
    if pattern is not None:
        if asked is not None and abs(asked - pattern.sparsity) > 1e-9:
            raise RecipeError(
                f"the pattern {recipe.pattern} means a sparsity of {pattern.sparsity}, not {asked}"
            )
        return pattern.sparsity
    share = recipe.sparsity if asked is None else asked
    if not 0 <= share < 1:
        raise RecipeError(
            f"a sparsity of {share} is out of range: it is the share that goes, from 0 to below 1"
        )
    return share


def check_finite(model: Any) -> None:
    """Raise ModelError naming the first parameter that holds NaN or infinity."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ModelError(
                f"{name} holds NaN or infinity: the checkpoint is damaged, fetch or make it again"
            )


def _elements(
    model: Any,
    windows: torch.Tensor,
    recipe: Recipe,
    criterion: Any,
    pattern: Pattern | None,
    share: float,
    reporter: Reporter,
    journal: Journal,
) -> None:
    if isinstance(criterion, ElementLearner):
        if pattern is None or recipe.compensation is not None:
            raise RecipeError(
                f"{recipe.criterion.name} learns masks of a pattern and changes no weights: give a pattern, "
                "and leave the compensation out"
            )
        _check_pattern(model, pattern)
        criterion.run(model, windows, pattern, reporter, journal)
        return
    how = ElementPruning(
        criterion,
        pattern,
        None if recipe.compensation is None else _compensation(recipe),
        recipe.propagate == "pruned",
    )
    if pattern is not None:
        if recipe.compensation is not None and recipe.compensation.name == "dsnot":
            raise RecipeError(
                "dsnot swaps weights anywhere in a row, which breaks a pattern: leave one of them out"
            )
        _check_pattern(model, pattern)
    found_ratios = _ratios(recipe)
    ratios = journal.once("ratios", lambda: found_ratios.ratios(model, windows, share, reporter))
    found = None
    if criterion.needs_gradient:
        squares = gradients(model, windows, reporter)[1]
        for layer in squares:
            for value in layer.values():
                value.sqrt_()
        found = squares
    how.run(model, windows, ratios, found, reporter, journal)


def _check_pattern(model: Any, pattern: Pattern) -> None:
    for layer in model.model.layers:
        for weight in matrices(layer).values():
            pattern.check(weight.shape[1])


def _units(
    recipe: Recipe, criterion: Any, limits: Constraints | None, costs: CostName, latency: Latency | None
) -> UnitPruning:
    allocation: Any
    if recipe.allocation.name == POOL:
        norm = recipe.allocation.options.get("norm", "zscore")
        if norm not in ("none", "mean", "zscore"):
            raise RecipeError(f"allocation pool: norm is {norm!r}, must be none, mean or zscore")
        allocation = norm
    else:
        allocation = _ratios(recipe)
    name: Any = None if recipe.compensation is None else recipe.compensation.name
    if name is not None and name not in COMPENSATIONS["units"]:
        raise UnknownNameError("compensation of units", name, list(COMPENSATIONS["units"]))
    first, last = recipe.spared
    return UnitPruning(criterion, allocation, name, limits or Constraints(), costs, latency, first, last)


def _units_in_rounds(
    model: Any,
    windows: torch.Tensor,
    recipe: Recipe,
    how: UnitPruning,
    share: float,
    reporter: Reporter,
    journal: Journal,
) -> Pruned:
    """Prune a little, train a little, and again (Adapt-Pruner, arXiv 2502.03460, section 3.3)."""
    recovery = None if recipe.recovery is None else part(recipe.recovery, RECOVERIES, "recovery")
    if isinstance(how.criterion, LoraImportance) and (recipe.rounds > 1 or how.compensation is not None):
        raise RecipeError(f"{recipe.criterion.name} trains as it prunes: leave rounds and compensation out")
    if recipe.rounds > 1:
        if how.compensation is not None:
            raise RecipeError("rounds train between prunings and take no compensation: leave one of them out")
        if recovery is not None and recovery.needs_dense:
            raise RecipeError("rounds train on text alone: leave distill and select out")
    before, first = None, 0
    for done in reversed(range(recipe.rounds - 1)):
        state = journal.get(f"round-{done}")
        if state is not None:
            before, first = Kept.of_plain(state["kept"]), done + 1
            model.load_state_dict(state["weights"], strict=False)
            break
    for done in range(first, recipe.rounds):
        steps = journal.part(f"round-{done}")
        kept, biases = how.run(model, windows, share * (done + 1) / recipe.rounds, reporter, before, steps)
        if done + 1 < recipe.rounds:
            if recovery is not None:
                recovery.run(model, windows, checkpoint=steps.path("recovery"), reporter=reporter)
            trained = {n: p.detach() for n, p in model.named_parameters() if ".layers." in n or p.dim() == 1}
            journal.put(f"round-{done}", {"kept": kept.plain(), "weights": trained})
            journal.forget(f"round-{done - 1}")
            before = kept
    return Pruned(kept, share, biases, how.latency if how.costs == "latency" else None)


def _ratios(recipe: Recipe) -> LayerRatios:
    if recipe.pattern is not None and recipe.allocation.name != "uniform":
        raise RecipeError("a pattern takes the same share everywhere: leave the allocation out")
    found: LayerRatios = part(recipe.allocation, ALLOCATIONS, "allocation")
    return found


def _compensation(recipe: Recipe) -> Any:
    assert recipe.compensation is not None
    return part(recipe.compensation, COMPENSATIONS["elements"], "compensation of elements")
