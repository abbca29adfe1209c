from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tokenprune.engine.decoder import go_on  # noqa: E402
from tokenprune.engine.methods.lazyllm import PUBLISHED, LazyLLM, drops_to  # noqa: E402
from tokenprune.engine.reading import read_prompt  # noqa: E402
from tokenprune.engine.rules import AttentionProbability  # noqa: E402
from tokenprune.engine.schedule import Drop, Marks, TokenDropSchedule  # noqa: E402
from tokenprune.errors import ConfigError  # noqa: E402
from tokenprune.score.prompt_attention import LayersReached  # noqa: E402

IDS = torch.randint(0, 97, (40,), generator=torch.Generator().manual_seed(5)).tolist()
STEPS = (Drop(0, 0.6), Drop(2, 0.5), Drop(3, 8))
FAMILIES = ("llama", "qwen2", "qwen3", "mistral-window")


class MaskedReference:
    """LazyLLM on transformers' modules: nothing is dropped, what was not selected is masked out.

    Every call goes through all positions and layers again. ``values[l][p]`` is what position p gave layer l
    when it was first selected there; later calls take it instead of computing it, as a token is computed once.
    """

    def __init__(self, model, steps):
        self.model, self.steps = model, {step.behind(len(model.model.layers)): step for step in steps}
        self.ids, self.values = [], [{} for _ in model.model.layers]
        self.sets = []

    @torch.no_grad()
    def read(self, ids, asked=None):
        body = self.model.model
        self.ids += ids
        size = len(self.ids)
        hidden = body.embed_tokens(torch.tensor([self.ids]))
        rotation = body.rotary_emb(hidden, torch.arange(size)[None])
        selected = torch.ones(size, dtype=torch.bool)
        self.sets = []
        for number, layer in enumerate(body.layers):
            self.sets.append(selected.nonzero()[:, 0].tolist())
            known = self.values[number]
            distance = torch.arange(size)[:, None] - torch.arange(size)
            seen = (distance >= 0) & selected
            window = getattr(self.model.config, "sliding_window", None)
            if window:
                seen &= distance < window
            seen |= torch.eye(size, dtype=torch.bool)  # rows that are not selected need something to look at
            out, probability = self.attend(layer, hidden, rotation, seen)
            for p in selected.nonzero()[:, 0].tolist():
                if p in known:
                    out[0, p] = known[p]
                else:
                    known[p] = out[0, p].clone()
            # A position that was not selected keeps what an earlier call gave, which masks hide from others.
            hidden = out
            if number in self.steps:
                count = self.steps[number].count(int(selected.sum()))
                rows = asked or [size - 1]
                scores = probability(rows).masked_fill(~selected, -1)
                for p in {*rows, size - 1}:
                    scores[p] = 2
                keep = scores.topk(max(count, len({*rows, size - 1}))).indices
                selected = torch.zeros(size, dtype=torch.bool).index_fill(0, keep, True)
        return self.model.lm_head(body.norm(hidden[0, -1]))

    def attend(self, layer, hidden, rotation, seen):
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        attention, size = layer.self_attn, hidden.shape[1]
        normed = layer.input_layernorm(hidden)
        shape = (1, size, -1, attention.head_dim)
        query, keys = attention.q_proj(normed).view(shape), attention.k_proj(normed).view(shape)
        if hasattr(attention, "q_norm"):
            query, keys = attention.q_norm(query), attention.k_norm(keys)
        query, keys = apply_rotary_pos_emb(query.transpose(1, 2), keys.transpose(1, 2), *rotation)
        times = query.shape[1] // keys.shape[1]
        values = attention.v_proj(normed).view(shape).transpose(1, 2).repeat_interleave(times, 1)
        keys = keys.repeat_interleave(times, 1)
        weights = query @ keys.transpose(2, 3) * attention.scaling
        chances = weights.masked_fill(~seen, -torch.inf).softmax(-1)
        mixed = (chances @ values).transpose(1, 2).reshape(1, size, -1)
        hidden = hidden + attention.o_proj(mixed)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        selected = seen[-1] if not getattr(self.model.config, "sliding_window", None) else self.selected()
        return (
            hidden,
            lambda rows: weights[0].masked_fill(~selected, -torch.inf)[:, rows].softmax(-1).mean((0, 1)),
        )

    def selected(self):
        flags = torch.zeros(len(self.ids), dtype=torch.bool)
        flags[self.sets[-1]] = True
        return flags


def check_equal(got, expected):
    """Relative tolerance 1e-4 of the largest logit."""
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def sets_of(reading):
    return [sorted(layer.positions.tolist()) for layer in reading.sequence.layers]


@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_and_decode_equal_the_masked_reference(tiny_lm, build_lm, family):
    """Logits and selected sets of the prefill and of 25 steps that bring tokens back."""
    _, decoder = tiny_lm(family)
    reference = MaskedReference(build_lm(family), STEPS)
    reading = LazyLLM(STEPS).prefill(decoder, IDS, Marks(), go_on)
    check_equal(reading.logits, reference.read(list(IDS)))
    assert sets_of(reading) == reference.sets
    before = [len(s) for s in sets_of(reading)]
    for step in range(25):
        token = (step * 31 + 7) % 97
        check_equal(reading.step(token), reference.read([token]))
        computed = sets_of(reading)
        assert all(set(now) <= set(held) for now, held in zip(reference.sets, computed, strict=True))
    revived = [len(s) - b - 25 for s, b in zip(computed, before, strict=True)]
    assert revived[0] == 0 and sum(revived) > 0, "no token came back"


