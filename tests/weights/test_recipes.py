"""Recipes: all that are listed run, and what they say is so."""

import json

import pytest
import torch

from tokenprune.errors import RecipeError, UnknownNameError
from tokenprune.weights.kept import Kept
from tokenprune.weights.materialise import materialise
from tokenprune.weights.plan import check_finite, plan
from tokenprune.weights.prune import prune
from tokenprune.weights.recipes import (
    ALLOCATIONS,
    COMPENSATIONS,
    CRITERIA,
    RECOVERIES,
    Recipe,
    describe,
    get_recipe,
    load_recipes,
    part,
)
from tokenprune.weights.recovery.train import Recovery
from tokenprune.weights.sites import matrices
from tokenprune.weights.text import read_text


@pytest.mark.parametrize("name", list(load_recipes()))
def test_every_recipe_runs(tiny_lm, windows, name):
    recipe = get_recipe(name)
    if "learn" in recipe.criterion.name:  # a few steps of it will do here
        few = recipe.criterion.model_copy(update={"steps": 6})
        recipe = recipe.model_copy(update={"criterion": few})
    model = tiny_lm(
        "mixtral" if recipe.structure == "experts" else "qwen2",
        num_hidden_layers=16 if recipe.spared != (0, 0) else 8,
    )
    before = Kept.all_of(model.config).params(model.config)
    spared = recipe.sparsity if recipe.structure != "experts" else 1 / 3
    done = prune(model, windows, recipe, None if recipe.pattern else spared)
    small = materialise(model, done.kept, done.biases)
    with torch.no_grad():
        assert bool(small(windows).logits.isfinite().all())
    if recipe.structure == "elements":
        zeros = sum(int((w == 0).sum()) for layer in model.model.layers for w in matrices(layer).values())
        total = sum(w.numel() for layer in model.model.layers for w in matrices(layer).values())
        assert abs(zeros - recipe.sparsity * total) <= 1
    else:
        assert sum(p.numel() for p in small.parameters()) < before
    if recipe.recovery is not None:
        assert isinstance(part(recipe.recovery, RECOVERIES, "recovery"), Recovery)
    if recipe.then is not None:
        assert get_recipe(recipe.then.name).structure == "elements"
    assert recipe.paper in describe(name, recipe)


def test_every_part_exists():
    for known in (*CRITERIA.values(), ALLOCATIONS, COMPENSATIONS["elements"]):
        for where in known.values():
            module, name = where.split(":")
            from importlib import import_module

            assert hasattr(import_module(f"tokenprune.weights.{module}"), name)


def test_own_files(tmp_path):
    file = tmp_path / "mine.yaml"
    body = "{summary: s, paper: p, structure: units, criterion: %s}"
    file.write_text("wanda: " + body % "flap")
    assert get_recipe("wanda", file).structure == "units"
    assert get_recipe("flap", file) == get_recipe("flap")
    for text, says in (
        ("[1", "no YAML"),
        ("- a", "must map"),
        ("x: {summary: s}", "x.paper"),
        ("x: {summary: s, paper: p, structure: cubes, criterion: flap}", "x.structure"),
        ("x: {summary: s, paper: p, structure: units, criterion: flap, color: red}", "x.color"),
        ("x: {summary: s}\ny: 1\nx: {summary: t}", "'x' stands twice"),
    ):
        file.write_text(text)
        with pytest.raises(RecipeError, match=says):
            load_recipes(file)
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipes(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"criterion": {"name": "nonesuch"}}, "criterion of elements"),
        ({"criterion": {"name": "gblm", "beta": 1}}, r"has no option 'beta'; its options: .*alpha"),
        ({"allocation": {"name": "uniform", "width": 1}}, "has no option 'width'; its options: none"),
        ({"allocation": {"name": "nonesuch"}}, "allocation"),
        ({"compensation": {"name": "bias"}}, "compensation of elements"),
        ({"pattern": "2:4", "compensation": {"name": "dsnot"}}, "dsnot"),
        ({"pattern": "2:4", "allocation": {"name": "owl"}}, "pattern"),
        ({"pattern": "1:5"}, "groups of 5"),
        ({"compensation": {"name": "obs", "joint": True}}, "criterion sparsegpt with a pattern"),
    ],
)
def test_wrong_recipes(tiny_lm, windows, change, says):
    recipe = Recipe.model_validate(get_recipe("wanda").model_dump() | change)
    with pytest.raises((RecipeError, UnknownNameError), match=says):
        prune(tiny_lm(), windows, recipe)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"criterion": {"name": "gblm", "alpha": "big"}}, "gblm.*alpha.*valid number"),
        ({"criterion": {"name": "gblm", "alpha": -1}}, "gblm.*alpha.*greater than or equal to 0"),
        ({"allocation": {"name": "owl", "threshold": 0}}, "owl.*threshold.*greater than 0"),
        ({"allocation": {"name": "ecoflap", "directions": 0}}, "ecoflap.*directions"),
        ({"allocation": {"name": "pool"}}, "unknown allocation 'pool'"),
        ({"compensation": {"name": "dsnot", "cycles": 0}}, "dsnot.*cycles"),
        ({"compensation": {"name": "obs", "block": 0}}, "obs.*block"),
        ({"recovery": {"name": "train", "steps": "many"}}, "train.*steps.*valid integer"),
        ({"recovery": {"name": "trane"}}, "unknown recovery 'trane'"),
        ({"structure": "units", "criterion": {"name": "taylor", "kind": "third"}}, "taylor.*kind"),
        (
            {"structure": "units", "criterion": {"name": "flap"}, "allocation": {"name": "pool", "norm": 2}},
            "norm is 2",
        ),
        (
            {"structure": "units", "criterion": {"name": "flap"}, "allocation": {"name": "pool", "width": 2}},
            "no option 'width'",
        ),
        (
            {
                "structure": "units",
                "criterion": {"name": "flap"},
                "compensation": {"name": "bias", "width": 2},
            },
            "has no options",
        ),
        ({"structure": "units", "criterion": {"name": "flap"}, "then": {"name": "wanda"}}, "uniform sizes"),
        ({"structure": "depth", "criterion": {"name": "output-change", "windows": 0}}, "windows"),
        ({"then": {"name": "flap"}}, "must name a recipe for elements"),
        ({"then": {"name": "wanda", "sparsity": "x"}}, "must be a number"),
        ({"then": {"name": "wanda", "sparsity": 1.0}}, "out of range"),
    ],
)
def test_wrong_recipes_are_known_before_anything_is_read(change, says):
    recipe = Recipe.model_validate(get_recipe("wanda").model_dump() | change)
    with pytest.raises((RecipeError, UnknownNameError), match=says):
        plan(recipe, recipes=load_recipes())


