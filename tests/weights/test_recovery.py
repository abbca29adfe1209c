"""Training what is left."""

import copy

import pytest
import torch
from stopper import Stop, Stopper

from tokenprune.errors import RecipeError
from tokenprune.weights.criteria.wanda import Wanda
from tokenprune.weights.elements import ElementPruning
from tokenprune.weights.recovery.lora import merge, wrap
from tokenprune.weights.recovery.select import most_hurt
from tokenprune.weights.recovery.train import Recovery
from tokenprune.weights.sites import matrices
from tokenprune.weights.text import mean_nll


@pytest.fixture
def pair(tiny_lm, windows):
    dense = tiny_lm()
    pruned = copy.deepcopy(dense)
    ElementPruning(Wanda()).run(pruned, windows, [0.5] * 3)
    return dense, pruned


def kl(dense, model, rows):
    with torch.no_grad():
        a, b = dense(rows).logits.log_softmax(-1), model(rows).logits.log_softmax(-1)
    return float((a.exp() * (a - b)).sum(-1).mean())


def test_lora_merges_what_it_computed(pair, windows):
    _, model = pair
    zeros = {n: w == 0 for n, w in matrices(model.model.layers[0]).items()}
    wrapped = wrap(model, 4, 8.0, seed=1)
    with torch.no_grad():
        before = model(windows).logits
        for _, _, w in wrapped:
            w.b.copy_(torch.randn_like(w.b) * 0.05)
        trained = model(windows).logits
        merge(wrapped)
        after = model(windows).logits
    assert (before - after).abs().max() > 1e-2
    torch.testing.assert_close(trained, after, rtol=1e-4, atol=1e-4)
    for n, w in matrices(model.model.layers[0]).items():
        assert bool((w[zeros[n]] == 0).all())


@pytest.mark.parametrize(
    "how",
    [
        Recovery("perp", steps=30, lr=5e-3),
        Recovery("lora", steps=30, lr=5e-3),
        Recovery("full", steps=30, lr=2e-3),
    ],
    ids=lambda r: r.train,
)
def test_training_lowers_the_loss_and_keeps_zeros(pair, windows, how):
    _, model = pair
    layers = [{n: w.clone() for n, w in matrices(layer).items()} for layer in model.model.layers]
    norms = {n: p.clone() for n, p in model.named_parameters() if "norm" in n}
    before, embedding = mean_nll(model, windows), model.model.embed_tokens.weight.clone()
    how.run(model, windows)
    assert mean_nll(model, windows) < before - 0.1
    for layer, old in zip(model.model.layers, layers, strict=True):
        for name, weight in matrices(layer).items():
            assert torch.equal(weight == 0, old[name] == 0)
    moved = [not torch.equal(p, norms[n]) for n, p in model.named_parameters() if "norm" in n]
    assert all(moved) if how.train != "lora" else not any(moved)
    assert torch.equal(embedding, model.model.embed_tokens.weight)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(n.endswith((".a", ".b")) for n, _ in model.named_parameters())


def test_products_in_half_precision_leave_weights_in_full(pair, windows):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        model = copy.deepcopy(pair[1])
        losses[dtype] = Recovery("full", steps=2, dtype=dtype).run(model, windows)
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.01)
    assert losses["bfloat16"] != losses["float32"]  # rounded indeed


def test_distillation_moves_towards_the_dense_model(pair, windows):
    dense, model = pair
    before = kl(dense, model, windows)
    Recovery("full", distill=True, steps=30, lr=2e-3).run(model, windows, dense)
    assert kl(dense, model, windows) < 0.7 * before
    with pytest.raises(RecipeError, match="dense model"):
        Recovery(distill=True).run(model, windows)


def test_a_teacher_with_other_tokens(pair, windows, tiny_lm):
    with pytest.raises(RecipeError, match="has 80 tokens, the pruned one 67"):
        Recovery(distill=True).run(pair[1], windows, tiny_lm(vocab_size=80))