@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_goes_through_each_layer_at_most_once(tiny_lm, family):
    _, decoder = tiny_lm(family)
    rows = []
    real = decoder.layer

    def counting(number, x, rotary, parts, **options):
        rows.extend((number, p) for part in parts for p in part.positions.tolist())
        return real(number, x, rotary, parts, **options)

    decoder.layer = counting
    try:
        reading = LazyLLM(STEPS).prefill(decoder, IDS, Marks(), go_on)
        for token in range(40):
            reading.step(token)
    finally:
        decoder.layer = real
    assert len(rows) == len(set(rows)) == reading.sequence.computed
    assert sorted(rows) == sorted((n, p) for n, layer in enumerate(sets_of(reading)) for p in layer)
    assert reading.kv_bytes == sum(map(len, sets_of(reading))) * decoder.weights.kv_heads * (
        2 * decoder.weights.head_dim * 4
    )


def test_prefill_equals_the_plain_schedule(tiny_lm, variant):
    """Without a step behind it LazyLLM is a token-drop schedule by the last token's attention."""
    _, decoder = tiny_lm(variant)
    lazy = LazyLLM(STEPS).prefill(decoder, IDS, Marks((3,), (4,)), go_on)
    plain = read_prompt(decoder, IDS, reducer=TokenDropSchedule(STEPS, AttentionProbability()))
    assert lazy.kept == plain.kept
    check_equal(lazy.logits, plain.logits)


def test_keeping_everything_is_the_full_model(tiny_lm, variant):
    _, decoder = tiny_lm(variant)
    lazy = LazyLLM((Drop(0, 1.0), Drop(2, 1.0))).prefill(decoder, IDS, Marks(), go_on)
    plain = read_prompt(decoder, IDS)
    check_equal(lazy.logits, plain.logits)
    for token in (1, 2, 3):
        check_equal(lazy.step(token), plain.step(token))


def test_question_window_scores_and_stays(tiny_lm, build_lm):
    _, decoder = tiny_lm("llama")
    asked = [20, 21, 22]
    reference = MaskedReference(build_lm("llama"), STEPS)
    reading = LazyLLM(STEPS, question=True).prefill(decoder, IDS, Marks(tuple(asked)), go_on)
    check_equal(reading.logits, reference.read(list(IDS), asked))
    assert sets_of(reading) == reference.sets
    assert {*asked, 39} <= set(reading.kept)
    pinned = LazyLLM(STEPS, question=True).prefill(decoder, IDS, Marks((20,), (0, 1)), go_on)
    assert {0, 1, 20, 39} <= set(pinned.kept) and len(pinned.kept) == 8


def test_without_revival_nothing_comes_back(tiny_lm):
    _, decoder = tiny_lm("llama")
    lazy = LazyLLM(STEPS, revive=False).prefill(decoder, IDS, Marks(), go_on)
    plain = read_prompt(decoder, IDS, reducer=TokenDropSchedule(STEPS, AttentionProbability()))
    for token in range(12):
        check_equal(lazy.step(token), plain.step(token))
    assert lazy.sequence.computed == plain.sequence.computed


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_schedule_computes_once(tiny_lm, data):
    _, decoder = tiny_lm("llama")
    keep = st.one_of(st.integers(1, 30), st.floats(0.1, 1.0))
    steps = tuple(Drop(layer, data.draw(keep)) for layer in range(4) if data.draw(st.booleans()))
    ids = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=30))
    reading = LazyLLM(steps, kernel=data.draw(st.sampled_from((1, 3)))).prefill(decoder, ids, Marks(), go_on)
    for token in data.draw(st.lists(st.integers(0, 96), max_size=8)):
        reading.step(token)
        assert torch.isfinite(reading.logits).all()
    sets = [layer.positions.tolist() for layer in reading.sequence.layers]
    assert all(len(s) == len(set(s)) for s in sets)
    assert all(set(b) <= set(a) for a, b in pairwise(sets))


def test_published_schedule_and_wrong_ones(tiny_lm):
    assert [(step.behind(30), step.keep) for step in PUBLISHED] == [(8, 0.7), (17, 0.7), (26, 0.7)]
    _, decoder = tiny_lm("llama")
    with pytest.raises(ConfigError, match="behind layer 4"):
        LazyLLM((Drop(4, 0.5),)).prefill(decoder, IDS, Marks(), go_on)
    with pytest.raises(ConfigError, match="odd"):
        LazyLLM(kernel=2)


@given(st.floats(0.0, 1.0))
def test_steps_of_a_share_leave_that_share(share):
    steps = drops_to(share)
    assert [step.layer for step in steps] == [step.layer for step in PUBLISHED]
    assert np.prod([step.keep for step in steps]) == pytest.approx(max(share, 0.01))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.0, 1.0), st.booleans(), st.lists(st.integers(0, 96), min_size=2, max_size=40))
def test_tokens_that_leave_together_rank_by_attention(tiny_lm, share, question, ids):
    """Not by where they stand; and as many as the share says are never dropped."""
    _, decoder = tiny_lm("llama")
    marks = Marks((len(ids) - 2,)) if question else Marks()
    reader = LayersReached(question=question, calibrated=False).keeping(share)
    scores = reader.scores(decoder, ids, marks)
    layers = np.floor(scores * decoder.depth + 1e-9)
    said = torch.zeros(len(ids))
    schedule = TokenDropSchedule(drops_to(share), said=said)
    reading = read_prompt(decoder, ids, reducer=schedule, marks=marks)
    assert np.flatnonzero(layers == decoder.depth).tolist() == list(reading.kept)
    assert abs(len(reading.kept) - max(share, 0.01) * len(ids)) <= 2.5  # rounded three times, two are marked
    for layer in set(layers.tolist()):
        own, looked = scores[layers == layer], said.numpy()[layers == layer]
        assert np.array_equal(np.argsort(own, kind="stable"), np.argsort(looked, kind="stable"))
