from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tokenprune.engine.decoder import go_on  # noqa: E402
from tokenprune.engine.methods.specprefill import SpecPrefill, Speculation, carried  # noqa: E402
from tokenprune.engine.reading import read_prompt  # noqa: E402
from tokenprune.engine.schedule import Marks  # noqa: E402
from tokenprune.errors import ConfigError, ModelError  # noqa: E402
from tokenprune.models.causal_lm import LoadedLM  # noqa: E402

SIZE = 70
IDS = torch.randint(0, 97, (SIZE,), generator=torch.Generator().manual_seed(5)).tolist()
FAMILIES = ("llama", "llama-all-heads", "mistral", "qwen2", "qwen3")
HOW = Speculation(lookahead=4, kernel=5, chunk=8)


@torch.no_grad()
def reference(model, ids, how):
    """Scores from what transformers' generate-by-hand and output_attentions (eager) say, loop by loop."""
    model.set_attn_implementation("eager")
    tokens = list(ids)
    for _ in range(how.lookahead):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    every = model(torch.tensor([tokens]), output_attentions=True).attentions
    rows = range(len(ids), len(tokens)) if how.lookahead else [len(ids) - 1]
    steps = []
    for row in rows:
        best = torch.zeros(len(ids))
        for attention in every:
            for head in attention[0]:
                seen = head[row, : len(ids)]
                pooled = torch.nn.functional.avg_pool1d(
                    (seen / seen.sum())[None], how.kernel, 1, how.kernel // 2
                )
                best = torch.maximum(best, pooled[0])
        steps.append(best)
    return torch.stack(steps).mean(0)


