"""Selection and compensation of single weights against plain references."""

import copy
from itertools import combinations

import pytest
import torch

from tokenprune.errors import RecipeError
from tokenprune.weights.choose import Pattern, lowest, n_of_m
from tokenprune.weights.compensation.dsnot import Dsnot
from tokenprune.weights.compensation.obs import Obs, inverse_factor, prune_columns
from tokenprune.weights.criteria.gblm import Gblm
from tokenprune.weights.criteria.magnitude import Magnitude
from tokenprune.weights.criteria.sparsegpt import SparseGPT
from tokenprune.weights.criteria.wanda import Wanda
from tokenprune.weights.elements import ElementPruning
from tokenprune.weights.sites import matrices, sites
from tokenprune.weights.statistics import InputStats
from tokenprune.weights.stream import Stream

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe"]


def data(outs=6, width=16, tokens=200, seed=0):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(outs, width, generator=g)
    x = torch.randn(tokens, width, generator=g) @ torch.randn(width, width, generator=g) + 0.3
    stats = InputStats(width, with_gram=True)
    stats.add(x[:77])
    stats.add(x[77:])
    return weight, x, stats


def test_statistics():
    _, x, stats = data()
    assert stats.count == 200
    torch.testing.assert_close(stats.mean, x.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stats.variance, x.var(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stats.rms, x.square().mean(0).sqrt(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stats.gram, x.T @ x, rtol=1e-4, atol=1e-3)


def test_wanda_mask_is_the_formula():
    weight, x, stats = data()
    dense = weight.clone()
    pruned = ElementPruning(Wanda()).prune(weight, stats, 6 * 8)
    for row in range(6):
        metric = [abs(float(dense[row, j])) * float(x[:, j].norm()) for j in range(16)]
        gone = set(sorted(range(16), key=metric.__getitem__)[:8])
        assert set(pruned[row].nonzero().flatten().tolist()) == gone
    assert torch.equal(weight, torch.where(pruned, 0.0, dense))


def test_magnitude_ranks_the_whole_matrix():
    weight, _, stats = data()
    size = weight.abs()
    pruned = ElementPruning(Magnitude()).prune(weight, stats, 40)
    assert int(pruned.sum()) == 40
    assert size[pruned].max() <= size[~pruned].min()


def test_gblm_adds_the_gradient():
    weight, x, stats = data()
    gradient = torch.rand(6, 16)
    from tokenprune.weights.criteria.base import Weights

    score = Gblm(alpha=10.0).score(Weights(weight, stats, gradient))
    torch.testing.assert_close(score, weight.abs() * (x.norm(dim=0) + 10 * gradient), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 7, 48, 95, 96])
@pytest.mark.parametrize("by_row", [True, False])
def test_lowest_marks_exactly_so_many(count, by_row):
    score = torch.randint(0, 4, (6, 16)).float()  # with ties
    marks = lowest(score, count, by_row)
    assert int(marks.sum()) == count
    if by_row:
        assert int(marks.sum(1).max() - marks.sum(1).min()) <= 1
        for row in range(6):
            if 0 < int(marks[row].sum()) < 16:
                assert score[row][marks[row]].max() <= score[row][~marks[row]].min()


def test_patterns():
    score = torch.rand(5, 12)
    marks = n_of_m(score, Pattern(2, 4))
    for row, mark in zip(score.view(-1, 4), marks.view(-1, 4), strict=True):
        assert set(mark.nonzero().flatten().tolist()) == set(row.argsort()[:2].tolist())
    with pytest.raises(RecipeError, match="12 weights do not divide"):
        n_of_m(score, Pattern(4, 8))
    for wrong in ("4:2", "2:2", "0:4", "2", "a:b"):
        with pytest.raises(RecipeError, match="pattern"):
            Pattern.parse(wrong)
    assert Pattern.parse("2:4").sparsity == 0.5


def explicit_obs(weight, hessian, pruned):
    """Column by column: remove a weight, solve for the best change of the columns that are still free."""
    weight = weight.double().clone()
    hessian = hessian.double()
    width = weight.shape[1]
    for row in range(len(weight)):
        for column in range(width):
            if pruned[row, column]:
                inverse = torch.linalg.inv(hessian[column:, column:])
                weight[row, column:] -= weight[row, column] / inverse[0, 0] * inverse[:, 0]
                weight[row, column] = 0
    return weight


@pytest.mark.parametrize("block", [4, 16, 128])
def test_obs_is_the_explicit_solution(block):
    weight, _, stats = data()
    pruned = torch.rand(6, 16) < 0.5
    hessian = stats.gram.clone()
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    expected = explicit_obs(weight, hessian, pruned)
    prune_columns(
        weight,
        inverse_factor(stats.gram, 0.01),
        lambda w, d, at: pruned[:, at : at + w.shape[1]],
        block,
        block,
    )
    assert bool((weight[pruned] == 0).all())
    torch.testing.assert_close(weight.double(), expected, rtol=1e-3, atol=1e-3)


def test_sparsegpt_selects_on_updated_weights_block_by_block():
    weight, _, stats = data()
    hessian = stats.gram.clone().double()
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    now, expected = weight.double().clone(), torch.zeros(6, 16, dtype=torch.bool)
    for first in range(0, 16, 8):
        # [chol(H^-1)]_jj^2 is the first diagonal entry of the inverse of H without the columns before j
        d = torch.stack([torch.linalg.inv(hessian[j:, j:])[0, 0] for j in range(first, first + 8)])
        score = now[:, first : first + 8] ** 2 / d
        part = torch.zeros(48, dtype=torch.bool)
        part[score.flatten().argsort()[:24]] = True
        expected[:, first : first + 8] = part.view(6, 8)
        only = expected.clone()
        only[:, first + 8 :] = False
        now = explicit_obs(weight, hessian, only)
    dense = weight.clone()
    pruned = ElementPruning(SparseGPT(), compensation=Obs(block=8)).prune(weight, stats, 48)
    assert torch.equal(pruned, expected)
    torch.testing.assert_close(weight.double(), now, rtol=1e-3, atol=1e-3)
    # and the update makes up for a part of what the same mask loses
    root = torch.linalg.cholesky(stats.gram)
    assert ((weight - dense) @ root).norm() < 0.9 * ((dense * pruned) @ root).norm()


def test_sparsegpt_pattern():
    weight, _, stats = data()
    pruned = ElementPruning(SparseGPT(), Pattern(2, 4), Obs()).prune(weight, stats, 0)
    assert bool((pruned.view(-1, 4).sum(1) == 2).all())
    assert bool((weight == 0).eq(pruned).all())


def explicit_groups(weight, hessian, pattern):
    """Group by group: of all sets that may go, the one whose least-squares loss is least, and its update."""
    weight, hessian = weight.double().clone(), hessian.double()
    pruned = torch.zeros_like(weight, dtype=torch.bool)
    for start in range(0, weight.shape[1], pattern.of):
        inverse = torch.linalg.inv(hessian[start:, start:])
        for row in range(len(weight)):
            free = weight[row, start:]
            found = []
            for gone in combinations(range(pattern.of), pattern.of - pattern.kept):
                gone = list(gone)
                change = -inverse[:, gone] @ torch.linalg.inv(inverse[gone][:, gone]) @ free[gone]
                found.append((float(change @ hessian[start:, start:] @ change), gone, change))
            _, gone, change = min(found, key=lambda one: one[0])
            weight[row, start:] += change
            pruned[row, [start + g for g in gone]] = True
    return weight, pruned


@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(1, 4), Pattern(5, 8)])
@pytest.mark.parametrize("block", [8, 128])
def test_weights_of_a_group_go_together(pattern, block):
    weight, _, stats = data()
    hessian = stats.gram.clone()
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    want, mask = explicit_groups(weight, hessian, pattern)
    pruned = ElementPruning(SparseGPT(), pattern, Obs(block, joint=True)).prune(weight, stats, 0)
    assert torch.equal(pruned, mask)
    assert torch.equal(weight == 0, pruned)
    torch.testing.assert_close(weight.double(), want.masked_fill(mask, 0), rtol=1e-3, atol=1e-3)


