import pytest

torch = pytest.importorskip("torch")

from tokenprune.engine.calibration import Choice  # noqa: E402
from tokenprune.engine.decoder import go_on  # noqa: E402
from tokenprune.engine.methods.gemfilter import GemFilter, QuestionGemFilter, scores_at  # noqa: E402
from tokenprune.engine.reading import SequenceKV, read, read_prompt  # noqa: E402
from tokenprune.engine.rules import AttentionProbability, DotProduct, Look, Pooled  # noqa: E402
from tokenprune.engine.schedule import Drop, Marks, TokenDropSchedule  # noqa: E402
from tokenprune.errors import ConfigError  # noqa: E402

SIZE = 60
IDS = torch.randint(0, 97, (SIZE,), generator=torch.Generator().manual_seed(5)).tolist()


@torch.no_grad()
def published(model, ids, layer, keep, kernel=5):
    """Algorithm 1 of arXiv 2409.17422 on the queries and keys that a transformers forward passes through."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    seen = {}

    def hook(module, args, kwargs):
        seen["x"] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        seen["rotation"] = kwargs["position_embeddings"]

    attention = model.model.layers[layer].self_attn
    handle = attention.register_forward_pre_hook(hook, with_kwargs=True)
    model(torch.tensor([ids]), use_cache=False)
    handle.remove()
    shape = (1, len(ids), -1, attention.head_dim)
    query, keys = attention.q_proj(seen["x"]).view(shape), attention.k_proj(seen["x"]).view(shape)
    if hasattr(attention, "q_norm"):
        query, keys = attention.q_norm(query), attention.k_norm(keys)
    query, keys = apply_rotary_pos_emb(query.transpose(1, 2), keys.transpose(1, 2), *seen["rotation"])
    keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], 1)
    scores = (query[:, :, -1:] @ keys.transpose(2, 3))[0, :, 0].sum(0)
    pooled = torch.nn.functional.avg_pool1d(scores[None], kernel, padding=kernel // 2, stride=1)[0]
    return sorted(pooled.topk(keep).indices.tolist())


@pytest.mark.parametrize("layer", [1, 2, 4])
def test_selection_equals_the_published_formula(tiny_lm, build_lm, variant, layer):
    _, decoder = tiny_lm(variant)
    got = GemFilter(layer, keep=17).select(decoder, IDS)
    assert list(got.positions) == published(build_lm(variant), IDS, layer, 17)


def test_reads_the_kept_tokens_with_fresh_positions(tiny_lm):
    _, decoder = tiny_lm("qwen2")
    method = GemFilter(2, keep=20)
    reading = method.prefill(decoder, IDS, Marks(), go_on)
    kept = method.select(decoder, IDS).positions
    alone = read_prompt(decoder, [IDS[p] for p in kept])
    assert reading.kept == kept and len(kept) == 20
    assert torch.equal(reading.logits, alone.logits)
    assert torch.equal(reading.step(3), alone.step(3))
    # The most is held either by one layer of the selection or by all layers of what stays.
    entry = 2 * 2 * 8 * 4
    assert reading.peak_kv_bytes == max(5 * (20 + 64), SIZE + 64) * entry


def test_short_prompts_are_read_whole(tiny_lm):
    _, decoder = tiny_lm("llama")
    for method in (GemFilter(2, keep=SIZE), QuestionGemFilter(2, keep=SIZE + 1)):
        reading = method.prefill(decoder, IDS, Marks(), go_on)
        assert reading.kept == tuple(range(SIZE))
        assert torch.equal(reading.logits, read_prompt(decoder, IDS).logits)


def test_question_window_is_the_query_and_stays(tiny_lm):
    _, decoder = tiny_lm("llama")
    marks = Marks(window=(40, 41, 42), pinned=(50,))
    method = QuestionGemFilter(2, keep=25, kernel=3, head=2, tail=4)
    kept = set(method.select(decoder, IDS, marks).positions)
    fixed = {0, 1, 40, 41, 42, 50, 56, 57, 58, 59}
    assert fixed <= kept and len(kept) == 25
    scores = scores_at(decoder, IDS, method.choice(decoder).looks(), marks).scores
    free = [p for p in range(SIZE) if p not in fixed]
    expected = sorted(free, key=lambda p: -scores[p])[:15]
    assert kept == fixed | set(expected)
    other = method.select(decoder, IDS, Marks(window=(10, 11), pinned=(50,))).positions
    assert set(other) != kept


def test_layers_behind_the_first_look_read_the_best_tokens_only(tiny_lm):
    """Against a drop schedule with the same rule, and the last layer's scores of what is left of it."""
    _, decoder = tiny_lm("llama")
    rules = Pooled(AttentionProbability((0, 2)), 3), Pooled(AttentionProbability(), 1)
    looks = Look(1, rules[0], 0.4), Look(3, rules[1], 0.6)
    marks = Marks((50, 51), (0, 1, 59))
    found = scores_at(decoder, IDS, looks, marks, onward=25).scores
    left = found.nonzero()[:, 0]
    assert len(left) == 25 and {0, 1, 50, 51, 59} <= set(left.tolist())

    sequence = SequenceKV.empty(decoder)
    schedule = TokenDropSchedule((Drop(1, 25),), rules[0])
    ran = {"reducer": schedule, "marks": [marks], "depth": 3, "last_only": False}
    hidden = read(decoder, [sequence], [IDS], **ran)
    assert torch.equal(sequence.layers[2].positions, left)
    first = scores_at(decoder, IDS, looks[:1], marks).scores[left]
    rows = torch.isin(left, torch.tensor(marks.window)).nonzero()[:, 0]
    with torch.inference_mode():
        query, keys = decoder.query_and_keys(3, hidden, decoder.rotary(left), rows)
        last = rules[1].score(query, keys, decoder.weights.scale)
    assert torch.allclose(found[left], first + 0.6 * last, atol=1e-6)

    whole = scores_at(decoder, IDS, looks, marks)
    assert torch.equal(scores_at(decoder, IDS, looks, marks, onward=SIZE).scores, whole.scores)
    raw = scores_at(decoder, IDS, (Look(1, DotProduct()), Look(3, DotProduct())), marks, onward=25).scores
    assert raw.min() < 0 and (raw == raw.min()).sum() == SIZE - 25 + 1  # no more than the least that goes on


