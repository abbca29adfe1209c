"""Dropping layers, sublayers and experts."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from tokenprune.errors import RecipeError
from tokenprune.weights.depth import BlockInfluence, OutputChange, jensen_shannon
from tokenprune.weights.experts import RouterSimilarity, clusters
from tokenprune.weights.influence import similarities
from tokenprune.weights.kept import Kept
from tokenprune.weights.masked import masked


def test_influence_is_the_cosine(tiny_lm, windows):
    model = tiny_lm("qwen3")
    with torch.no_grad():
        states = model.model(windows, output_hidden_states=True).hidden_states
        behind = []
        handle = model.model.layers[2].register_forward_hook(lambda m, i, o: behind.append(o))
        model.model(windows)
        handle.remove()
    states = [*states[:3], behind[0]]  # the last of the model's own is normed
    want = [float(torch.cosine_similarity(states[i], states[i + 1], dim=-1).mean()) for i in range(3)]
    assert similarities(model, windows) == pytest.approx(want, abs=1e-5)


def test_shortgpt_drops_the_idle_layer(tiny_lm, windows):
    model = tiny_lm()
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight *= 0.01
        model.model.layers[1].mlp.down_proj.weight *= 0.01
    kept = BlockInfluence().run(model, windows, 0.33)
    assert [layer.empty for layer in kept.layers] == [False, True, False]
    assert BlockInfluence().run(model, windows, 0.0) == Kept.all_of(model.config)
    with pytest.raises(RecipeError, match="all 3 layers"):
        BlockInfluence().run(model, windows, 0.99)


def divergence_of_states(model, one, other):
    states = (m.model(one).last_hidden_state for m in (model, other))
    return 1 - float(torch.cosine_similarity(*states, dim=-1).mean())


def divergence_of_predictions(model, text, other):
    """Jensen-Shannon by its definition: two divergences from the mean, over every fourth token."""
    p, q = (m(text).logits[:, 3::4].double().softmax(-1) for m in (model, other))
    middle = ((p + q) / 2).log()
    sides = (torch.nn.functional.kl_div(middle, one, reduction="none").sum(-1).mean() for one in (p, q))
    return float(sum(sides)) / 2


def test_jensen_shannon_knows_its_ends():
    apart = torch.tensor([[1.0, 0.0], [0.25, 0.75]]).log()
    assert float(jensen_shannon(apart[0], apart[0])) == 0
    opposite = jensen_shannon(torch.tensor([0.0, -200.0]), torch.tensor([-200.0, 0.0]))
    assert float(opposite) == pytest.approx(math.log(2))
    assert 0 < float(jensen_shannon(*apart.clamp_min(-200.0))) < math.log(2)


@pytest.mark.parametrize(
    ("measure", "change"), [("states", divergence_of_states), ("predictions", divergence_of_predictions)]
)
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_finercut_is_the_greedy_search(tiny_lm, windows, family, measure, change):
    """Each step against a search that masks the whole model from outside."""
    model = tiny_lm(family)
    how = OutputChange(windows=2, measure=measure)
    kept = how.run(model, windows, 0.35)
    text = windows[:2]
    whole = Kept.all_of(model.config)
    total = sum(whole.layer_params(model.config, i) for i in range(3))
    left = round(0.35 * total)
    now = whole
    while True:
        trials = []
        for i, layer in enumerate(now.layers):
            for new in (
                replace(layer, attention=False, kv_heads=()) if layer.attention else None,
                replace(layer, mlp=False, channels=()) if layer.mlp else None,
            ):
                if new is None:
                    continue
                trial = Kept((*now.layers[:i], new, *now.layers[i + 1 :]))
                cost = now.layer_params(model.config, i) - trial.layer_params(model.config, i)
                if cost <= left:
                    with torch.no_grad(), masked(copy.deepcopy(model), trial) as other:
                        trials.append((change(model, text, other), cost, trial))
        if not trials:
            break
        _, cost, now = min(trials, key=lambda t: t[0])
        left -= cost
    assert kept == now
    assert sum(layer.attention + layer.mlp for layer in kept.layers) < 6


def test_clusters():
    alike = torch.eye(5)
    for a, b in ((0, 3), (1, 4)):
        alike[a, b] = alike[b, a] = 0.9
    assert sorted(clusters(alike, 3)) == [[0, 3], [1, 4], [2]]
    assert clusters(alike, 5) == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_a_twin_expert_goes(tiny_lm, windows, family):
    model = tiny_lm(family)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight[4] = layer.mlp.gate.weight[1] * 1.02
    kept = RouterSimilarity().run(model, windows, 1 / 6)
    for layer in kept.layers:
        assert len(layer.experts) == 5
        assert len({1, 4} & set(layer.experts)) == 1
    with pytest.raises(RecipeError, match="a token visits 2"):
        RouterSimilarity().run(model, windows, 0.9)


def test_dense_models_have_no_experts(tiny_lm, windows):
    with pytest.raises(RecipeError, match="has none"):
        RouterSimilarity().run(tiny_lm(), windows, 0.5)