@pytest.mark.parametrize("lookahead", [0, 1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_the_published_formula(tiny_lm, build_lm, family, lookahead):
    """Within 1e-4; the reference goes through all tokens at once."""
    _, decoder = tiny_lm(family)
    how = Speculation(lookahead, kernel=5, chunk=8)
    got, _ = how.scores(decoder, IDS)
    assert torch.allclose(got, reference(build_lm(family), IDS, how), atol=1e-4)


def test_chunks_are_means():
    scores = torch.arange(10.0)
    assert Speculation(chunk=4).by_chunk(scores).tolist() == [1.5] * 4 + [5.5] * 4 + [8.5] * 2


def test_look_ahead_ends_with_the_answer(tiny_lm):
    _, decoder = tiny_lm("llama")
    first = int(read_prompt(decoder, IDS).logits.argmax())
    short, _ = HOW.scores(decoder, IDS, frozenset({first}))
    assert torch.equal(short, Speculation(1, 5, 8).scores(decoder, IDS)[0])


@dataclass
class Letters:
    """A tokenizer of pieces of ``width`` characters over the letters a to j; ids count in tens."""

    width: int
    vocabulary: Any = None

    def get_vocab(self):
        return {f"{self.width}": 1}

    def decode(self, ids, **_):
        return "".join(chr(97 + int(digit)) for i in ids for digit in str(i).zfill(self.width))

    def __call__(self, text, **_):
        spans = [(a, min(a + self.width, len(text))) for a in range(0, len(text), self.width)]
        ids = [int("".join(str(ord(c) - 97) for c in text[a:b])) for a, b in spans]
        return {"input_ids": ids, "offset_mapping": spans}


def draft(tiny_lm, tokenizer=None, positions=256):
    model, _ = tiny_lm("qwen2")
    return LoadedLM("tiny", model, tokenizer or Letters(1), positions, frozenset())


def test_best_chunks_stay_at_their_positions(tiny_lm):
    _, target = tiny_lm("llama")
    method = SpecPrefill(draft(tiny_lm), keep=24, how=HOW)
    kept = method.select(IDS, Marks()).positions
    scores = HOW.by_chunk(HOW.scores(tiny_lm("qwen2")[1], IDS)[0])
    # The last token stays and leaves room for two whole chunks of eight (the last chunk has six).
    chunks = sorted(range(9), key=lambda c: -scores[8 * c])
    room, expected = 23, {SIZE - 1}
    for c in chunks:
        free = [p for p in range(8 * c, min(8 * c + 8, SIZE)) if p != SIZE - 1]
        if len(free) <= room:
            expected |= set(free)
            room -= len(free)
    assert set(kept) == expected and len(kept) <= 24

    reading = method.prefill(target, IDS, Marks(), go_on)
    model = tiny_lm("llama")[0]
    at = torch.tensor([list(kept)])
    with torch.no_grad():
        known = model(torch.tensor([[IDS[p] for p in kept]]), position_ids=at, use_cache=True)
        assert torch.allclose(reading.logits, known.logits[0, -1], atol=1e-3)
        then = model(
            torch.tensor([[5]]), position_ids=torch.tensor([[SIZE]]), past_key_values=known.past_key_values
        )
    assert torch.allclose(reading.step(5), then.logits[0, -1], atol=1e-3)
    assert reading.kept == kept

    fresh = SpecPrefill(draft(tiny_lm), keep=24, how=HOW, fresh=True).prefill(target, IDS, Marks(), go_on)
    assert torch.equal(fresh.logits, read_prompt(target, [IDS[p] for p in kept]).logits)


def test_marks_stay_and_short_prompts_are_whole(tiny_lm):
    method = SpecPrefill(draft(tiny_lm), keep=0.3, how=HOW)
    kept = set(method.select(IDS, Marks((2, 3), (40,))).positions)
    assert {2, 3, 40, SIZE - 1} <= kept and len(kept) <= 21
    whole = SpecPrefill(draft(tiny_lm), keep=SIZE, how=HOW)
    assert whole.select(IDS, Marks()).positions == tuple(range(SIZE))


def test_another_tokenizer_by_characters(tiny_lm):
    """The large model's tokens have three letters, the draft's two; scores and sets from the definition."""
    ids = [int(f"{a}{b}{c}") for a, b, c in zip(IDS[::3], IDS[1::3], IDS[2::3], strict=False)]
    ids = [i % 1000 for i in ids]
    large, small = Letters(3), Letters(2)
    method = SpecPrefill(draft(tiny_lm, small), keep=9, tokenizer=large, how=Speculation(2, 3, 4))
    text = large.decode(ids)
    pieces = small(text)
    tokens = [i % 97 for i in pieces["input_ids"]]
    if tokens != pieces["input_ids"]:
        pytest.fail("the tiny model has 97 tokens: choose other ids")
    scores, _ = method.how.scores(tiny_lm("qwen2")[1], tokens)
    expected = [
        max(
            float(s)
            for s, (a, b) in zip(scores, pieces["offset_mapping"], strict=True)
            if a < 3 * n + 3 and b > 3 * n
        )
        for n in range(len(ids))
    ]
    got, _ = method._scores(ids, go_on)
    assert got.tolist() == pytest.approx(expected)
    kept = method.select(ids, Marks()).positions
    assert len(kept) <= 9 and kept[-1] == len(ids) - 1
    with pytest.raises(ModelError, match="are not those of its text"):
        SpecPrefill(draft(tiny_lm, small), keep=3, tokenizer=Odd(3), how=HOW).select(ids, Marks())


class Odd(Letters):
    def __call__(self, text, **_):
        found = super().__call__(text)
        return found | {"input_ids": found["input_ids"][::-1]}


@given(st.data())
def test_carried_scores_are_the_best_of_what_overlaps(data):
    def cut(size):
        edges = sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=size)) | {0, size})
        return list(pairwise(edges))

    size = data.draw(st.integers(2, 25))
    spans, onto = cut(size), cut(size)
    scores = torch.rand(len(spans), generator=torch.Generator().manual_seed(size))
    got = carried(scores, spans, onto)
    for value, (a, b) in zip(got.tolist(), onto, strict=True):
        assert value == max(float(s) for s, (c, d) in zip(scores, spans, strict=True) if c < b and d > a)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda tiny: SpecPrefill(draft(tiny), keep=0), "keep"),
        (lambda tiny: SpecPrefill(draft(tiny), keep=1.5), "keep"),
        (lambda tiny: Speculation(chunk=0), "chunk"),
        (lambda tiny: Speculation(lookahead=-1), "lookahead"),
        (lambda tiny: Speculation(kernel=2), "odd"),
        (lambda tiny: SpecPrefill(draft(tiny, positions=60), keep=3).select(IDS, Marks()), "70 tokens"),
        (lambda tiny: SpecPrefill(draft(tiny), keep=3).select(IDS, Marks((SIZE,))), "position 70"),
    ],
)
def test_wrong_values(tiny_lm, make, words):
    with pytest.raises(ConfigError, match=words):
        make(tiny_lm)
