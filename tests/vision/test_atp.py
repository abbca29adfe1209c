"""The ATP module: its formula against a loop, soft against hard decisions, training towards a target."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_vlm import IMAGE, ids_with, layers_on, logits_of, pictures, seen_by, tiny_llava  # noqa: E402

from tokenprune.engine.decoder import Decoder  # noqa: E402
from tokenprune.engine.prompt import Prompt, embedded  # noqa: E402
from tokenprune.engine.reading import read_prompt  # noqa: E402
from tokenprune.engine.schedule import LayerView  # noqa: E402
from tokenprune.errors import ConfigError, ModelError  # noqa: E402
from tokenprune.vision.atp import ATPConfig, ATPModule, attention_scores  # noqa: E402
from tokenprune.vision.atp_train import ATPTraining, Lesson, _frozen, soft_forward, train_on  # noqa: E402
from tokenprune.vision.engine import rows_per_layer  # noqa: E402
from tokenprune.vision.llm import Inside  # noqa: E402
from tokenprune.vision.methods.atp_llava import ATPLLaVA, asking  # noqa: E402
from tokenprune.vision.methods.base import inner_method  # noqa: E402
from tokenprune.vision.prompts import seeing  # noqa: E402


@pytest.fixture(scope="module")
def llava():
    model = tiny_llava()
    return model, Decoder(model)


def lesson(model, seed, images=1):
    prompt = seeing(ids_with(images, seed=seed), IMAGE, seen_by(model, pictures(images, seed)))
    return Lesson(prompt, (20 + seed % 5, 2))


def noisy(config, seed=0):
    """A module whose heads say something else for each prompt."""
    torch.manual_seed(seed)
    module = ATPModule(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module.eval()


def random_layer(sizes=(11, 14), heads=4, groups=2, width=8):
    """Queries and keys of a padded batch, text first, then visual tokens, then text."""
    generator = torch.Generator().manual_seed(3)
    n = max(sizes)
    query = torch.randn(len(sizes), heads, n, width, generator=generator)
    keys = torch.randn(len(sizes), groups, n, width, generator=generator)
    visual = torch.zeros(len(sizes), n, dtype=torch.bool)
    visual[:, 2:8] = True
    text = torch.zeros_like(visual)
    there = torch.zeros_like(visual)
    for row, size in enumerate(sizes):
        text[row, 8:size] = True
        there[row, :size] = True
    weight = torch.where(there, 0.0, -1e9)
    return query, keys, visual, text, weight


def test_scores_equal_a_loop():
    """Of each visual token: mean logit from visual queries, mean probability from text, the mask counting."""
    query, keys, visual, text, weight = random_layer()
    weight[0, 3], weight[1, 5] = -0.7, -40.0
    received, seen = attention_scores(query, keys, 0.3, visual, text, weight)
    for b in range(2):
        looks = visual[b].nonzero()[:, 0].tolist()
        asks = text[b].nonzero()[:, 0].tolist()
        share = [float(weight[b, i].exp()) for i in looks]
        for j in looks:
            logit = probability = 0.0
            for head in range(4):
                key = keys[b, head // 2]
                logit += (
                    sum(w * float(query[b, head, i] @ key[j]) for w, i in zip(share, looks, strict=True))
                    * 0.3
                )
                for t in asks:
                    row = torch.tensor(
                        [float(query[b, head, t] @ key[k]) * 0.3 + float(weight[b, k]) for k in range(t + 1)]
                    )
                    probability += float(torch.softmax(row, -1)[j])
            assert float(received[b, j]) == pytest.approx(logit / 4 / sum(share), abs=1e-5)
            assert float(seen[b, j]) == pytest.approx(probability / 4 / len(asks), abs=1e-5)


@pytest.mark.parametrize("balanced", [False, True])
def test_margins_are_those_of_the_formula(balanced):
    """S > theta_r or S_spatial > theta_s, S standardised over the visual tokens."""
    query, keys, visual, text, weight = random_layer()
    places = torch.full((2, 14, 3), -1)
    places[:, 2:8] = torch.tensor([[0, row, col] for row in (0, 1) for col in range(3)])
    module = noisy(ATPConfig(depth=5, hidden=6, layers=(1,), balanced=balanced, strides=(2,)))
    hidden = torch.randn(2, 14, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got = module(
            1, hidden, query, keys, 0.3,
            visual=visual, asking=text, places=places, weight=weight,
        )  # fmt: skip
    received, seen = attention_scores(query, keys, 0.3, visual, text, weight)
    assert got.theta_r[0] != got.theta_r[1]
    for b in range(2):
        parts = [part[b, 2:8].double().numpy() for part in (received, seen)]
        if balanced:
            parts = [(part - part.mean()) / part.std() for part in parts]
        both = (parts[0] + parts[1]) / 2
        score = (both - both.mean()) / both.std()
        spatial = np.array([0.25, -1e9, 0.25, -1e9, -1e9, -1e9])
        stays = (score > float(got.theta_r[b])) | (spatial > float(got.theta_s[b]))
        assert np.allclose(got.redundant[b, 2:8].numpy(), score, atol=1e-3)
        assert ((got.margin[b, 2:8] > 0).numpy() == stays).all()


def test_grid_samplings_are_nested():
    module = ATPModule(ATPConfig(depth=5, hidden=6))
    rows, cols = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    score = module.spatial(torch.stack([torch.zeros_like(rows), rows, cols], -1))
    assert int((score > 0.5).sum()) == 4
    assert int((score > 0).sum()) == 9
    assert float(score[4, 4]) == 1 - 3 / 16
    assert float(score[2, 0]) == 0.25
    assert bool((score[1::2] < 0).all())


def test_untrained_heads_keep_most_and_positions_stay(llava):
    model, decoder = llava
    module = ATPModule(ATPConfig(decoder.depth, decoder.hidden)).eval()
    prompt = lesson(model, 1, images=2).prompt
    reading = read_prompt(decoder, prompt, reducer=Inside((ATPLLaVA(module),)))
    kept = list(reading.kept)
    text = [p for p in range(len(prompt)) if p not in prompt.visual]
    assert set(text) <= set(kept)
    assert len(text) < len(kept) < len(prompt)
    rows = rows_per_layer(reading)
    assert rows[0] == len(prompt)
    assert rows == sorted(rows, reverse=True)


def test_hard_decisions_equal_soft_ones_at_a_high_temperature(llava):
    """What training computes under masks of 0 and 1 is what the engine computes on the tokens that stay."""
    model, decoder = llava
    module = noisy(ATPConfig(decoder.depth, decoder.hidden, temperature=1e6))
    lessons = [lesson(model, seed, images=1 + seed % 2) for seed in range(4)]
    with _frozen(model), torch.no_grad():
        soft = soft_forward(model, decoder, module, lessons)
    fewer = 0
    for row, one in enumerate(lessons):
        reading = read_prompt(decoder, one.prompt, reducer=Inside((ATPLLaVA(module),)))
        got = soft.logits[row, len(one.prompt) - 1]
        assert (got - reading.logits).abs().max() < 1e-3 * reading.logits.abs().max()
        total = len(one.prompt.visual)
        text = len(one.prompt) - total
        shares = [(n - text) / total for n in rows_per_layer(reading)]
        assert soft.shares[:, row].tolist() == pytest.approx(shares, abs=1e-5)
        fewer += len(set(shares)) > 1
    assert fewer == 4


def test_open_masks_are_the_model_itself(llava):
    model, decoder = llava
    module = ATPModule(ATPConfig(decoder.depth, decoder.hidden, temperature=1e6))
    with torch.no_grad():
        for head in module.heads.values():
            head[-1].bias.copy_(torch.tensor([-100.0, 0.0]))
    one = lesson(model, 2)
    with _frozen(model), torch.no_grad():
        soft = soft_forward(model, decoder, module, [one])
    rows = embedded(decoder, [one.prompt])
    expected = logits_of(model, layers_on(model, rows, torch.arange(len(rows)), 0))
    assert (soft.logits[0, len(rows) - 1] - expected).abs().max() < 1e-4 * expected.abs().max()
    assert bool((soft.shares == 1).all())


def test_thresholds_get_gradients_and_the_model_none(llava):
    model, decoder = llava
    module = noisy(ATPConfig(decoder.depth, decoder.hidden))
    batch = [lesson(model, seed) for seed in range(4)]
    before = {name: p.clone() for name, p in model.named_parameters()}
    asked = {name: p.requires_grad for name, p in model.named_parameters()}
    how = model.config.text_config._attn_implementation
    with _frozen(model):
        soft = soft_forward(model, decoder, module, batch)
        for part in (soft.answer_loss, soft.shares.mean()):
            module.zero_grad()
            part.backward(retain_graph=True)
            for layer, head in module.heads.items():
                # row 0: theta_r, row 1: theta_s
                assert bool((head[-1].bias.grad != 0).any()), layer
                assert head[-1].bias.grad[0] != 0, layer
                assert bool((head[0].weight.grad != 0).any()), layer
        # a higher threshold leaves fewer tokens
        assert all(head[-1].bias.grad[0] < 0 for head in module.heads.values())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == asked
    assert model.config.text_config._attn_implementation == how


@pytest.mark.parametrize("target", [0.35, 0.7])
def test_the_budget_moves_the_mean_count_to_the_target(llava, target, tmp_path):
    model, decoder = llava
    lessons = [lesson(model, seed, images=1 + seed % 2) for seed in range(6)]
    seen = []
    how = ATPTraining(target=target, steps=60, batch=3, rate=1e-2)
    module = train_on(model, lessons, None, how, log=lambda *line: seen.append(line))
    assert [line[0] for line in seen] == list(range(1, 61))
    assert abs(seen[0][2] - target) > 0.08

    def mean_share(reducer):
        shares = []
        for one in lessons:
            reading = read_prompt(decoder, one.prompt, reducer=Inside((reducer,)))
            total = len(one.prompt.visual)
            shares += [(n - len(one.prompt) + total) / total for n in rows_per_layer(reading)]
        return sum(shares) / len(shares)

    assert mean_share(ATPLLaVA(module)) == pytest.approx(target, abs=0.06)
    path = tmp_path / "atp.safetensors"
    module.save(path)
    again = inner_method("atp-llava", weights=str(path))
    assert again.module.config == module.config
    assert mean_share(again) == mean_share(ATPLLaVA(module))


def test_examples_run_out(llava):
    model, _ = llava
    how = ATPTraining(steps=3, batch=2)
    with pytest.raises(ConfigError, match="no examples for update 1 of 3"):
        train_on(model, [], None, how)
    with pytest.raises(ConfigError, match="no examples for update 2 of 3"):
        train_on(model, iter([lesson(model, 0), lesson(model, 1)]), None, how)
    with pytest.raises(ConfigError, match="needs visual tokens"):
        train_on(model, [Lesson(Prompt((1, 2)), (3,))], None, how)
    assert train_on(model, [lesson(model, 0)], None, replace(how, target=1.0)).config.depth == 5


def test_a_target_below_what_the_first_layers_see_is_refused(llava):
    """Of five layers the first always sees all: no training brings the mean to a fifth."""
    model, _ = llava
    assert ATPConfig(5, 48).layers[0] == 0
    with pytest.raises(ConfigError, match=r"0\.1 cannot be met: .* 0\.200 of them"):
        train_on(model, [lesson(model, 0)], None, ATPTraining(target=0.1, steps=1))


def test_one_visual_token_stays_at_least(llava):
    model, decoder = llava
    module = ATPModule(ATPConfig(decoder.depth, decoder.hidden))
    with torch.no_grad():
        for head in module.heads.values():
            head[-1].bias.copy_(torch.tensor([100.0, 100.0]))
    prompt = lesson(model, 0).prompt
    reading = read_prompt(decoder, prompt, reducer=Inside((ATPLLaVA(module),)))
    assert len(set(reading.kept) & set(prompt.visual)) == 1


def test_text_that_asks():
    visual = torch.tensor([0, 1, 0, 1, 0, 0], dtype=torch.bool)
    assert asking(visual).tolist() == [False, False, True, False, True, True]
    assert asking(torch.tensor([0, 0, 1], dtype=torch.bool)).tolist() == [True, True, False]


def test_what_does_not_fit(llava, tmp_path):
    model, decoder = llava
    prompt = lesson(model, 0).prompt
    for config, message in (
        (ATPConfig(depth=7, hidden=48), "for 7 layers, the model has 5"),
        (ATPConfig(depth=5, hidden=40), "for hidden size 40 and the model has 48"),
    ):
        with pytest.raises(ModelError, match=message):
            read_prompt(decoder, prompt, reducer=Inside((ATPLLaVA(ATPModule(config)),)))
    blind = Prompt(prompt.ids, prompt.visual, prompt.features)
    with pytest.raises(ConfigError, match="places"):
        read_prompt(decoder, blind, reducer=Inside((ATPLLaVA(ATPModule(ATPConfig(depth=5, hidden=48))),)))
    for layers in ((4,), (-1,), (2, 1), (1, 1)):
        with pytest.raises(ConfigError, match=r"ascend within 0\.\.3"):
            ATPConfig(depth=5, hidden=48, layers=layers)
    for wrong in ({"temperature": 0.0}, {"width": 0}, {"strides": (0,)}):
        with pytest.raises(ConfigError, match="above 0"):
            ATPConfig(depth=5, hidden=48, **wrong)
    for wrong in ({"target": 0.0}, {"target": 1.1}, {"steps": 0}, {"batch": 0}, {"rate": 0.0}):
        with pytest.raises(ConfigError, match="target must lie"):
            ATPTraining(**wrong)
    with pytest.raises(ModelError, match="cannot read the ATP module"):
        ATPModule.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ModelError, match="cannot read the ATP module"):
        ATPModule.load(tmp_path / "text.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="holds no ATP module"):
        ATPModule.load(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="cannot write"):
        ATPModule(ATPConfig(depth=5, hidden=48)).save(tmp_path / "no" / "folder")


def test_text_without_pictures_is_left_alone():
    module = ATPLLaVA(ATPModule(ATPConfig(depth=5, hidden=48)))
    state = torch.zeros(3, 48)
    flags = torch.zeros(3, dtype=torch.bool)
    heads = torch.zeros(2, 3, 8)
    view = LayerView(0, 5, state, heads, heads, torch.arange(3), flags, flags, 1.0)
    assert module.reduce(view) is None
