"""HoliTom's segmentation, clustering and merging against slow readings of the published formulas."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenprune.errors import ConfigError
from tokenprune.vision import VisualTokens, vision_method
from tokenprune.vision.merge import density_peaks
from tokenprune.vision.temporal import segment, static_runs


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)


def video(frames, places, still, size=16, seed=0):
    """Each place changes between two frames by chance; a little noise everywhere."""
    rng = torch.Generator().manual_seed(seed)
    frame, out = torch.randn(places, size, generator=rng), []
    for _ in range(frames):
        changed = torch.rand(places, generator=rng) > still
        frame = torch.where(changed[:, None], torch.randn(places, size, generator=rng), frame)
        out.append(frame + 0.05 * torch.randn(places, size, generator=rng))
    received = torch.rand(frames * places, generator=rng)
    return VisualTokens.from_grid(torch.cat(out), (frames, 1, places), received=received)


def static_count(static, start, end):
    return int(static[start:end].all(0).sum()) if end > start else 0


def saving(static, segments):
    return sum(static_count(static, a, b) * (b - a) for a, b in segments)


def published_segments(static):
    """dp[i] = max(dp[i-1], dp[j] + static(j+1..i) * (i - j - 1)), by its own loops."""
    frames = len(static) + 1
    dp, begin = [0] * frames, [0] * frames
    for i in range(frames):
        best, best_begin = (dp[i - 1] if i else 0), i
        for window in range(2, i + 2):
            j = i - window
            value = (dp[j] if j >= 0 else 0) + static_count(static, j + 1, i) * (window - 1)
            if value > best:
                best, best_begin = value, j + 1
        dp[i], begin[i] = best, best_begin
    segments, i = [], frames - 1
    while i >= 0:
        segments.append((begin[i], i))
        i = begin[i] - 1
    return segments[::-1], dp[-1]


def as_segments(first):
    return [(int(a), int(np.flatnonzero(first == a).max())) for a in np.unique(first)]


@pytest.mark.parametrize("still", [0.0, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_segments_are_those_of_the_published_recursion_and_the_best_there_are(still, seed):
    rng = torch.Generator().manual_seed(seed)
    static = torch.rand(7, 9, generator=rng) < still
    segments = as_segments(segment(static_runs(static)))
    expected, most = published_segments(static)
    assert segments == expected and saving(static, segments) == most
    cuts = (c for r in range(8) for c in itertools.combinations(range(1, 8), r))
    partitions = ([(a, b - 1) for a, b in itertools.pairwise([0, *cut, 8])] for cut in cuts)
    assert most == max(saving(static, p) for p in partitions)


def test_static_runs_count_back():
    static = torch.tensor([[1, 0], [1, 1], [0, 1]], dtype=torch.bool)
    assert static_runs(static).tolist() == [[0, 0], [1, 0], [2, 1], [0, 2]]


def slow_clusters(x, count, k):
    n, d = x.shape
    distance = [[math.dist(a, b) / math.sqrt(d) for b in x.tolist()] for a in x.tolist()]
    k = min(k, count)
    density = [math.exp(-sum(v**2 for v in sorted(row)[:k]) / k) for row in distance]
    most = max(map(max, distance))
    gap = []
    for i in range(n):  # two that are each other's nearest are equally dense: the first is denser
        denser = [j for j in range(n) if (density[j], -j) > (density[i], -i)]
        gap.append(min((distance[i][j] for j in denser), default=most))
    score = [g * p for g, p in zip(gap, density, strict=True)]
    centres = sorted(sorted(range(n), key=lambda i: -score[i])[:count])
    nearest = [min(range(count), key=lambda c: distance[i][centres[c]]) for i in range(n)]
    for number, centre in enumerate(centres):
        nearest[centre] = number
    return centres, nearest


@pytest.mark.parametrize(("n", "count"), [(1, 1), (5, 5), (20, 1), (20, 3), (30, 12)])
def test_clusters_by_density_peaks(n, count):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(n + count))
    centres, cluster = density_peaks(x, count, 7)
    assert (centres.tolist(), cluster.tolist()) == slow_clusters(x.double(), count, 7)


def slow_holitom(given, budget, tau, beta=0.6):
    """The published method; group budgets by largest remainders."""
    frames, _, places = given.grid
    x = given.features.double().reshape(frames, places, -1)
    static = cosine(x[1:], x[:-1]) > tau
    segments, saved = published_segments(static)
    groups = []  # (first place, kind, members)
    for start, end in segments:
        same = static[start:end].all(0) if end > start else torch.zeros(places, dtype=torch.bool)
        merged = [p for p in range(places) if same[p]]
        for f in range(start, end + 1):
            groups.append(("moving", f, [p for p in range(places) if not same[p]]))
            if f == start:
                groups.append(("static", (start, end), merged))
    total = sum(len(g[2]) for g in groups)
    assert total == frames * places - saved
    quotas = [Fraction(len(g[2]) * budget, total) for g in groups]
    shares = [math.floor(q) for q in quotas]
    for i in sorted(range(len(groups)), key=lambda i: -(quotas[i] - shares[i]))[: budget - sum(shares)]:
        shares[i] += 1
    rows = {}  # place of the row -> (features, places in it)
    for (kind, where, members), share in zip(groups, shares, strict=True):
        if not share:
            continue
        if kind == "moving":
            best = sorted(members, key=lambda p: -float(given.received[where * places + p]))[:share]
            rows |= {where * places + p: (x[where, p], [where * places + p]) for p in best}
            continue
        start, end = where
        mean = torch.stack([x[start : end + 1, p].mean(0) for p in members])
        centres, cluster = slow_clusters(mean, share, 7)
        for number, centre in enumerate(centres):
            inside = [i for i in range(len(members)) if cluster[i] == number]
            others = [i for i in inside if i != centre]
            row = mean[centre]
            if others:
                row = beta * row + (1 - beta) * mean[others].mean(0)
            taken = sorted(f * places + members[i] for i in inside for f in range(start, end + 1))
            rows[start * places + members[centre]] = (row, taken)
    return dict(sorted(rows.items()))


@pytest.mark.parametrize("still", [0.3, 0.8, 0.97])
@pytest.mark.parametrize(("share", "tau"), [(0.1, 0.65), (0.15, 0.8), (0.33, 0.8)])
@pytest.mark.parametrize("seed", range(3))
def test_the_whole_method(still, share, tau, seed):
    given = video(8, 12, still, seed=seed)
    left = (
        len(given)
        - published_segments(cosine(given.features[12:], given.features[:-12]).reshape(7, 12) > tau)[1]
    )
    budget = min(int(share * 96 + 1e-9), left)
    expected = slow_holitom(given, budget, tau)
    reduced = vision_method("holitom", tau=tau).reduce(given, budget)
    assert reduced.keep.tolist() == list(expected)
    for row, (features, taken) in enumerate(expected.values()):
        torch.testing.assert_close(reduced.features[row], features.float(), atol=1e-5, rtol=1e-5)
        assert torch.where(reduced.into == row)[0].tolist() == taken


def test_rows_that_averaging_would_leave_unused_go_to_what_changed_most():
    given = video(4, 10, 1.0)  # nothing moves: averaging leaves 10 of 40
    reduced = vision_method("holitom").reduce(given, 13)
    change = 1 - cosine(given.features[10:], given.features[:-10])
    freed = sorted((change.sort(descending=True).indices[:3] + 10).tolist())
    assert reduced.keep.tolist() == sorted([*range(10), *freed])
    assert int((reduced.into >= 0).sum()) == 40
    for row, place in enumerate(reduced.keep.tolist()):
        taken = torch.where(reduced.into == row)[0]
        assert set((taken % 10).tolist()) == {place % 10}
        torch.testing.assert_close(reduced.features[row], given.features[taken].mean(0))


def test_tau_follows_the_budget_as_published():
    given = video(6, 20, 0.9, seed=3)
    for share, tau in ((0.1, 0.65), (0.15, 0.8)):
        ours = vision_method("holitom").reduce(given, share)
        theirs = vision_method("holitom", tau=tau).reduce(given, share)
        assert torch.equal(ours.into, theirs.into)
    noisy = VisualTokens.from_grid(  # neighbours in time have a cosine between the two values
        torch.cat(
            [
                given.features[:20] + 0.7 * torch.randn(20, 16, generator=torch.Generator().manual_seed(i))
                for i in range(6)
            ]
        ),
        (6, 1, 20),
        received=given.received,
    )
    merged = [int(vision_method("holitom").reduce(noisy, share).merged.sum()) for share in (0.12, 0.13)]
    assert merged[0] > merged[1]


def test_an_image_has_no_time():
    given = video(1, 12, 0.5)
    best = given.received.sort(descending=True).indices[:5].sort().values
    assert torch.equal(vision_method("holitom").reduce(given, 5).keep, best)


@pytest.mark.parametrize("options", [{"tau": 1.5}, {"tau": float("nan")}, {"beta": -0.1}])
def test_options_out_of_range(options):
    with pytest.raises(ConfigError):
        vision_method("holitom", **options)