def test_narrow_reads_at_least_what_is_kept(tiny_lm, monkeypatch):
    _, decoder = tiny_lm("llama")
    choice = Choice(3, True, 1, (1,), None, {1: (0,)})
    monkeypatch.setattr(QuestionGemFilter, "choice", lambda self, decoder: choice)
    asked = []

    def noted(*args):
        asked.append(args[-1])
        return scores_at(*args)

    monkeypatch.setattr("tokenprune.engine.methods.gemfilter.scores_at", noted)
    for narrow in (0.1, 0.5, None):
        kept = QuestionGemFilter(keep=20, narrow=narrow).select(decoder, IDS, Marks((50,))).positions
        assert len(kept) == 20
    assert asked == [20, 30, None]


def test_units_stay_whole_and_mass_keeps_less(tiny_lm):
    _, decoder = tiny_lm("llama")
    units = tuple(range(0, SIZE, 6))
    marks = Marks(window=(55, 56), units=units)
    method = QuestionGemFilter(2, keep=30, head=0, tail=0, snap=True)
    kept = set(method.select(decoder, IDS, marks).positions)
    blocks = [set(range(a, a + 6)) for a in units[:-1]]
    assert 25 <= len(kept) <= 30
    assert all(block <= kept or not block & kept for block in blocks)
    sizes = [
        len(
            QuestionGemFilter(2, keep=50, mass=mass, least=5, head=0, tail=0)
            .select(decoder, IDS, marks)
            .positions
        )
        for mass in (0.1, 0.5, 0.8, 1.0)
    ]
    assert sizes == sorted(sizes) and 5 <= sizes[0] < sizes[2] <= sizes[3] == 50


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GemFilter(2, keep=0), "keep must be 1"),
        (lambda: QuestionGemFilter(2, keep=0), "keep must be 1"),
        (lambda: GemFilter(2, keep=1.5), "keep must be a whole number, not 1.5"),
        (lambda: QuestionGemFilter("2"), "layer must be a whole number, not '2'"),
        (lambda: QuestionGemFilter(heads=()), r"heads must be different .* not \(\)"),
        (lambda: GemFilter(0), "layer must be 1"),
        (lambda: GemFilter(2, kernel=2), "odd"),
        (lambda: QuestionGemFilter(2, tail=-1), "head and tail"),
        (lambda: QuestionGemFilter(2, near=0), "near must be 1 or more positions, not 0"),
        (lambda: QuestionGemFilter(2, narrow=0), "narrow"),
        (lambda: QuestionGemFilter(2, narrow=1.5), "narrow"),
        (lambda: QuestionGemFilter(2, mass=1.5), "mass"),
        (lambda: QuestionGemFilter(2, mass=0.5, softmax=False), "mass"),
    ],
)
def test_wrong_values(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_layer_the_model_does_not_have(tiny_lm):
    _, decoder = tiny_lm("llama")
    with pytest.raises(ConfigError, match=r"1\.\.4"):
        GemFilter(5, keep=3).select(decoder, IDS)
    with pytest.raises(ConfigError, match="window names position 60"):
        QuestionGemFilter(2, keep=3).select(decoder, IDS, Marks((SIZE,)))


def test_can_be_stopped_between_layers(tiny_lm):
    _, decoder = tiny_lm("llama")
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        GemFilter(4, keep=3).prefill(decoder, IDS, Marks(), check)
    assert len(calls) == 3
