from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tokenprune.engine.choice import best_units, count_for_mass, unit_worth  # noqa: E402
from tokenprune.engine.reading import SequenceKV, read, read_prompt, read_prompts  # noqa: E402
from tokenprune.engine.rules import AttentionProbability, DotProduct, Pooled  # noqa: E402
from tokenprune.engine.schedule import Drop, Marks, Reduction, TokenDropSchedule, best  # noqa: E402
from tokenprune.errors import ConfigError  # noqa: E402


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_kept_sets_are_nested_sorted_and_of_the_right_size(tiny_lm, data):
    """Any schedule: sets nested and ascending, pinned tokens kept, counts exact, KV as long as its set."""
    _, decoder = tiny_lm("llama")
    size = data.draw(st.integers(1, 40))
    ids = data.draw(st.lists(st.integers(0, 96), min_size=size, max_size=size))
    keep = st.one_of(st.integers(1, 40), st.floats(0.05, 1.0))
    steps = tuple(Drop(layer, data.draw(keep)) for layer in range(4) if data.draw(st.booleans()))
    positions = st.lists(st.integers(0, size - 1), max_size=6).map(tuple)
    marks = Marks(data.draw(positions), data.draw(positions))
    reading = read_prompt(decoder, ids, reducer=TokenDropSchedule(steps), marks=marks)
    sets = [layer.positions.tolist() for layer in reading.sequence.layers]
    must = {*marks.window, *marks.pinned, size - 1}
    assert sets[0] == list(range(size))
    for before, after, number in zip(sets, sets[1:], range(4), strict=False):
        assert after == sorted(set(after)) and set(after) <= set(before)
        assert must <= set(after)
        counts = [step.count(len(before)) for step in steps if step.layer == number]
        assert len(after) == max([min(counts, default=len(before)), len(must)])
    assert reading.kept == tuple(sets[-1])
    assert reading.sequence.computed == sum(map(len, sets))
    reading.step(3)
    assert all(layer.positions[-1] == size for layer in reading.sequence.layers)


def test_schedules_that_drop_nothing_change_nothing(tiny_lm, variant):
    """Prefill and decode bit for bit the same."""
    _, decoder = tiny_lm(variant)
    ids = torch.randint(0, 97, (30,), generator=torch.Generator().manual_seed(3)).tolist()
    plain = read_prompt(decoder, ids)
    for steps in ((), (Drop(0, 1.0), Drop(2, 30)), (Drop(0.5, 500),)):
        reading = read_prompt(decoder, ids, reducer=TokenDropSchedule(steps))
        assert torch.equal(reading.logits, plain.logits)
        assert reading.kept == tuple(range(30))
    for token in (5, 6, 7):
        assert torch.equal(reading.step(token), plain.step(token))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_what_was_said_is_of_the_last_step_that_a_token_came_to(tiny_lm, data):
    """And nothing else changes; steps at which all stay count."""
    _, decoder = tiny_lm("llama")
    ids = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=30))
    steps = tuple(Drop(layer, data.draw(st.floats(0.1, 1.0))) for layer in (0, 2))
    found = []

    class Recorded:
        def score(self, query, keys, scale):
            found.append(AttentionProbability().score(query, keys, scale))
            return found[-1]

    said = torch.full((len(ids),), -1.0)
    plain = read_prompt(decoder, ids, reducer=TokenDropSchedule(steps))
    noted = read_prompt(decoder, ids, reducer=TokenDropSchedule(steps, Recorded(), said=said))
    assert noted.kept == plain.kept and torch.equal(noted.logits, plain.logits)
    assert len(found) == 2
    expected = torch.full((len(ids),), -1.0)
    for layer, scores in zip((0, 2), found, strict=True):
        expected[noted.sequence.layers[layer].positions] = scores
    assert torch.equal(said, expected)


def test_batch_drops_like_one_by_one(tiny_lm):
    _, decoder = tiny_lm("qwen2")
    prompts = [list(range(20)), list(range(50, 90))]
    marks = [Marks((3, 4)), Marks((30,), (0, 1))]
    schedule = TokenDropSchedule((Drop(1, 12), Drop(3, 0.5)))
    packed = read_prompts(decoder, prompts, reducer=schedule, marks=marks)
    for ids, mark, got in zip(prompts, marks, packed, strict=True):
        alone = read_prompt(decoder, ids, reducer=schedule, marks=mark)
        assert got.kept == alone.kept and len(got.kept) == 6
        assert torch.allclose(got.logits, alone.logits, atol=1e-4)


