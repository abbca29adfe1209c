"""Units: scores, allocation and compensation against plain references."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.errors import RecipeError
from tokenprune.weights.allocation.base import layer_costs
from tokenprune.weights.allocation.ecoflap import ZerothOrder
from tokenprune.weights.allocation.influence import AngularInfluence, Similarity
from tokenprune.weights.allocation.owl import Owl
from tokenprune.weights.allocation.ratios import spread
from tokenprune.weights.allocation.uniform import Uniform
from tokenprune.weights.allocation.units import by_ratio, pooled
from tokenprune.weights.compensation.least_squares import refit
from tokenprune.weights.criteria.amp import Projection
from tokenprune.weights.criteria.cfsp import Cfsp
from tokenprune.weights.criteria.flap import Fluctuation
from tokenprune.weights.criteria.taylor import Taylor
from tokenprune.weights.criteria.unit_magnitude import UnitMagnitude
from tokenprune.weights.criteria.wanda_sp import WandaUnits
from tokenprune.weights.gradients import gradients
from tokenprune.weights.kept import Kept, Shape
from tokenprune.weights.masked import masked
from tokenprune.weights.materialise import materialise
from tokenprune.weights.sites import matrices
from tokenprune.weights.stream import Stream
from tokenprune.weights.structured import UnitPruning
from tokenprune.weights.units import Constraints, LayerFacts, UnitCosts, UnitScores

CRITERIA = [
    UnitMagnitude(),
    WandaUnits(),
    Fluctuation(),
    Taylor("mixed"),
    Taylor("vectorised"),
    Cfsp(),
    Projection(),
]


def named(how):
    """An id that is the same in every process: not all of these say what they are."""
    return how if isinstance(how, str) else type(how).__name__


def facts(model, windows):
    stream = Stream(model, windows)
    total, squares = gradients(model, windows)
    stats = stream.observe(0, frozenset("*"))
    return LayerFacts(Shape.of(model.config), matrices(model.model.layers[0]), stats, total[0], squares[0])


def inputs_of(model, windows, name):
    seen = []
    module = model.get_submodule(f"model.layers.{name}")
    handle = module.register_forward_pre_hook(lambda m, i: seen.append(i[0].flatten(0, -2)))
    with torch.no_grad():
        model(windows)
    handle.remove()
    return torch.cat(seen)


def test_flap_scores(tiny_lm, windows):
    model = tiny_lm()
    got = Fluctuation().score(facts(model, windows))
    x = inputs_of(model, windows, "0.mlp.down_proj")
    w = model.model.layers[0].mlp.down_proj.weight
    torch.testing.assert_close(got.channels, x.var(0) * w.square().sum(0), rtol=1e-3, atol=1e-5)
    x = inputs_of(model, windows, "0.self_attn.o_proj")
    w = model.model.layers[0].self_attn.o_proj.weight
    each = x.var(0) * w.square().sum(0)
    torch.testing.assert_close(got.kv.mean(1), each.view(2, 16).mean(1), rtol=1e-3, atol=1e-5)


def test_projection_scores(tiny_lm, windows):
    model = tiny_lm()
    got = Projection().score(facts(model, windows))
    x = inputs_of(model, windows, "0.self_attn.o_proj")
    w = model.model.layers[0].self_attn.o_proj.weight
    for g in range(2):
        part = x[:, 16 * g : 16 * g + 16] @ w[:, 16 * g : 16 * g + 16].T
        torch.testing.assert_close(got.kv[g, 0], part.square().sum(1).mean().sqrt(), rtol=1e-3, atol=1e-5)
    x, w = inputs_of(model, windows, "0.mlp.down_proj"), model.model.layers[0].mlp.down_proj.weight
    part = x[:, 7:8] @ w[:, 7:8].T
    torch.testing.assert_close(got.channels[7], part.square().sum(1).mean().sqrt(), rtol=1e-3, atol=1e-5)


def test_gradients_are_autograds(tiny_lm, windows):
    model = tiny_lm("qwen2")
    total, squares = gradients(model, windows[:2])
    other = copy.deepcopy(model)
    grads = []
    for row in windows[:2]:
        other.zero_grad()
        other(row[None], labels=row[None]).loss.backward()
        grads.append(other.model.layers[1].mlp.up_proj.weight.grad.clone())
    torch.testing.assert_close(total[1]["up_proj"], grads[0] + grads[1])
    torch.testing.assert_close(squares[1]["up_proj"], grads[0] ** 2 + grads[1] ** 2)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_gradients_of_experts(tiny_lm, windows):
    model = tiny_lm("mixtral")
    total, _ = gradients(model, windows[:1])
    model(windows[:1], labels=windows[:1]).loss.backward()
    for e in range(6):
        torch.testing.assert_close(
            total[0][f"experts.{e}.down_proj"], model.model.layers[0].mlp.experts.down_proj.grad[e]
        )


def test_taylor_predicts_what_a_small_unit_costs(tiny_lm, windows):
    """First order, vectorised: |sum g w| over a slice is the change of the loss when it shrinks a little."""
    model = tiny_lm()
    at = facts(model, windows)
    layer = model.model.layers[0]
    scores = Taylor("vectorised").score(at)
    with torch.no_grad():
        before = sum(float(model(r[None], labels=r[None]).loss) for r in windows)
        layer.mlp.gate_proj.weight[5] *= 1 - 1e-2
        layer.mlp.up_proj.weight[5] *= 1 - 1e-2
        layer.mlp.down_proj.weight[:, 5] *= 1 - 1e-2
        after = sum(float(model(r[None], labels=r[None]).loss) for r in windows)
    assert abs(after - before) / 1e-2 == pytest.approx(float(scores.channels[5]), rel=0.2, abs=2e-3)


def test_coupled_slices(tiny_lm, windows):
    """The norm of a KV group is that of all weights a materialised model without it has lost."""
    model = tiny_lm("qwen3")
    got = UnitMagnitude().score(facts(model, windows))
    whole = Kept.all_of(model.config)
    for field, keep, score in (
        ("kv_heads", (1,), got.kv[0, 0]),
        ("channels", tuple(i for i in range(48) if i != 9), got.channels[9]),
    ):
        small = materialise(model, Kept(tuple(replace(layer, **{field: keep}) for layer in whole.layers)))
        power = [
            sum(float(w.square().sum()) for w in matrices(m.model.layers[0]).values()) for m in (model, small)
        ]
        assert float(score) ** 2 == pytest.approx(power[0] - power[1], rel=1e-3)


def test_what_cannot_go_is_said(tiny_lm, windows):
    from tokenprune.weights.prune import prune
    from tokenprune.weights.recipes import get_recipe

    with pytest.raises(RecipeError, match="20% of kv_bytes cannot go: what this recipe prunes is at most 0%"):
        prune(tiny_lm(), windows, get_recipe("cfsp"), 0.2, costs="kv_bytes")
    with pytest.raises(RecipeError, match=r"spares 4 at the start and 2 at the end .*`spared`"):
        prune(tiny_lm(), windows, get_recipe("llm-pruner"), 0.2)


def test_cfsp_spares_attention(tiny_lm, windows):
    model = tiny_lm()
    kept, _ = UnitPruning(Cfsp(), Uniform()).run(model, windows, 0.2)
    assert all(layer.kv_heads == (0, 1) for layer in kept.layers)


def cost(kept, costs):
    return sum(len(x.kv_heads) * costs.group + len(x.channels) * costs.channel for x in kept.layers)


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("allocation", [Uniform(), Similarity(), "zscore", "none", "mean"], ids=named)
def test_costs_meet_the_target(tiny_lm, windows, criterion, allocation):
    model = tiny_lm("qwen2")
    dense = cost(Kept.all_of(model.config), UnitCosts.of(Shape.of(model.config)))
    costs = UnitCosts.of(Shape.of(model.config))
    kept, _ = UnitPruning(criterion, allocation).run(model, windows, 0.23)
    assert abs(dense - cost(kept, costs) - 0.23 * dense) <= costs.channel


@pytest.mark.parametrize("what", ["flops", "kv_bytes"])
def test_other_costs(tiny_lm, windows, what):
    model = tiny_lm(num_attention_heads=8, num_key_value_heads=4, num_hidden_layers=4)
    whole = Kept.all_of(model.config)
    kept, _ = UnitPruning(Fluctuation(), "zscore", costs=what).run(model, windows, 0.25)
    if what == "kv_bytes":
        assert kept.kv_bytes_per_token(model.config) == 0.75 * whole.kv_bytes_per_token(model.config)
    else:
        head = 2 * 32 * 67
        before, after = (k.prefill_flops(model.config, 24) - head for k in (whole, kept))
        assert abs(after - 0.75 * before) <= 6 * 24 * 32 + 1


def test_constraints(tiny_lm, windows):
    model = tiny_lm(num_attention_heads=8, num_key_value_heads=4)
    limits = Constraints(tensor_parallel=2, channel_multiple=16, min_channels=16)
    for allocation in (Uniform(), "zscore"):
        kept, _ = UnitPruning(Fluctuation(), allocation, limits=limits).run(
            copy.deepcopy(model), windows, 0.3
        )
        assert all(len(x.kv_heads) in (2, 4) and len(x.channels) in (16, 32, 48) for x in kept.layers)
    with pytest.raises(RecipeError, match="90% of params cannot go: what this recipe prunes is at most"):
        UnitPruning(Fluctuation(), "zscore", limits=limits).run(model, windows, 0.9)
    with pytest.raises(RecipeError, match="4 KV groups do not divide"):
        UnitPruning(Fluctuation(), limits=Constraints(tensor_parallel=3)).run(model, windows, 0.1)
    with pytest.raises(RecipeError, match="no multiple of 7"):
        UnitPruning(Fluctuation(), limits=Constraints(channel_multiple=7)).run(model, windows, 0.1)


def test_spared_layers(tiny_lm, windows):
    kept, _ = UnitPruning(WandaUnits(), Uniform(), spared_first=1, spared_last=1).run(tiny_lm(), windows, 0.2)
    assert [len(x.channels) == 48 and len(x.kv_heads) == 2 for x in kept.layers] == [True, False, True]


def test_experts_are_refused(tiny_lm, windows):
    with pytest.raises(RecipeError, match="experts"):
        UnitPruning(Fluctuation()).run(tiny_lm("mixtral"), windows, 0.2)


def test_bias_restores_the_mean_output(tiny_lm, windows):
    model = tiny_lm()
    dense = copy.deepcopy(model)
    kept, biases = UnitPruning(Fluctuation(), "zscore", "bias").run(model, windows, 0.4)
    for i, layer in enumerate(kept.layers):
        for name, stay, key in (("mlp.down_proj", layer.channels, "down_bias"),):
            x = inputs_of(dense, windows, f"{i}.{name}")
            w = dense.get_submodule(f"model.layers.{i}.{name}").weight
            want = (x @ w.T).mean(0)
            if f"layers.{i}.{key}" in biases:
                got = (x[:, list(stay)] @ w[:, list(stay)].T).mean(0) + biases[f"layers.{i}.{key}"]
                torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    assert any(key.endswith("down_bias") for key in biases)
    # the first layer's attention sees dense inputs, so its mean output is the dense one in the whole model
    small = materialise(model, kept, biases)
    with torch.no_grad(), masked(dense, kept, biases):
        torch.testing.assert_close(small(windows).logits, dense(windows).logits, rtol=1e-3, atol=1e-3)


def test_refit_is_the_least_squares_solution():
    g = torch.Generator().manual_seed(3)
    weight, x = (
        torch.randn(5, 12, generator=g),
        torch.randn(300, 12, generator=g) @ torch.randn(12, 12, generator=g),
    )
    stay = [0, 2, 3, 7, 11]
    got = refit(weight, x.T @ x, stay, damping=0.0)
    want = torch.linalg.lstsq(x[:, stay].double(), (x @ weight.T).double()).solution.T
    torch.testing.assert_close(got[:, stay].double(), want, rtol=1e-3, atol=1e-3)
    assert bool((got[:, [i for i in range(12) if i not in stay]] == 0).all())
    assert torch.equal(refit(weight, x.T @ x, [], 0.01), torch.zeros_like(weight))
    close = refit(weight, x.T @ x, stay, damping=1e6)  # strong damping keeps the old weights
    torch.testing.assert_close(close[:, stay], weight[:, stay], rtol=1e-2, atol=1e-2)


def test_refit_beats_cutting(tiny_lm, windows):
    dense = tiny_lm()
    losses = {}
    for how in (None, "least-squares"):
        model = copy.deepcopy(dense)
        kept, biases = UnitPruning(Fluctuation(), Uniform(), how).run(model, windows, 0.2)
        small = materialise(model, kept, biases)
        with torch.no_grad():
            losses[how] = float((small(windows).logits - dense(windows).logits).square().mean())
    assert losses["least-squares"] < losses[None]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(2, 40),
    st.integers(1, 50),
    st.integers(1, 9),
    st.floats(0, 0.7),
    st.integers(0, 10**6),
)
def test_allocation_properties(layers, groups, channels, group_cost, channel_cost, share, seed):
    g = torch.Generator().manual_seed(seed)
    scores = [
        UnitScores(torch.rand(groups, 3, generator=g), torch.rand(channels, generator=g))
        for _ in range(layers)
    ]
    costs, limits = UnitCosts(group_cost, channel_cost), Constraints()
    whole = layers * (groups * group_cost + channels * channel_cost)
    for find in (
        lambda: by_ratio(scores, [share] * layers, costs, limits),
        lambda: pooled(scores, round(share * whole), costs, limits, "zscore"),
    ):
        try:
            found = find()
        except RecipeError:
            # only where one group and one channel of each layer are dear
            continue
        left = sum(len(kv) * group_cost + len(c) * channel_cost for kv, c in found)
        assert abs(whole - left - share * whole) <= max(channel_cost, group_cost) + 1
        for (kv, c), layer in zip(found, scores, strict=True):
            assert kv and c
            gone = sorted(set(range(channels)) - set(c))
            if gone:
                assert layer.channels[gone].max() <= layer.channels[list(c)].min()


def test_spread():
    costs = [1, 2, 3, 4]
    ratios = spread([0.1, 0.9, 0.5, 0.5], 0.5, 0.16, costs)
    assert max(ratios) - min(ratios) == pytest.approx(0.16)
    assert ratios[0] > ratios[2] == ratios[3] > ratios[1]
    assert sum(r * c for r, c in zip(ratios, costs, strict=True)) / 10 == pytest.approx(0.5)
    assert spread([3, 3], 0.4, 0.1, [1, 1]) == [0.4, 0.4]
    tight = spread([0, 1, 1, 1], 0.05, 0.5, costs)
    assert min(tight) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize(
    "how", [Owl(), AngularInfluence(), Similarity(), ZerothOrder(directions=1)], ids=named
)
def test_ratios_add_up(tiny_lm, windows, family, how):
    model = tiny_lm(family)
    before = copy.deepcopy(model.state_dict())
    ratios = how.ratios(model, windows, 0.5)
    costs = layer_costs(model)
    assert sum(r * c for r, c in zip(ratios, costs, strict=True)) / sum(costs) == pytest.approx(0.5)
    assert len(set(ratios)) > 1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_owl_counts_outliers(tiny_lm, windows):
    model = tiny_lm()
    with torch.no_grad():
        for w in matrices(model.model.layers[1]).values():
            w *= torch.where(torch.rand_like(w) < 0.05, 6.0, 1.0)
    ratios = Owl().ratios(model, windows, 0.5)
    assert ratios.index(min(ratios)) == 1


def test_zeroth_order_finds_the_sensitive_layer(tiny_lm, windows):
    model = tiny_lm()
    with torch.no_grad():
        for w in matrices(model.model.layers[0]).values():
            w *= 1e-3
        for w in matrices(model.model.layers[2]).values():
            w *= 2
    ratios = ZerothOrder(directions=4).ratios(model, windows, 0.5)
    assert ratios.index(max(ratios)) == 0


@pytest.mark.parametrize("allocation", [Similarity(), Uniform(), "zscore", "mean"], ids=named)
def test_rounds_only_take_more(tiny_lm, windows, allocation):
    model = tiny_lm(num_attention_heads=8, num_key_value_heads=4, num_hidden_layers=4)
    whole, costs = Kept.all_of(model.config), UnitCosts.of(Shape.of(model.config))
    how = UnitPruning(Taylor("first"), allocation)
    now = None
    for share in (0.1, 0.2, 0.3):
        before = now
        now, _ = how.run(model, windows, share, before=before)
        assert abs(cost(whole, costs) * (1 - share) - cost(now, costs)) <= costs.channel
        for old, new in zip((before or whole).layers, now.layers, strict=True):
            assert set(new.kv_heads) <= set(old.kv_heads) and set(new.channels) <= set(old.channels)
    with torch.no_grad():  # what went in any round is zero in the model
        small = materialise(model, now, {})
        torch.testing.assert_close(small(windows).logits, model(windows).logits, rtol=1e-3, atol=1e-3)