def test_going_together_loses_less():
    losses = {False: 0.0, True: 0.0}
    for seed in range(8):
        for joint in losses:
            weight, _, stats = data(width=32, seed=seed)
            dense = weight.clone()
            ElementPruning(SparseGPT(), Pattern(2, 4), Obs(joint=joint)).prune(weight, stats, 0)
            losses[joint] += float(((weight - dense) @ torch.linalg.cholesky(stats.gram)).norm())
    assert losses[True] < 0.98 * losses[False]


@pytest.mark.parametrize("pattern", [None, Pattern(2, 4)])
@pytest.mark.parametrize("criterion", [SparseGPT(), Wanda()])
@pytest.mark.parametrize("joint", [False, True])
def test_columns_with_large_inputs_go_first(pattern, criterion, joint):
    if joint and (pattern is None or isinstance(criterion, Wanda)):
        pytest.skip("there is no joint choice")
    weight, _, stats = data()
    step = 1 if pattern is None else pattern.of
    groups = stats.gram.diagonal().view(-1, step).sum(1).argsort(descending=True).tolist()
    if pattern is None:  # two blocks, whose columns take turns
        groups = groups[::2] + groups[1::2]
    order = [g * step + k for g in groups for k in range(step)]
    assert order != list(range(16))
    moved, before = weight[:, order], InputStats(16, with_gram=True)
    before.count, before.total, before.squares = stats.count, stats.total[order], stats.squares[order]
    before.gram = stats.gram[order][:, order]
    want = ElementPruning(criterion, pattern, Obs(8, joint=joint)).prune(moved, before, 48)
    pruned = ElementPruning(criterion, pattern, Obs(8, joint=joint, order="activation")).prune(
        weight, stats, 48
    )
    assert torch.equal(pruned[:, order], want)
    torch.testing.assert_close(weight[:, order], moved)


