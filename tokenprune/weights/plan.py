"""A recipe made ready: its parts built, its faults told, before any text is read or model runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenprune.errors import ModelError, RecipeError, UnknownNameError
from tokenprune.weights.allocation.base import LayerRatios
from tokenprune.weights.allocation.units import Norm
from tokenprune.weights.choose import Pattern
from tokenprune.weights.criteria.base import ElementLearner
from tokenprune.weights.depth import OutputChange
from tokenprune.weights.elements import ElementPruning
from tokenprune.weights.kept import Shape
from tokenprune.weights.learned_units import LoraImportance
from tokenprune.weights.recipes import (
    ALLOCATIONS,
    COMPENSATIONS,
    CRITERIA,
    POOL,
    RECOVERIES,
    Part,
    Recipe,
    part,
)
from tokenprune.weights.recovery.train import Recovery
from tokenprune.weights.sites import matrices
from tokenprune.weights.units import Constraints, CostName, check_dense


@dataclass(frozen=True)
class Plan:
    """A recipe's parts.

    Attributes:
        recipe: What was asked for.
        share: What goes: asked for, the recipe's own, or what a pattern means.
        criterion: Of the recipe's structure.
        allocation: Ratios of layers, or how one pool is made comparable (units).
        compensation: `Obs` or `Dsnot` of elements, a name of units, or None.
        pattern: N:M of elements, or None.
        recovery: Training, or None.
        limits: What serving needs (units).
        then: What comes behind it, or None.
    """

    recipe: Recipe
    share: float
    criterion: Any
    allocation: LayerRatios | Norm
    compensation: Any
    pattern: Pattern | None
    recovery: Recovery | None
    limits: Constraints
    then: Plan | None = None

    def elements(self) -> ElementPruning:
        """Return how single weights go; raises RecipeError for parts that do not go together."""
        propagates = self.recipe.propagate == "pruned"
        return ElementPruning(self.criterion, self.pattern, self.compensation, propagates)


def plan(
    recipe: Recipe,
    sparsity: float | None = None,
    limits: Constraints | None = None,
    costs: CostName = "params",
    recipes: Mapping[str, Recipe] | None = None,
) -> Plan:
    """Build all parts of a recipe.

    Args:
        recipe: What to do.
        sparsity: Share that goes; the recipe's own by default.
        limits: What serving needs (units).
        costs: What the target counts.
        recipes: Where the recipe that comes ``then`` is looked up; None: it is left out.

    Raises:
        RecipeError: Parts that do not go together, options they do not have, a share out of range.
        UnknownNameError: No such part.
    """
    structure = recipe.structure
    if costs != "params" and structure != "units":
        raise RecipeError(
            f"a cost of {costs} is for recipes of units; recipes of {structure} count parameters"
        )
    pattern = None if recipe.pattern is None else Pattern.parse(recipe.pattern)
    found = Plan(
        recipe,
        _share(recipe, sparsity, pattern),
        part(recipe.criterion, CRITERIA[structure], f"criterion of {structure}"),
        _allocation(recipe),
        _compensation(recipe),
        pattern,
        None if recipe.recovery is None else part(recipe.recovery, RECOVERIES, "recovery"),
        limits or Constraints(),
        None if recipe.then is None or recipes is None else _then(recipe.then, recipes),
    )
    _check_training(found)
    if structure == "elements" and not isinstance(found.criterion, ElementLearner):
        found.elements()
    return found


def check_model(model: Any, found: Plan) -> None:
    """Raise ModelError or RecipeError unless a plan fits a model: its family, its numbers and its sizes."""
    shape = Shape.of(model.config)
    check_finite(model)
    if found.pattern is not None:
        for layer in model.model.layers:
            for weight in matrices(layer).values():
                found.pattern.check(weight.shape[1])
    if found.recipe.structure == "units":
        check_dense(shape)
        found.limits.check(shape)
    if isinstance(found.criterion, OutputChange) and any(shape.experts):
        raise RecipeError(
            "this recipe drops attentions and FFNs one by one; a model of experts cannot be served without "
            "one of them: take shortgpt, or a recipe for experts or elements"
        )


def check_finite(model: Any) -> None:
    """Raise ModelError naming the first parameter that holds NaN or infinity."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ModelError(
                f"{name} holds NaN or infinity: the checkpoint is damaged, fetch or make it again"
            )


def _share(recipe: Recipe, asked: float | None, pattern: Pattern | None) -> float:
    if pattern is not None:
        if asked is not None and not abs(asked - pattern.sparsity) <= 1e-9:
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


def _allocation(recipe: Recipe) -> LayerRatios | Norm:
    if recipe.pattern is not None and recipe.allocation.name != "uniform":
        raise RecipeError("a pattern takes the same share everywhere: leave the allocation out")
    if recipe.structure == "units" and recipe.allocation.name == POOL:
        options = recipe.allocation.options
        norm: Norm = options.pop("norm", "zscore")
        if norm not in ("none", "mean", "zscore"):
            raise RecipeError(f"allocation pool: norm is {norm!r}, must be none, mean or zscore")
        if options:
            raise RecipeError(f"allocation pool: it has no option {sorted(options)[0]!r}, only norm")
        return norm
    found: LayerRatios = part(recipe.allocation, ALLOCATIONS, "allocation")
    return found


def _compensation(recipe: Recipe) -> Any:
    given, what = recipe.compensation, f"compensation of {recipe.structure}"
    if given is None:
        return None
    if recipe.structure != "units":
        if recipe.pattern is not None and given.name == "dsnot":
            raise RecipeError(
                "dsnot swaps weights anywhere in a row, which breaks a pattern: leave one of them out"
            )
        return part(given, COMPENSATIONS[recipe.structure], what)
    if given.name not in COMPENSATIONS["units"]:
        raise UnknownNameError(what, given.name, list(COMPENSATIONS["units"]))
    if given.options:
        raise RecipeError(f"{what} {given.name!r}: it has no options")
    return given.name


def _check_training(found: Plan) -> None:
    """Refuse what cannot be done while, or between, training."""
    recipe, name = found.recipe, found.recipe.criterion.name
    if isinstance(found.criterion, ElementLearner) and (found.pattern is None or found.compensation):
        raise RecipeError(
            f"{name} learns masks of a pattern and changes no weights: give a pattern, and leave the "
            "compensation out"
        )
    if isinstance(found.criterion, LoraImportance) and (recipe.rounds > 1 or found.compensation):
        raise RecipeError(f"{name} trains as it prunes: leave rounds and compensation out")
    if recipe.then is not None and (recipe.structure == "units" or isinstance(found.criterion, OutputChange)):
        raise RecipeError(
            "`then` prunes models of uniform sizes: it can follow experts, whole layers or elements"
        )
    if recipe.rounds > 1:
        if found.compensation is not None:
            raise RecipeError("rounds train between prunings and take no compensation: leave one of them out")
        if found.recovery is not None and found.recovery.needs_dense:
            raise RecipeError("rounds train on text alone: leave distill and select out")


def _then(then: Part, recipes: Mapping[str, Recipe]) -> Plan:
    following, share = recipes.get(then.name), then.options.get("sparsity")
    wrong = set(then.options) - {"sparsity"}
    if following is None or following.structure != "elements" or following.then or wrong:
        raise RecipeError("`then` must name a recipe for elements, and may give its sparsity")
    if share is not None and (isinstance(share, bool) or not isinstance(share, float | int)):
        raise RecipeError(f"the sparsity of `then` is {share!r}, must be a number")
    return plan(following, share)
