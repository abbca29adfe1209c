"""Masks learnt end to end."""

import copy
import itertools
import math

import pytest
import torch
from stopper import Stop, Stopper

from tokenprune.errors import RecipeError
from tokenprune.weights.choose import Pattern
from tokenprune.weights.criteria.learned_masks import LearnedMasks, masks_of
from tokenprune.weights.criteria.wanda import Wanda
from tokenprune.weights.elements import ElementPruning
from tokenprune.weights.journal import Journal
from tokenprune.weights.prune import prune
from tokenprune.weights.recipes import Recipe, get_recipe
from tokenprune.weights.sites import matrices
from tokenprune.weights.text import mean_nll

FOUR = Pattern(2, 4)


def test_candidates():
    found = {tuple(row) for row in masks_of(FOUR).int().tolist()}
    assert found == {bits for bits in itertools.product((0, 1), repeat=4) if sum(bits) == 2}


@pytest.mark.parametrize("prior", [False, True])
def test_finds_the_best_of_six(prior):
    """One group a row and a loss that is a sum over rows: all masks of a row can be tried."""
    g = torch.Generator().manual_seed(4)
    weight = torch.randn(12, 4, generator=g)
    x = torch.randn(64, 4, generator=g) @ torch.randn(4, 4, generator=g)
    masks = masks_of(FOUR)

    def loss(now, step):
        return (x @ (now["w"] - weight).T).square().mean()

    trials = torch.stack([(x @ (weight * m - weight).T).square().mean(0) for m in masks])  # [6, rows]
    magnitude = torch.zeros_like(weight).scatter_(1, weight.abs().topk(2).indices, 1.0)
    how = LearnedMasks(steps=400, lr=0.01, reward=0.0)
    found = how.learn({"w": weight}, {"w": magnitude if prior else None}, loss, FOUR)["w"]
    best = trials.argmin(0)
    assert (masks[best] != magnitude).any(1).sum() >= 3  # the prior is not the answer
    reached = trials.gather(0, found.long()[None])[0]
    assert (found.long() == best).sum() >= 10  # two masks of a row may be nearly as good
    assert reached.sum() < 1.05 * trials.min(0).values.sum()


def test_prior_decides_where_nothing_is_learnt():
    weight = torch.randn(50, 8)
    mask = torch.zeros(100, 4).scatter_(1, torch.rand(100, 4).topk(2).indices, 1.0).view_as(weight)
    how = LearnedMasks(steps=1, lr=1e-9, reward=0.0)
    found = how.learn({"w": weight}, {"w": mask}, lambda now, step: now["w"].sum() * 0, FOUR)["w"]
    same = (masks_of(FOUR)[found.long()].view_as(weight) == mask).float().mean()
    assert same > 0.95  # the noise may win where the prior is 3 deviations strong, but seldom


def test_reward_prefers_large_weights():
    """Without any loss the reward alone decides: what stays has most magnitude."""
    weight = torch.randn(30, 4)
    how = LearnedMasks(steps=300, lr=0.01, reward=1.0)
    found = how.learn({"w": weight}, {"w": None}, lambda now, step: now["w"].sum() * 0, FOUR)["w"]
    kept = (weight.square() * masks_of(FOUR)[found.long()]).sum(1)
    assert kept.sum() > 0.97 * weight.square().topk(2).values.sum()


@pytest.fixture
def taught(tiny_lm, windows):
    """A tiny model that knows its text, so that masks matter."""
    from tokenprune.weights.recovery.train import Recovery

    model = tiny_lm()
    Recovery("full", steps=60, lr=3e-3).run(model, windows)
    return model


@pytest.mark.parametrize("prior", ["wanda", "sparsegpt", "none"])
def test_loss_falls_below_the_priors(taught, windows, prior):
    dense = {n: w.clone() for n, w in matrices(taught.model.layers[1]).items()}
    wanda = copy.deepcopy(taught)
    ElementPruning(Wanda(), FOUR).run(wanda, windows, [0.5] * 3)
    LearnedMasks(prior, layers=2, steps=60, batch=3, lr=5e-3, held=0.0).run(taught, windows, FOUR)
    assert mean_nll(taught, windows) < mean_nll(wanda, windows) - 0.05
    for name, weight in matrices(taught.model.layers[1]).items():
        groups = (weight.view(-1, 4) != 0).sum(1)
        assert bool((groups == 2).all())
        assert bool(((weight == 0) | (weight == dense[name])).all())
    assert all(p.requires_grad and p.grad is None for p in taught.parameters())


def test_what_is_learnt_by_heart_is_not_taken(taught, windows):
    """The text is random: what is learnt of some windows says nothing of others, and Wanda's masks stay."""
    wanda = copy.deepcopy(taught)
    ElementPruning(Wanda(), FOUR).run(wanda, windows, [0.5] * 3)
    how = {"layers": 2, "steps": 60, "batch": 3, "lr": 5e-3}
    told = Told()
    LearnedMasks("wanda", held=0.4, every=5, patience=2, **how).run(taught, windows, FOUR, told)
    judges = windows[-math.ceil(0.4 * len(windows)) :]
    assert mean_nll(taught, judges) <= mean_nll(wanda, judges) + 1e-5
    assert told.steps < 2 * 60, "it ends where it does not help"


class Told:
    """Counts the steps of the blocks."""

    steps = 0
    label = ""

    def stage(self, label, total):
        self.label = label

    def advance(self, amount):
        self.steps += self.label.startswith("masks")

    def update(self, done):
        pass


def test_experts(tiny_lm, windows):
    model = tiny_lm("mixtral", num_hidden_layers=2)
    before = copy.deepcopy(model.state_dict())
    recipe = get_recipe("maskllm").model_dump()
    recipe["criterion"] |= {"steps": 3, "layers": 1}
    prune(model, windows, Recipe.model_validate(recipe))
    for name, value in model.state_dict().items():
        if "experts" in name or "proj" in name:
            assert bool(((value.reshape(-1, 4) != 0).sum(1) == 2).all())
        else:
            assert torch.equal(value, before[name])


def test_a_stopped_run_goes_on_to_the_same_masks(taught, windows, tmp_path):
    how = LearnedMasks(layers=2, steps=30, lr=5e-3, patience=9)
    whole = copy.deepcopy(taught)
    how.run(whole, windows, FOUR)

    # in the first block behind its checkpoint, and in the second
    reporter, starts = Stopper(31, 61), copy.deepcopy(taught.state_dict())
    for _ in range(2):
        with pytest.raises(Stop):
            how.run(taught, windows, FOUR, reporter, Journal(tmp_path / "j", "m"))
        taught.load_state_dict(starts)
    names = {path.name for path in (tmp_path / "j").iterdir()}
    assert {"run.pt", "prior.pt", "block-0.pt"} <= names
    how.run(taught, windows, FOUR, journal=Journal(tmp_path / "j", "m"))
    for a, b in zip(whole.parameters(), taught.parameters(), strict=True):
        assert torch.equal(a, b)


def test_wrong_settings(tiny_lm, windows):
    for wrong in ({"prior": "x"}, {"steps": 0}, {"lr": 0.0}, {"scale": [1.0]}, {"temperature": [1.0, 0.0]}):
        with pytest.raises(RecipeError, match="learned-masks"):
            LearnedMasks(**wrong)
    for change in ({"pattern": None}, {"compensation": {"name": "obs"}}):
        recipe = Recipe.model_validate(get_recipe("maskllm").model_dump() | change)
        with pytest.raises(RecipeError, match="give a pattern"):
            prune(tiny_lm(), windows, recipe)