def test_a_joint_choice_needs_a_pattern_with_few_sets():
    for criterion, pattern in ((SparseGPT(), None), (Wanda(), Pattern(2, 4))):
        with pytest.raises(RecipeError, match="criterion sparsegpt with a pattern"):
            ElementPruning(criterion, pattern, Obs(joint=True))
    with pytest.raises(RecipeError, match="all 12870 ways to keep 8 of 16"):
        ElementPruning(SparseGPT(), Pattern(8, 16), Obs(joint=True))


def test_groups_of_a_pattern_do_not_cross_blocks():
    weight, _, stats = data(width=24)
    pruned = ElementPruning(SparseGPT(), Pattern(4, 6), Obs(block=8)).prune(weight, stats, 0)
    assert bool((pruned.view(-1, 6).sum(1) == 2).all())


def test_obs_with_another_criterion_keeps_its_mask():
    weight, _, stats = data()
    plain = weight.clone()
    a = ElementPruning(Wanda(), compensation=Obs()).prune(weight, stats, 48)
    b = ElementPruning(Wanda()).prune(plain, stats, 48)
    assert torch.equal(a, b)
    assert not torch.equal(weight, plain)


def test_dsnot_moves_the_mean_output_back():
    weight, x, stats = data(outs=40, width=32)
    pruned = ElementPruning(Wanda()).prune(weight.clone(), stats, 40 * 16)
    refined = Dsnot(threshold=0.0).refine(pruned, weight, stats)
    assert torch.equal(pruned.sum(1), refined.sum(1))
    before = ((weight * pruned) @ x.mean(0)).abs()
    after = ((weight * refined) @ x.mean(0)).abs()
    assert bool((after <= before + 1e-5).all())
    assert after.mean() < 0.5 * before.mean()
    assert torch.equal(Dsnot(threshold=1e9).refine(pruned, weight, stats), pruned)