def test_numbers_may_be_written_as_yaml_reads_them(tmp_path):
    file = tmp_path / "mine.yaml"  # YAML 1.1 takes 1e-3 for a text
    file.write_text("x: {summary: s, paper: p, structure: elements, criterion: {name: gblm, alpha: 1e-3}}")
    assert plan(get_recipe("x", file)).criterion.alpha == 1e-3


def test_a_pattern_needs_no_quotes(tmp_path):
    file = tmp_path / "mine.yaml"  # YAML 1.1 takes 2:4 for 124
    file.write_text("x: {summary: s, paper: p, structure: elements, criterion: wanda, pattern: 2:4}")
    assert get_recipe("x", file).pattern == "2:4"


@pytest.mark.parametrize(
    "extra",
    [
        "structure: depth, criterion: block-influence, allocation: owl",
        "structure: depth, criterion: block-influence, compensation: bias",
        "structure: experts, criterion: router-similarity, pattern: '2:4'",
        "structure: units, criterion: flap, pattern: '2:4'",
        "structure: units, criterion: flap, propagate: dense",
        "structure: elements, criterion: wanda, rounds: 3",
        "structure: elements, criterion: wanda, spared: [1, 0]",
    ],
)
def test_what_a_structure_would_ignore_is_refused(tmp_path, extra):
    file = tmp_path / "mine.yaml"
    file.write_text(f"mine: {{summary: s, paper: p, {extra}}}")
    with pytest.raises(RecipeError, match=rf"mine: {extra.split(', ')[2].split(':')[0]} is for recipes of"):
        load_recipes(file)


def test_costs_are_for_units():
    with pytest.raises(RecipeError, match="cost of flops is for recipes of units"):
        plan(get_recipe("wanda"), costs="flops")


def test_models_of_experts_lose_no_sublayers(tiny_lm, windows):
    """The search would work, but no class could hold its result."""
    with pytest.raises(RecipeError, match="take shortgpt"):
        prune(tiny_lm("mixtral"), windows, get_recipe("finercut"))


def test_sparsity_range(tiny_lm, windows):
    for wrong in (-0.1, 1.0, float("nan"), float("inf")):
        with pytest.raises(RecipeError, match="out of range"):
            prune(tiny_lm(), windows, get_recipe("wanda"), wrong)


def test_nan_is_named(tiny_lm):
    from tokenprune.errors import ModelError

    model = tiny_lm()
    with torch.no_grad():
        model.model.norm.weight[0] = float("inf")
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        check_finite(model)


def test_lines_of_json_end_at_line_feeds_only(tmp_path):
    file = tmp_path / "text.jsonl"
    texts = ["one\u2028two", "three\u0085four", "five"]
    file.write_text("\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts), encoding="utf-8")
    assert read_text(file) == "\n\n".join(texts)
