"""Order, arrivals and salts."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.bench.case import Case
from tokenprune.bench.plan import Salts, by_group, in_other_words, one_at_a_time, salted, under_load
from tokenprune.tokens import get_counter

USER = ({"role": "user", "content": "x"},)


def cases(groups):
    return [Case(f"c{i}", USER, "?", group=g) for i, g in enumerate(groups)]


workloads = st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=12).map(cases)


def ordered(sends, side):
    return [s.case.id for s in sends if s.side == side]


@given(workloads, st.integers(1, 4), st.integers(0, 5))
def test_pairs_stand_together_and_alternate(work, rounds, seed):
    blocks = one_at_a_time(work, rounds, "cold", Salts(7), seed)
    assert len(blocks) == rounds
    first = []
    for block in blocks:
        (lane,) = block.lanes
        assert sorted(ordered(lane, "direct")) == sorted(c.id for c in work)
        for a, b in zip(lane[::2], lane[1::2], strict=True):
            assert a.case is b.case and {a.side, b.side} == {"direct", "pruned"}
        turns = [s.side for s in lane[::2]]
        assert all(a != b for a, b in itertools.pairwise(turns))
        first.append(turns[0])
    assert all(a != b for a, b in itertools.pairwise(first))


@given(workloads, st.integers(1, 3), st.sampled_from(["cold", "warm"]))
def test_with_a_third_route_each_is_the_first_in_turn(work, rounds, cache):
    sides = ("direct", "pruned", "always")
    blocks = one_at_a_time(work, rounds, cache, Salts(7), 0, sides)
    for block in blocks:
        (lane,) = block.lanes
        turns = [lane[n : n + 3] for n in range(0, len(lane), 3)]
        assert all({s.side for s in turn} == set(sides) for turn in turns)
        firsts = [turn[0].side for turn in turns]
        assert all(len(set(firsts[n : n + 3])) == 3 for n in range(len(firsts) - 2))
        before = [
            [s.side for s in turn].index("direct") < [s.side for s in turn].index("pruned") for turn in turns
        ]
        assert all(sum(before[n : n + 6]) == 3 for n in range(len(before) - 5))
    salts = [s.salt for block in blocks for s in block.lanes[0]]
    assert len(set(salts)) == (len(salts) if cache == "cold" else 3 * rounds)
    loaded = under_load(work, rounds, cache, Salts(7), 0, None, sides)
    assert [b.side for b in loaded[:3]] != [b.side for b in loaded[3:6]] and len(loaded) == 3 * rounds


@given(workloads, st.sampled_from([None, 5.0]))
def test_groups_keep_their_order_and_one_route_runs_at_a_time(work, rate):
    for block in under_load(work, 2, "cold", Salts(1), 0, rate):
        assert {s.side for lane in block.lanes for s in lane} == {block.side}
        by_name = {s.case.id: number for number, lane in enumerate(block.lanes) for s in lane}
        assert len(by_name) == len(work)
        for lane in block.lanes:
            ids = [int(s.case.id[1:]) for s in lane]
            assert ids == sorted(ids)
        for a, b in itertools.combinations(work, 2):
            together = a.group is not None and a.group == b.group
            assert (by_name[a.id] == by_name[b.id]) == together


def test_poisson_arrivals():
    work = cases([None] * 2000)
    a, b, c, _ = under_load(work, 2, "cold", Salts(1), 3, 10.0)
    times = np.array([s.at_s for lane in a.lanes for s in lane])
    assert times.tolist() == [s.at_s for lane in b.lanes for s in lane]
    assert times.tolist() != [s.at_s for lane in c.lanes for s in lane]
    assert times[-1] == pytest.approx(200)  # 2000 at 10 a second
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # exponential: deviation equals mean
    assert (gaps > 0).all()


def test_salts():
    (block,) = one_at_a_time(cases([None, "a", "a"]), 1, "cold", Salts(42), 0)
    salts = [s.salt for s in block.lanes[0]]
    assert len(set(salts)) == 6 and {len(s) for s in salts} == {12} and salts[0].startswith("000042")
    count = get_counter().count
    assert len({count(salted(USER, s)[0]["content"]) for s in salts}) == 1
    warm = one_at_a_time(cases([None, "a", "a"]), 2, "warm", Salts(42), 0)
    found = {(s.side, s.round): set() for b in warm for s in b.lanes[0]}
    for block in warm:
        for s in block.lanes[0]:
            found[s.side, s.round].add(s.salt)
    assert all(len(v) == 1 for v in found.values()) and len(set().union(*found.values())) == 4


def test_the_salt_stands_first_and_changes_nothing_else():
    image = {"type": "image_url", "image_url": {"url": "u"}}
    text = {"type": "text", "text": "t"}
    for content, expected in (
        ("t", "[1]\n\nt"),
        ([text, image], [{"type": "text", "text": "[1]\n\nt"}, image]),
        ([image, text], [{"type": "text", "text": "[1]\n\n"}, image, text]),
        (None, "[1]\n\n"),
    ):
        messages = [{"role": "user", "content": content}, {"role": "user", "content": "q"}]
        assert salted(messages, "1") == [{"role": "user", "content": expected}, messages[1]]
        assert messages[0]["content"] == content and text["text"] == "t"


def test_lanes_in_order_of_their_first_case():
    lanes = by_group(cases([None, "b", "a", "b", None]))
    assert [[c.id for c in lane] for lane in lanes] == [["c0"], ["c1", "c3"], ["c2"], ["c4"]]


def test_warm_up_in_other_words():
    parts = [{"type": "text", "text": "The sum of all. Where is it?"}, {"type": "image_url", "image_url": {}}]
    messages = ({"role": "system", "content": "Otherwise as it is."}, {"role": "user", "content": parts})
    case = Case("c", messages, "Where is it?", group="g", options={"keep_ratio": 0.5})
    other = in_other_words(case)
    assert other.messages[0] == messages[0]
    text = "some sum some all. Tell me: Where is it?"
    assert other.messages[1]["content"] == [{"type": "text", "text": text}, parts[1]]
    assert (other.id, other.options, case.messages[1]["content"]) == ("c", case.options, parts)