def test_not_positive_definite_is_named():
    with pytest.raises(RecipeError, match="calibration text"):
        inverse_factor(torch.full((3, 3), float("nan")), 0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_see_what_the_matrices_get(tiny_lm, windows, family):
    """Output of every linear from the observed Gram: E|Wx|^2 = tr(W G W')."""
    model = tiny_lm(family)
    stream = Stream(model, windows)
    stats = stream.observe(0, frozenset("*"))
    layer = model.model.layers[0]
    seen = {}
    handles = [
        m.register_forward_hook(
            lambda m, i, o, n=n: seen.__setitem__(n, seen.get(n, 0) + o.double().square().sum())
        )
        for n, m in layer.named_modules()
        if isinstance(m, torch.nn.Linear) and n.split(".")[-1] != "gate" and "shared_expert_gate" not in n
    ]
    with torch.no_grad():
        model.model(windows)
    for handle in handles:
        handle.remove()
    for site in sites(layer):
        for weight in site.matrices.values():
            got = torch.trace(weight.double() @ stats[site.name].gram.double() @ weight.double().T)
            for module, expected in seen.items():
                linear = layer.get_submodule(module)
                if linear.weight.data_ptr() == weight.data_ptr() and linear.bias is None:
                    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    assert stats["attention"].count == windows.numel()
    if family in ("mixtral", "qwen2_moe"):
        assert sum(stats[f"experts.{e}"].count for e in range(6)) == 2 * windows.numel()
        assert stats["experts.0.out"].count == stats["experts.0"].count


def test_expert_inputs(tiny_lm, windows):
    """The experts' outputs, put together from the observed parts by a plain loop, are the block's."""
    model = tiny_lm("mixtral")
    mlp = model.model.layers[0].mlp
    got = {}
    handles = [
        s.watch(lambda x, n=s.name: got.__setitem__(n, x))
        for s in sites(model.model.layers[0])
        if "experts" in s.name
    ]
    x = torch.randn(1, 9, 32)
    with torch.no_grad():
        mlp(x)
    for h in handles:
        h.remove()
    _, _, chosen = mlp.gate(x[0])
    for e in range(6):
        rows = x[0][(chosen == e).any(1)]
        torch.testing.assert_close(got[f"experts.{e}"], rows)
        gate, up = (rows @ mlp.experts.gate_up_proj[e].T).chunk(2, -1)
        torch.testing.assert_close(got[f"experts.{e}.out"], torch.nn.functional.silu(gate) * up)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "how",
    [
        ElementPruning(Wanda()),
        ElementPruning(SparseGPT(), None, Obs()),
        ElementPruning(Magnitude(), Pattern(2, 4)),
    ],
)
def test_whole_models_lose_the_target_within_one(tiny_lm, windows, family, how):
    model = tiny_lm(family)
    dense = copy.deepcopy(model)
    how.run(model, windows, [0.37] * 3)
    total = zeros = 0
    for layer in model.model.layers:
        for weight in matrices(layer).values():
            total += weight.numel()
            zeros += int((weight == 0).sum())
    target = 0.5 if how.pattern else 0.37
    assert abs(zeros - target * total) <= 1
    changed = [
        n
        for (n, a), b in zip(model.named_parameters(), dense.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert not any("norm" in n or "embed" in n or "gate.weight" in n for n in changed)


def test_propagation(tiny_lm, windows):
    """The second layer's inputs are those behind the pruned first layer, or behind the dense one."""
    for pruned in (True, False):
        model = tiny_lm()
        dense = copy.deepcopy(model)
        ElementPruning(Wanda(), propagate_pruned=pruned).run(model, windows, [0.5] * 3)
        first = model if pruned else dense
        stream = Stream(first, windows)
        stream.advance(0)
        stream.layers[1] = dense.model.layers[1]
        stats = stream.observe(1)
        weight = dense.model.layers[1].self_attn.q_proj.weight.data.clone()
        mask = ElementPruning(Wanda()).prune(weight, stats["attention"], weight.numel() // 2)
        assert torch.equal(mask, model.model.layers[1].self_attn.q_proj.weight == 0)


def test_stream_is_the_model(tiny_lm, windows):
    for family, options in (("qwen3", {}), ("mistral", {"sliding_window": 7})):
        model = tiny_lm(family, **options)
        stream = Stream(model, windows)
        for i in range(3):
            stream.advance(i)
        with torch.no_grad():
            torch.testing.assert_close(
                model.model.norm(stream.hidden), model.model(windows).last_hidden_state
            )
