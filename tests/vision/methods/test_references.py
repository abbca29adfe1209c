"""Every method against a slow reading of its published formula, in plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tokenprune.errors import VisionError
from tokenprune.vision import VisualTokens, vision_method


def tokens(grid=(1, 6, 7), size=12, heads=2, seed=0, cls=True, features=None):
    rng = torch.Generator().manual_seed(seed)
    n = math.prod(grid)
    if features is None:
        features = torch.randn(n, size, generator=rng)
    attention = torch.rand(n, generator=rng) ** 4
    return VisualTokens.from_grid(
        features,
        grid,
        received=torch.rand(n, generator=rng) / n,
        cls_attention=attention / attention.sum() if cls else None,
        keys=torch.randn(n, 8 * heads, generator=rng),
        heads=heads,
    )


def video(frames=6, rows=4, cols=5, moving=0.25, size=16, seed=0):
    """Places that stay and places that change, with a little noise everywhere."""
    rng = torch.Generator().manual_seed(seed)
    places = rows * cols
    frame = torch.randn(places, size, generator=rng)
    out = []
    for number in range(frames):
        share = 0.9 if number == frames // 2 else moving  # a cut in the middle
        changed = torch.rand(places, generator=rng) < share
        frame = torch.where(changed[:, None], torch.randn(places, size, generator=rng), frame)
        out.append(frame + 0.05 * torch.randn(places, size, generator=rng))
    return tokens((frames, rows, cols), features=torch.cat(out), seed=seed)


def cosine(a, b):
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def highest(scores, count):
    return sorted(sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))[:count])


@pytest.mark.parametrize("count", [1, 7, 20, 41])
def test_fopru_rank(count):
    given = tokens()
    reduced = vision_method("fopru").reduce(given, count)
    assert reduced.keep.tolist() == highest(given.received, count)
    assert torch.equal(reduced.features, given.features[reduced.keep])


@pytest.mark.parametrize("count", [1, 7, 10, 21, 41])
@pytest.mark.parametrize("grid", [(1, 6, 7), (3, 2, 7)])
def test_fopru_row(grid, count):
    given = tokens(grid)
    significance = given.received.tolist()
    rows = [list(range(at, at + 7)) for at in range(0, 42, 7)]
    rows.sort(key=lambda row: -sum(significance[i] for i in row))
    expected = [i for row in rows[: count // 7] for i in row]
    if count % 7:
        expected += sorted(rows[count // 7], key=lambda i: -significance[i])[: count % 7]
    assert vision_method("fopru", strategy="row").reduce(given, count).keep.tolist() == sorted(expected)


@pytest.mark.parametrize("count", [1, 2, 9, 30, 41])
def test_divprune(count):
    given = tokens(size=5)
    n = len(given)
    distance = [[1 - cosine(given.features[i], given.features[j]) for j in range(n)] for i in range(n)]
    chosen = [max(range(n), key=lambda i: min(distance[i][j] for j in range(n) if j != i))]
    while len(chosen) < count:
        left = [i for i in range(n) if i not in chosen]
        chosen.append(max(left, key=lambda i: min(distance[i][j] for j in chosen)))
    assert vision_method("divprune").reduce(given, count).keep.tolist() == sorted(chosen)


def test_divprune_takes_no_token_twice():
    same = tokens((1, 4, 4), features=torch.ones(16, 4))
    assert len(set(vision_method("divprune").reduce(same, 9).keep.tolist())) == 9


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize(("count", "contextual"), [(1, 0), (3, 0), (6, 1), (13, 2), (32, 5), (41, 6)])
def test_visionzip(count, contextual, cls):
    given = tokens(cls=cls)
    scores = given.cls if cls else given.received
    dominant = highest(scores, count - contextual)
    rest = [i for i in range(42) if i not in dominant]
    targets = []
    if contextual:
        step = max(1, len(rest) // contextual)
        targets = [rest[i * step] for i in range(contextual)]
    metric = given.keys.reshape(42, 2, 8).mean(1)
    members = {t: [t] for t in targets}
    for i in rest:
        if targets and i not in targets:
            members[max(targets, key=lambda t: cosine(metric[i], metric[t]))].append(i)
    reduced = vision_method("visionzip").reduce(given, count)
    assert reduced.keep.tolist() == sorted(dominant + targets)
    for row, place in enumerate(reduced.keep.tolist()):
        own = members.get(place, [place])
        assert torch.where(reduced.into == row)[0].tolist() == sorted(own)
        torch.testing.assert_close(reduced.features[row], given.features[own].mean(0))
        assert bool(reduced.merged[row]) == (len(own) > 1)


def test_visionzip_splits_64_rows_as_published():
    reduced = vision_method("visionzip").reduce(tokens((1, 24, 24)), 64)
    assert int((~reduced.merged).sum()) == 54


def prumerge_rows(given, kept, neighbours):
    rows = []
    for i in kept:
        others = [j for j in range(len(given)) if j != i]
        near = sorted(others, key=lambda j: -cosine(given.keys[i], given.keys[j]))[:neighbours]
        total = given.features[i] + sum(given.cls[j] * given.features[j] for j in near)
        rows.append(total / (1 + sum(given.cls[j] for j in near)))
    return torch.stack(rows)


@pytest.mark.parametrize("neighbours", [3, 32, 100])
def test_prumerge_counts_outliers_and_merges_the_nearest_keys(neighbours):
    given = tokens()
    attention = given.cls.double().numpy()
    low, high = np.percentile(attention, [25, 75])
    kept = [i for i in range(42) if attention[i] > high + 1.5 * (high - low)]
    assert 1 < len(kept) < 42
    reduced = vision_method("prumerge", neighbours=neighbours).reduce(given)
    assert reduced.keep.tolist() == kept
    torch.testing.assert_close(reduced.features, prumerge_rows(given, kept, neighbours))
    # plus: every s-th besides
    step = max(1, int(int(1 / (len(kept) / 42)) / 3))
    kept = sorted({*kept, *range(0, 42, step)})
    reduced = vision_method("prumerge", plus=True, neighbours=neighbours).reduce(given)
    assert reduced.keep.tolist() == kept
    torch.testing.assert_close(reduced.features, prumerge_rows(given, kept, neighbours))


@pytest.mark.parametrize(
    ("outliers", "more"), [(10, range(0, 60, 2)), (14, [k * 60 // 42 for k in range(42)])]
)
def test_prumerge_plus_leaves_something_out_however_many_stand_out(outliers, more):
    """Of the published steps, the next would be 1: all tokens."""
    given = replace(tokens((1, 6, 10)), cls=torch.arange(60) * 1e-4 + (torch.arange(60) >= 60 - outliers))
    own = vision_method("prumerge").reduce(given).keep.tolist()
    assert own == list(range(60 - outliers, 60))
    plus = vision_method("prumerge", plus=True).reduce(given).keep.tolist()
    assert plus == sorted({*own, *more}) and len(plus) < 60


def test_prumerge_with_a_budget():
    given = tokens()
    reduced = vision_method("prumerge", neighbours=5).reduce(given, 11)
    assert reduced.keep.tolist() == highest(given.cls, 11)
    torch.testing.assert_close(reduced.features, prumerge_rows(given, reduced.keep.tolist(), 5))
    taken = {  # each dropped token goes to the nearest of the rows that took it
        j: max((cosine(given.keys[i], given.keys[j]), row) for row, i in enumerate(reduced.keep.tolist()))[1]
        for j in range(42)
        if j not in reduced.keep.tolist() and reduced.into[j] >= 0
    }
    assert taken and all(int(reduced.into[j]) == row for j, row in taken.items())
    plus = vision_method("prumerge", plus=True).reduce(given, 11).keep.tolist()
    top = highest(given.cls, 6)
    rest = [i for i in range(42) if i not in top]
    assert plus == sorted(top + [rest[(2 * k + 1) * 36 // 10] for k in range(5)])


@pytest.mark.parametrize("count", [1, 20, 55, 119])
def test_evs(count):
    given = video()
    scores = [math.inf] * 20 + [1 - cosine(given.features[i], given.features[i - 20]) for i in range(20, 120)]
    assert vision_method("evs").reduce(given, count).keep.tolist() == highest(scores, max(count, 20))


def test_uniform_is_even_in_both_directions():
    keep = vision_method("uniform").reduce(tokens((1, 8, 8)), 16).keep
    assert keep.tolist() == [8 * r + c for r in (1, 3, 5, 7) for c in (1, 3, 5, 7)]
    frames = vision_method("uniform").reduce(tokens((5, 4, 4)), 40)
    assert torch.bincount(frames.keep // 16).tolist() == [8] * 5


def test_random_follows_its_seed():
    first = vision_method("random", seed=1).reduce(tokens(), 10).keep
    assert torch.equal(first, vision_method("random", seed=1).reduce(tokens(seed=9), 10).keep)
    assert not torch.equal(first, vision_method("random", seed=2).reduce(tokens(), 10).keep)


def two_views(sizes=((3, 3), (4, 5)), seed=0, **options):
    """A picture as a whole and in tiles."""
    n = sum(rows * cols for rows, cols in sizes)
    given = tokens((1, 1, n), seed=seed, **options)
    return VisualTokens.from_grid(
        given.features, sizes, received=given.received, cls_attention=given.cls, keys=given.keys, heads=2
    )


def test_views_have_places_of_their_own():
    given = two_views()
    places = [(0, row, col) for row in range(3) for col in range(3)]
    places += [(1, row, col) for row in range(4) for col in range(5)]
    assert list(zip(given.frame.tolist(), given.row.tolist(), given.col.tolist(), strict=True)) == places
    assert given.grid == (2, 4, 5) and given.moments == 1 and not given.whole
    alone = VisualTokens.from_grid(given.features[:9], [(3, 3)])
    assert alone.views == () and alone.grid == (1, 3, 3) and alone.whole
    with pytest.raises(VisionError, match=r"views of \(\(3, 3\), \(4, 5\)\)"):
        VisualTokens(given.features[:8], given.frame[:8], given.row[:8], given.col[:8], (2, 4, 5),
                     views=given.views)  # fmt: skip


@pytest.mark.parametrize("count", [1, 3, 5, 8, 17, 28])
def test_fopru_row_of_views(count):
    """Lines of unequal length go by their mean."""
    given = two_views()
    lines = [range(3 * n, 3 * n + 3) for n in range(3)] + [range(9 + 5 * n, 14 + 5 * n) for n in range(4)]
    mean = [sum(float(given.received[i]) for i in line) / len(line) for line in lines]
    kept = []
    for line in highest_first(mean):
        own = [lines[line][i] for i in highest_first([given.received[i] for i in lines[line]])]
        kept += own[: count - len(kept)]
    assert vision_method("fopru", strategy="row").reduce(given, count).keep.tolist() == sorted(kept)


def highest_first(scores):
    return sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))


@pytest.mark.parametrize(("count", "whole"), [(1, 0), (2, 1), (10, 3), (28, 9)])
def test_uniform_shares_by_the_size_of_views(count, whole):
    """Each view is sampled like a picture of its own; of 29 tokens 9 are the picture as a whole."""
    given = two_views()
    keep = vision_method("uniform").reduce(given, count).keep
    parts = [((1, 3, 3), whole, 0), ((1, 4, 5), count - whole, 9)]
    expected = []
    for grid, share, first in parts:
        if share:
            one = vision_method("uniform").reduce(tokens(grid), share).keep
            expected += [first + place for place in one.tolist()]
    assert keep.tolist() == expected


def test_views_are_no_moments():
    """EVS takes a picture for new as a whole; HoliTom merges nothing over views, however much they are alike."""
    given = two_views(((3, 4), (3, 4)))
    given.features[12:] = given.features[:12]
    assert len(vision_method("evs").reduce(given, 1)) == 24
    reduced = vision_method("holitom").reduce(given, 6)
    halves = [[n + place for place in highest(given.received[n : n + 12], 3)] for n in (0, 12)]
    assert reduced.keep.tolist() == [*halves[0], *halves[1]] and not bool(reduced.merged.any())
