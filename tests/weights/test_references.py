"""Criteria, allocations and compensations against plain loops over their formulas."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.errors import RecipeError
from tokenprune.weights.allocation.ecoflap import ZerothOrder
from tokenprune.weights.allocation.influence import AngularInfluence, Similarity
from tokenprune.weights.allocation.owl import Owl
from tokenprune.weights.allocation.uniform import Uniform
from tokenprune.weights.allocation.units import by_ratio, pooled
from tokenprune.weights.compensation.dsnot import Dsnot
from tokenprune.weights.criteria.base import Weights
from tokenprune.weights.criteria.cfsp import Cfsp
from tokenprune.weights.criteria.sparsegpt import SparseGPT
from tokenprune.weights.criteria.taylor import Taylor
from tokenprune.weights.criteria.wanda_sp import WandaUnits
from tokenprune.weights.experts import RouterSimilarity
from tokenprune.weights.gradients import gradients
from tokenprune.weights.kept import Shape
from tokenprune.weights.recovery.train import Recovery
from tokenprune.weights.sites import matrices
from tokenprune.weights.statistics import InputStats
from tokenprune.weights.stream import Stream
from tokenprune.weights.structured import UnitPruning
from tokenprune.weights.units import Constraints, LayerFacts, UnitCosts, UnitScores

PROJECTIONS = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


def facts(model, windows):
    total, squares = gradients(model, windows)
    stats = Stream(model, windows).observe(0, frozenset("*"))
    return LayerFacts(Shape.of(model.config), matrices(model.model.layers[0]), stats, total[0], squares[0])


def linears(layer):
    return {
        name: getattr(getattr(layer, owner), name) for owner, names in PROJECTIONS.items() for name in names
    }


def inputs_of(model, windows):
    """What goes into every matrix of every layer, [tokens, in], seen by hooks on the whole dense model."""
    seen, handles = [], []
    for layer in model.model.layers:
        seen.append({})
        for name, linear in linears(layer).items():
            handles.append(
                linear.register_forward_pre_hook(
                    lambda m, i, into=seen[-1], n=name: into.__setitem__(n, i[0].flatten(0, -2))
                )
            )
    with torch.no_grad():
        model(windows)
    for handle in handles:
        handle.remove()
    return seen


def slices(layer, group):
    """For each KV group (4 heads, 2 groups of 8 dimensions each) or channel the weights that leave with it."""
    w = {name: linear.weight.detach() for name, linear in linears(layer).items()}
    if group:
        for g in range(2):
            q, k = slice(16 * g, 16 * g + 16), slice(8 * g, 8 * g + 8)
            yield {
                "q_proj": (q, slice(None)),
                "k_proj": (k, slice(None)),
                "v_proj": (k, slice(None)),
                "o_proj": (slice(None), q),
            }
    else:
        for c in range(w["gate_proj"].shape[0]):
            yield {"gate_proj": (c,), "up_proj": (c,), "down_proj": (slice(None), c)}


def test_wanda_sp_scores(tiny_lm, windows):
    model = tiny_lm()
    got, x = WandaUnits().score(facts(model, windows)), inputs_of(model, windows)[0]
    found = matrices(model.model.layers[0])
    down, out = found["down_proj"], found["o_proj"]
    for c in (0, 7, 47):
        want = sum(abs(float(down[i, c])) for i in range(32)) * float(
            x["down_proj"][:, c].square().mean().sqrt()
        )
        assert float(got.channels[c]) == pytest.approx(want, rel=1e-3)
    each = [float(out[:, c].abs().sum() * x["o_proj"][:, c].square().mean().sqrt()) for c in range(32)]
    for g in range(2):
        assert float(got.kv[g].mean()) == pytest.approx(sum(each[16 * g : 16 * g + 16]) / 16, rel=1e-3)


@pytest.mark.parametrize("kind", ["vectorised", "first", "second", "mixed"])
@pytest.mark.parametrize("group", [True, False])
def test_taylor_scores(tiny_lm, windows, kind, group):
    model = tiny_lm()
    got = Taylor(kind).score(facts(model, windows))
    layer, grads = model.model.layers[0], []
    for row in windows:  # a sample each
        model.zero_grad()
        model(row[None], labels=row[None]).loss.backward()
        grads.append({name: linear.weight.grad.clone() for name, linear in linears(layer).items()})
    weights = {name: linear.weight.detach() for name, linear in linears(layer).items()}
    for unit, where in enumerate(slices(layer, group)):
        flat = [
            (w, torch.stack([g[name][at].flatten() for g in grads]))
            for name, at in where.items()
            for w in [weights[name][at].flatten()]
        ]
        first = torch.cat([w * g.sum(0) for w, g in flat])
        second = torch.cat([w.square() * g.square().sum(0) for w, g in flat])
        vectorised = 0.0
        for name, at in where.items():
            part = weights[name][at] * sum(g[name][at] for g in grads)
            along = 0 if name in ("o_proj", "down_proj") else -1
            vectorised += part.sum(along if part.dim() > 1 else 0).abs().sum()
        want = {
            "vectorised": vectorised,
            "first": first.abs().sum(),
            "second": second.sum(),
            "mixed": (first - second / 2).abs().sum(),
        }[kind]
        score = got.kv[unit].mean() if group else got.channels[unit]
        torch.testing.assert_close(score, want, rtol=2e-3, atol=1e-5)


def test_cfsp_scores(tiny_lm, windows):
    model = tiny_lm()
    got, x = Cfsp(0.5, 0.5).score(facts(model, windows)), inputs_of(model, windows)[0]["down_proj"]
    mlp = model.model.layers[0].mlp
    down = mlp.down_proj.weight.detach().abs()
    up, gate = (linear.weight.detach().abs().T for linear in (mlp.up_proj, mlp.gate_proj))
    for c in (0, 11, 47):
        norm = float(x[:, c].norm())
        want = sum(
            float(down[i, c] / down[i].sum()) * norm**0.5
            + float(up[i, c] / up[i].sum())
            + float(gate[i, c] / gate[i].sum())
            for i in range(32)
        )
        assert float(got.channels[c]) == pytest.approx(want * norm**0.5, rel=1e-3)
    assert bool(got.kv.isposinf().all())


def test_sparsegpts_saliency_alone():
    """Without the update it is w^2 over the diagonal of the inverse of H without the columns before."""
    g = torch.Generator().manual_seed(2)
    weight, x = torch.randn(4, 10, generator=g), torch.randn(90, 10, generator=g)
    stats = InputStats(10, with_gram=True)
    stats.add(x)
    got = SparseGPT().score(Weights(weight, stats))
    hessian = (x.T @ x).double()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(10)
    for j in range(10):
        want = weight[:, j].double() ** 2 / torch.linalg.inv(hessian[j:, j:])[0, 0]
        torch.testing.assert_close(got[:, j].double(), want, rtol=1e-3, atol=1e-4)


def test_router_similarity():
    g = torch.Generator().manual_seed(0)
    rows, chances = torch.randn(4, 9, generator=g), torch.randn(50, 4, generator=g).softmax(-1)
    got = RouterSimilarity(rows=2.0, calls=3.0).similarity(rows, chances)
    for a in range(4):
        for b in range(4):
            cosine = float(rows[a] @ rows[b]) / float(rows[a].norm() * rows[b].norm())
            p, q = chances[:, a] - chances[:, a].mean(), chances[:, b] - chances[:, b].mean()
            alike = float(p @ q) / math.sqrt(float(p @ p) * float(q @ q))
            assert float(got[a, b]) == pytest.approx(2 * cosine + 3 * alike, abs=1e-4)


def mapped(importance, sparsity, width):
    """Ratios of layers of one size: fall linearly with importance, ``width`` apart, their mean the sparsity."""
    low, high = min(importance), max(importance)
    falls = [-width * (v - low) / (high - low) for v in importance]
    return [sparsity + f - sum(falls) / len(falls) for f in falls]


def test_owl_ratios(tiny_lm, windows):
    model = tiny_lm()
    shares = []
    for layer, x in zip(model.model.layers, inputs_of(model, windows), strict=True):
        scores = torch.cat(
            [
                (linear.weight.detach().abs() * x[name].square().mean(0).sqrt()).flatten()
                for name, linear in linears(layer).items()
            ]
        )
        shares.append(float((scores > 3 * scores.mean()).float().mean()))
    assert Owl(threshold=3.0, limit=0.1).ratios(model, windows, 0.5) == pytest.approx(
        mapped(shares, 0.5, 0.2), abs=1e-4
    )


def test_ratios_by_influence(tiny_lm, windows):
    model = tiny_lm()
    states = []
    handles = [
        layer.register_forward_hook(lambda m, i, o: states.append((i[0], o))) for layer in model.model.layers
    ]
    with torch.no_grad():
        model(windows)
    for handle in handles:
        handle.remove()
    cosines = [float(torch.cosine_similarity(a, b, dim=-1).mean()) for a, b in states]
    assert Similarity(width=0.1).ratios(model, windows, 0.3) == pytest.approx(
        mapped([-c for c in cosines], 0.3, 0.1), abs=1e-4
    )
    angles = torch.tensor(cosines, dtype=torch.float64).arccos() / math.pi
    standard = (angles - angles.mean()) / angles.std(unbiased=False)
    assert AngularInfluence(width=0.2).ratios(model, windows, 0.3) == pytest.approx(
        mapped(standard.sigmoid().tolist(), 0.3, 0.2), abs=1e-3
    )
    assert Uniform().ratios(model, windows, 0.3) == [0.3] * 3


def test_zeroth_order_is_the_gradient_along_its_directions(tiny_lm, windows):
    """Against autograd: the slope along a direction is its product with the gradient."""
    model, text, how = tiny_lm(), windows[:2], ZerothOrder(step=1e-3, directions=2, windows=2, seed=3)
    other = copy.deepcopy(model)
    other(text, labels=text).loss.backward()
    importance = []
    for index, layer in enumerate(other.model.layers):
        slopes = []
        for direction in range(2):
            random, slope = torch.Generator().manual_seed(3 + index * 2 + direction), 0.0
            for linear in linears(layer).values():
                w = linear.weight
                noise = torch.randn(w.shape, generator=random)
                slope += float((w.grad * noise).sum() * w.detach().square().mean().sqrt())
            slopes.append(slope)
        importance.append(math.sqrt(sum(s * s for s in slopes)))
    got = how.ratios(model, windows, 0.5)
    assert got == pytest.approx(mapped(importance, 0.5, 0.2), abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(2, 4), st.integers(3, 12), st.floats(0.05, 0.6), st.integers(0, 10**6))
def test_the_pool_of_flap(layers, groups, channels, share, seed):
    """Standardise in each layer, mean over a group, sort all, and take from the bottom what is affordable."""
    g = torch.Generator().manual_seed(seed)
    scores = [
        UnitScores(torch.rand(groups, 5, generator=g), torch.rand(channels, generator=g))
        for _ in range(layers)
    ]
    costs = UnitCosts(7, 2)
    target = round(share * layers * (groups * 7 + channels * 2))
    units = []
    for index, layer in enumerate(scores):
        kv = ((layer.kv - layer.kv.mean()) / layer.kv.std()).mean(1)
        wide = (layer.channels - layer.channels.mean()) / layer.channels.std()
        units += [(float(v), index, 0, i) for i, v in enumerate(kv)]
        units += [(float(v), index, 1, i) for i, v in enumerate(wide)]
    stay = [[set(range(groups)), set(range(channels))] for _ in scores]
    left = target
    for _, index, kind, _ in sorted(units):
        cost = (7, 2)[kind]
        if len(stay[index][kind]) > 1 and cost <= left:
            # of a kind and layer the lowest goes next, whichever was too dear before
            stay[index][kind].discard(min(stay[index][kind], key=lambda u: _value(units, index, kind, u)))
            left -= cost
    try:
        found = pooled(scores, target, costs, Constraints(), "zscore")
    except RecipeError:  # so little is left that the last unit of a layer would have to go
        assert left > 2
        return
    assert [tuple(map(set, pair)) for pair in found] == [tuple(pair) for pair in stay]


def _value(units, index, kind, unit):
    return next(v for v, i, k, u in units if (i, k, u) == (index, kind, unit))


def test_the_same_share_of_each_layer():
    """One KV group in two layers and the rest in channels, the lowest first, worked out by hand."""
    kv = torch.tensor([[3.0], [1.0], [2.0], [4.0]])
    scores = [UnitScores(kv, torch.arange(10.0)), UnitScores(kv.flip(0), torch.arange(10.0).flip(0))]
    # a layer costs 4 x 5 + 10 x 2 = 40; a quarter is 10: one group (5), and 2 or 3 channels in turn
    found = by_ratio(scores, [0.25, 0.25], UnitCosts(5, 2), Constraints())
    assert found[0][0] == (0, 2, 3) and found[1][0] == (0, 1, 3)
    assert sum(10 - len(channels) for _, channels in found) == 5
    assert found[0][1] == tuple(range(10 - len(found[0][1]), 10))
    assert found[1][1] == tuple(range(len(found[1][1])))


def test_dsnot_is_the_loop_of_the_paper():
    """Algorithm 1, row by row with plain numbers; a row ends with a swap that brings nothing."""
    g = torch.Generator().manual_seed(6)
    weight, x = torch.randn(12, 16, generator=g), torch.randn(80, 16, generator=g) * 0.7 + 0.4
    stats = InputStats(16)
    stats.add(x)
    pruned = torch.rand(12, 16, generator=g) < 0.5
    mean, variance, norm = x.mean(0), x.var(0), x.square().mean(0).sqrt()
    want = pruned.clone()
    swaps = 0
    for r in range(12):
        error = float((weight[r] * mean)[want[r]].sum())
        for _ in range(20):
            if abs(error) <= 0.05:
                break
            sign = 1.0 if error > 0 else -1.0
            effect = [float(weight[r, j] * mean[j]) for j in range(16)]
            back = [j for j in range(16) if want[r, j] and effect[j] * sign > 0]
            out = [j for j in range(16) if not want[r, j] and effect[j] * sign < 0]
            if not back or not out:
                break
            grow = max(back, key=lambda j: effect[j] * sign / float(variance[j]) ** 1.5)
            drop = min(out, key=lambda j: abs(float(weight[r, j])) * float(norm[j]))
            new = error - effect[grow] + effect[drop]
            if abs(new) >= abs(error):
                break
            want[r, grow], want[r, drop], error, swaps = False, True, new, swaps + 1
    assert swaps > 12
    assert torch.equal(Dsnot(cycles=20, threshold=0.05, power=1.5).refine(pruned, weight, stats), want)


def test_the_bias_of_attention(tiny_lm, windows):
    """What o_proj puts out on average stays, when whole KV groups go."""
    model = tiny_lm(num_attention_heads=8, num_key_value_heads=4)
    dense = copy.deepcopy(model)
    how = UnitPruning(WandaUnits(), "zscore", "bias", costs="kv_bytes")
    kept, biases = how.run(model, windows, 0.5)
    seen, checked = inputs_of(dense, windows), 0
    for i, layer in enumerate(kept.layers):
        x, w = seen[i]["o_proj"], dense.model.layers[i].self_attn.o_proj.weight
        stay = [c for c in range(64) if c // 16 in layer.kv_heads]
        if len(stay) < 64:
            got = (x[:, stay] @ w[:, stay].T).mean(0) + biases[f"layers.{i}.o_bias"]
            torch.testing.assert_close(got, (x @ w.T).mean(0), rtol=1e-3, atol=1e-4)
            checked += 1
    assert checked


def test_distillation_is_the_divergence(tiny_lm, windows):
    """The loss is KL(dense || pruned), a mean over tokens."""
    dense, model = tiny_lm(), tiny_lm(seed=1)
    with torch.no_grad():
        p, q = dense(windows).logits[:, :-1].softmax(-1), model(windows).logits[:, :-1].softmax(-1)
    want = float((p * (p / q).log()).sum(-1).mean())
    losses = Recovery("full", distill=True, steps=1, batch=6).run(model, windows, dense)
    assert losses[0] == pytest.approx(want, rel=1e-3)
