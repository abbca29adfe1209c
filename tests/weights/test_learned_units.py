"""Units that go while low-rank updates are trained."""

import copy
import itertools

import pytest
import torch
from stopper import Stop, Stopper

from tokenprune.errors import RecipeError
from tokenprune.weights.allocation.uniform import Uniform
from tokenprune.weights.journal import Journal
from tokenprune.weights.kept import Kept, Shape
from tokenprune.weights.learned_units import LoraImportance, importance, importances
from tokenprune.weights.materialise import materialise
from tokenprune.weights.prune import prune
from tokenprune.weights.recipes import Recipe, get_recipe
from tokenprune.weights.recovery.lora import merge, wrap
from tokenprune.weights.structured import UnitPruning
from tokenprune.weights.text import mean_nll
from tokenprune.weights.units import UnitCosts


def test_importance_is_what_one_step_changes(tiny_lm, windows):
    """By autograd: gradients of A and B, a step of size one, and how far B A is from where it was."""
    model = tiny_lm("qwen2")
    model.requires_grad_(False)
    wrapped = wrap(model, 4, 8.0, seed=1)
    with torch.no_grad():
        for _, _, w in wrapped:
            w.b.normal_(0, 0.1)
    parameters = [p for _, _, w in wrapped for p in (w.a, w.b)]
    loss = model(windows, labels=windows).loss
    grads = torch.autograd.grad(loss, parameters)
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g
    for i, (_, name, w) in enumerate(wrapped):
        da, db = grads[2 * i], grads[2 * i + 1]
        scale = 8.0 / 4
        moved = scale * (w.b @ w.a - (w.b - db) @ (w.a - da))
        whole = w.base.weight + scale * (w.b @ w.a)
        torch.testing.assert_close(importance(w), (moved * whole).square(), rtol=1e-3, atol=1e-10, msg=name)
        assert w.base.weight.grad is None
    # a channel is worth what all its slices are worth
    layer = model.model.layers[1].mlp
    want = importance(layer.gate_proj)[5].sum() + importance(layer.up_proj)[5].sum()
    want = want + importance(layer.down_proj)[:, 5].sum()
    got = importances(model, Shape.of(model.config))[1]
    assert float(got.channels[5]) == pytest.approx(float(want), rel=1e-4)
    heads = model.model.layers[1].self_attn
    want = sum(importance(getattr(heads, n))[-8:].sum() for n in ("k_proj", "v_proj"))
    want = want + importance(heads.q_proj)[-16:].sum() + importance(heads.o_proj)[:, -16:].sum()
    assert float(got.kv[1].mean()) == pytest.approx(float(want), rel=1e-4)
    merge(wrapped)


def test_at_first_it_is_the_projected_gradient(tiny_lm, windows):
    """While B is zero the estimate is the weights' own gradient, projected: s^2 G A^T A."""
    model = tiny_lm()
    loss = model(windows, labels=windows).loss
    name = "model.layers.2.mlp.down_proj"
    (gradient,) = torch.autograd.grad(loss, [model.get_submodule(name).weight])
    model.requires_grad_(False)
    wrap(model, 4, 8.0, seed=1)
    model(windows, labels=windows).loss.backward()
    w = model.get_submodule(name)
    want = (4.0 * gradient @ w.a.T @ w.a * w.base.weight).square()
    torch.testing.assert_close(importance(w), want, rtol=1e-2, atol=1e-9)


def test_schedule():
    how = LoraImportance(steps=100)
    shares = [how.progress(step) for step in range(100)]
    assert shares[69:] == [1.0] * 31
    assert all(a <= b for a, b in itertools.pairwise(shares))
    assert shares[34] == pytest.approx(1 - 0.5**3)


def test_prunes_to_the_target_and_trains(tiny_lm, windows):
    model = tiny_lm(num_attention_heads=8, num_key_value_heads=4)
    dense = copy.deepcopy(model)
    shape = Shape.of(model.config)
    costs = UnitCosts.of(shape)
    how = UnitPruning(LoraImportance(steps=40, every=5, lr=5e-3, batch=3), Uniform())
    kept, biases = how.run(model, windows, 0.3)
    assert biases == {}

    def cost(k):
        return sum(len(x.kv_heads) * costs.group + len(x.channels) * costs.channel for x in k.layers)

    assert abs(cost(kept) - 0.7 * cost(Kept.all_of(model.config))) <= costs.channel
    small = materialise(model, kept)
    with torch.no_grad():  # what went is zero in the model, so cutting changes nothing
        torch.testing.assert_close(small(windows).logits, model(windows).logits, rtol=1e-3, atol=1e-3)
    assert mean_nll(small, windows) < mean_nll(materialise(dense, kept), windows) - 0.1
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(n.endswith((".a", ".b")) for n, _ in model.named_parameters())


def test_a_stopped_run_goes_on(tiny_lm, windows, tmp_path):
    recipe = get_recipe("loraprune").model_dump()
    recipe["criterion"] |= {"steps": 40, "lr": 3e-3}
    recipe = Recipe.model_validate(recipe)
    whole, stopped = tiny_lm(), tiny_lm()
    want = prune(whole, windows, recipe)
    with pytest.raises(Stop):
        prune(tiny_lm(), windows, recipe, reporter=Stopper(33), journal=Journal(tmp_path / "j", "m"))
    found = prune(stopped, windows, recipe, journal=Journal(tmp_path / "j", "m"))
    assert want.kept == found.kept
    for a, b in zip(whole.parameters(), stopped.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_wrong_settings(tiny_lm, windows):
    for wrong in ({"steps": 0}, {"lr": 0}, {"average": 1.0}):
        with pytest.raises(RecipeError, match="lora-learn"):
            LoraImportance(**wrong)
    for change in ({"rounds": 2}, {"compensation": {"name": "bias"}}):
        with pytest.raises(RecipeError, match="trains as it prunes"):
            prune(tiny_lm(), windows, Recipe.model_validate(get_recipe("loraprune").model_dump() | change))
    with pytest.raises(RecipeError, match="experts"):
        prune(tiny_lm("mixtral"), windows, get_recipe("loraprune"))
