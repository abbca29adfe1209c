"""A recipe run on a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.allocation.base import LayerRatios
from tokenprune.weights.criteria.base import ElementLearner
from tokenprune.weights.gradients import gradients
from tokenprune.weights.journal import Journal
from tokenprune.weights.kept import Kept
from tokenprune.weights.latency import Latency, measure
from tokenprune.weights.plan import Plan, check_model, plan
from tokenprune.weights.recipes import Recipe
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
    found = plan(recipe, sparsity, limits, costs)
    check_model(model, found)
    journal = journal or Journal()
    if recipe.structure == "elements":
        _elements(model, windows, found, reporter, journal)
        return Pruned(Kept.all_of(model.config), found.share)
    if recipe.structure == "units":
        if costs == "latency" and latency is None:
            latency = Latency.model_validate(
                journal.once("latency", lambda: measure(model, windows.shape[1]).model_dump())
            )
        first, last = recipe.spared
        how = UnitPruning(
            found.criterion, found.allocation, found.compensation, found.limits, costs, latency, first, last
        )
        return _units_in_rounds(model, windows, found, how, reporter, journal)
    kept = found.criterion.run(model, windows, found.share, reporter, journal)
    return Pruned(kept, found.share)


def _elements(model: Any, windows: torch.Tensor, found: Plan, reporter: Reporter, journal: Journal) -> None:
    criterion = found.criterion
    if isinstance(criterion, ElementLearner):
        assert found.pattern is not None
        criterion.run(model, windows, found.pattern, reporter, journal)
        return
    how = found.elements()
    allocation = found.allocation
    assert isinstance(allocation, LayerRatios)
    ratios = journal.once("ratios", lambda: allocation.ratios(model, windows, found.share, reporter))
    roots = None
    if criterion.needs_gradient:
        roots = gradients(model, windows, reporter)[1]
        for layer in roots:
            for value in layer.values():
                value.sqrt_()
    how.run(model, windows, ratios, roots, reporter, journal)


def _units_in_rounds(
    model: Any,
    windows: torch.Tensor,
    found: Plan,
    how: UnitPruning,
    reporter: Reporter,
    journal: Journal,
) -> Pruned:
    """Prune a little, train a little, and again (Adapt-Pruner, arXiv 2502.03460, section 3.3)."""
    rounds, recovery = found.recipe.rounds, found.recovery
    before, first = None, 0
    for done in reversed(range(rounds - 1)):
        state = journal.get(f"round-{done}")
        if state is not None:
            before, first = Kept.of_plain(state["kept"]), done + 1
            model.load_state_dict(state["weights"], strict=False)
            break
    for done in range(first, rounds):
        steps = journal.part(f"round-{done}")
        kept, biases = how.run(model, windows, found.share * (done + 1) / rounds, reporter, before, steps)
        if done + 1 < rounds:
            if recovery is not None:
                recovery.run(model, windows, checkpoint=steps.path("recovery"), reporter=reporter)
            trained = {n: p.detach() for n, p in model.named_parameters() if ".layers." in n or p.dim() == 1}
            journal.put(f"round-{done}", {"kept": kept.plain(), "weights": trained})
            journal.forget(f"round-{done - 1}")
            before = kept
    return Pruned(kept, found.share, biases, how.latency if how.costs == "latency" else None)