class MergePairs:
    """Merges each row of odd number into the one before it, behind layer 1."""

    def acts_after(self, layer, depth):
        return layer == 1

    def reduce(self, view):
        rows = torch.arange(len(view.hidden))
        mass = torch.where(rows % 2 == 0, 3.0, 1.0)
        return Reduction(rows[::2], rows // 2, mass)


def test_merging_is_the_weighted_mean(tiny_lm):
    _, decoder = tiny_lm("llama")
    ids = list(range(21))
    before = read(decoder, [SequenceKV.empty(decoder, 2)], [ids], depth=2, last_only=False)
    merged = MergePairs().reduce(type("View", (), {"hidden": before})).apply(before)
    assert torch.allclose(merged[4], 0.75 * before[8] + 0.25 * before[9], atol=1e-5)
    assert torch.allclose(merged[10], before[20], atol=1e-5)
    dropped = Reduction(torch.tensor([1]), torch.tensor([0, 0, -1])).apply(
        torch.tensor([[1.0], [2.0], [9.0]])
    )
    assert dropped.tolist() == [[1.5]]
    reading = read_prompt(decoder, ids, reducer=MergePairs())
    assert [len(layer) for layer in reading.sequence.layers] == [21, 21, 11, 11, 11]
    assert reading.kept == tuple(range(0, 21, 2))


@pytest.mark.parametrize("heads", [2, 6])
def test_rules_equal_plain_formulas(heads):
    """Every head with its own copy of the shared keys, one query at a time; tolerance 1e-5."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(heads, 3, 4, generator=generator)
    keys = torch.randn(2, 9, 4, generator=generator)
    copies = keys.repeat_interleave(heads // 2, 0)
    raw = torch.stack([sum(copies[h] @ query[h, w] for h in range(heads)) for w in range(3)]).mean(0)
    assert torch.allclose(DotProduct().score(query, keys, 0.5), raw, atol=1e-5)
    soft = torch.stack(
        [torch.softmax(0.5 * copies[h] @ query[h, w], 0) for h in range(heads) for w in range(3)]
    )
    got = AttentionProbability().score(query, keys, 0.5)
    assert torch.allclose(got, soft.mean(0), atol=1e-5)
    most = AttentionProbability(peak=True).score(query, keys, 0.5)
    assert torch.allclose(most, soft.view(heads, 3, 9).amax(1).mean(0), atol=1e-5)
    padded = [0.0, 0.0, *got.tolist(), 0.0, 0.0]
    pooled = Pooled(AttentionProbability(), 5).score(query, keys, 0.5)
    assert pooled.tolist() == pytest.approx([sum(padded[i : i + 5]) / 5 for i in range(9)], abs=1e-6)


def test_units_are_worth_their_best_token_and_their_mean():
    scores = torch.tensor([1.0, 0, 0, 0.5, 0.9, 0.9, -1])
    unit = torch.tensor([0, 0, 0, 1, 1, 3, 3])
    worth = unit_worth(scores, unit, 4).tolist()
    assert worth == pytest.approx([(1 + 1 / 3) / 2, (0.9 + 0.7) / 2, -np.inf, (0.9 - 0.05) / 2])
    pinned = torch.zeros(7, dtype=torch.bool)
    assert best_units(scores, 2, pinned, (3, 5)).tolist() == [3, 4]  # not [0, 1, 2], whose best is better
    pinned[4] = True
    assert best_units(scores, 4, pinned, (3, 5)).tolist() == [0, 1, 2, 4]


@given(st.data())
def test_choices(data):
    size = data.draw(st.integers(1, 30))
    values = data.draw(st.lists(st.integers(0, 50), min_size=size, max_size=size, unique=False))
    scores = torch.tensor(values, dtype=torch.float32)
    pinned = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    count = data.draw(st.integers(1, 40))
    kept = best(scores, count, pinned).tolist()
    assert kept == sorted(set(kept)) and len(kept) == min(size, max(count, int(pinned.sum())))
    assert set(pinned.nonzero()[:, 0].tolist()) <= set(kept)
    out = [values[i] for i in range(size) if i not in kept]
    assert not out or max(out) <= min([values[i] for i in kept if not pinned[i]], default=99)

    starts = sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=6)))
    kept = best_units(scores, count, pinned, starts).tolist()
    assert kept == sorted(set(kept)) and len(kept) <= max(count, int(pinned.sum()))
    assert set(pinned.nonzero()[:, 0].tolist()) <= set(kept)
    edges = [*sorted({0, *starts}), size]
    free = [[i for i in range(a, b) if not pinned[i]] for a, b in pairwise(edges)]
    whole = [unit for unit in free if unit and set(unit) <= set(kept)]
    cut = [unit for unit in free if 0 < len(set(unit) & set(kept)) < len(unit)]
    assert not cut or not whole or all(len(u) > count - int(pinned.sum()) for u in cut)

    mass = data.draw(st.floats(0.05, 1))
    number = count_for_mass(scores, pinned, mass) - int(pinned.sum())
    ordered = np.sort([v for v, p in zip(values, pinned, strict=True) if not p])[::-1].astype(float)
    assert 0 <= number <= len(ordered)
    if len(ordered):
        assert ordered[:number].sum() >= mass * ordered.sum() - 1e-6
        assert number <= 1 or ordered[: number - 1].sum() < mass * ordered.sum() + 1e-6


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Drop(2, 0), "keep"),
        (lambda: Drop(2, 0.0), "keep"),
        (lambda: Drop(2, 1.5), "keep"),
        (lambda: Drop(-1, 3), "layer"),
        (lambda: Drop(1.0, 3), "layer"),
        (lambda: Pooled(DotProduct(), 4), "odd"),
        (lambda: Marks((9,)).check(9), "window names position 9"),
        (lambda: Marks(pinned=(-1,)).check(9), "pinned names position -1"),
    ],
)
def test_wrong_values(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