def test_a_stopped_run_goes_on_to_the_same_weights(pair, windows, tmp_path):
    _, model = pair
    whole, stopped = copy.deepcopy(model), copy.deepcopy(model)
    how, file = Recovery("perp", steps=60, lr=2e-3), tmp_path / "at" / "recovery.pt"
    how.run(whole, windows)

    with pytest.raises(Stop):
        how.run(copy.deepcopy(stopped), windows, checkpoint=file, reporter=Stopper(40))
    assert file.exists()
    losses = how.run(stopped, windows, checkpoint=file)
    assert len(losses) == 35  # behind the checkpoint of step 25
    assert not file.exists()
    for a, b in zip(whole.parameters(), stopped.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_checkpoints_of_others_are_refused(pair, windows, tmp_path):
    _, model = pair
    file = tmp_path / "recovery.pt"
    file.write_bytes(b"nonsense")
    with pytest.raises(RecipeError, match="cannot read the checkpoint"):
        Recovery(steps=2).run(copy.deepcopy(model), windows, checkpoint=file)


def test_wrong_settings():
    for wrong in (
        {"train": "x"},
        {"steps": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"select": 0.0},
        {"rank": 0},
        {"dtype": "float16"},
    ):
        with pytest.raises(RecipeError):
            Recovery(**wrong)


def test_most_hurt_windows_are_chosen(pair, windows):
    dense, pruned = pair
    with torch.no_grad():
        rise = [
            float(pruned(r[None], labels=r[None]).loss - dense(r[None], labels=r[None]).loss) for r in windows
        ]
    worst = sorted(sorted(range(6), key=rise.__getitem__)[-2:])
    assert torch.equal(most_hurt(pruned, dense, windows, 2 / 6), windows[worst])
    assert len(most_hurt(pruned, dense, windows, 0.01)) == 1
    before = mean_nll(pruned, windows[worst])
    Recovery("full", steps=10, lr=2e-3, select=2 / 6).run(pruned, windows, dense)
    assert mean_nll(pruned, windows[worst]) < before


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_new_biases(tiny_lm, windows, tmp_path, family):
    """They change nothing at first, are trained, survive the export, and the card counts them."""
    import transformers

    import tokenprune.weights.hf_model  # noqa: F401
    from tokenprune.weights.card import read_card
    from tokenprune.weights.export import export
    from tokenprune.weights.kept import Kept

    dense = tiny_lm(family)
    ElementPruning(Wanda()).run(dense, windows, [0.5] * 3)
    how = Recovery("perp", steps=30, lr=5e-3, biases=True)
    model = how.prepare(dense)
    with torch.no_grad():
        torch.testing.assert_close(model(windows).logits, dense(windows).logits, rtol=1e-4, atol=1e-4)
    how.run(model, windows)
    added = [n for n, p in model.named_parameters() if n.endswith(("o_proj.bias", "down_proj.bias"))]
    assert len(added) == 6
    assert all(bool((p != 0).any()) for n, p in model.named_parameters() if n in added)
    assert ("TokenPrune" in type(model).__name__) == (family != "llama")
    folder = export(dense, Kept.all_of(dense.config), tmp_path / "out", small=model)
    card = read_card(folder)
    assert card.pruned.parameters == sum(p.numel() for p in model.parameters()) > card.dense.parameters
    assert all(layer.biases == ["o_bias", "down_bias"] for layer in card.layers)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(windows).logits, model(windows).logits, rtol=1e-4, atol=1e-4)
    assert how.prepare(again) is again  # it has them


def test_new_biases_of_unlike_layers(tiny_lm, windows):
    from tokenprune.weights.kept import Kept, LayerKept
    from tokenprune.weights.materialise import materialise

    dense = tiny_lm()
    whole = Kept.all_of(dense.config).layers
    narrow = LayerKept(True, (1,), True, tuple(range(10)))
    small = materialise(dense, Kept((narrow, LayerKept(False, (), True, whole[1].channels), whole[2])))
    with torch.no_grad():
        before = small(windows).logits
        model = Recovery(biases=True).prepare(small)
        torch.testing.assert_close(model(windows).logits, before)
    entries = model.config.prune_layers
    assert [(e["o_bias"], e["down_bias"]) for e in entries] == [(True, True), (False, True), (True, True)]
    experts = tiny_lm("mixtral")
    assert Recovery(biases=True).prepare(experts) is experts
    with pytest.raises(RecipeError, match="no biases"):
        Recovery("lora", biases=True)
