"""Which placeholder stands for which token: against a loop over whatever prompts and choices there are."""

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tokenprune.errors import VisionError  # noqa: E402
from tokenprune.vision.prompts import expanded, seeing, staying  # noqa: E402
from tokenprune.vision.tokens import Reduced, VisualTokens  # noqa: E402

IMAGE = 5


def tokens(frames, rows, cols, base=0.0):
    n = frames * rows * cols
    return VisualTokens.from_grid(torch.arange(n).float()[:, None] + base, (frames, rows, cols))


def reduced(seen, keep):
    keep = torch.tensor(keep, dtype=torch.long)
    into = torch.full((len(seen),), -1)
    into[keep] = torch.arange(len(keep))
    return Reduced(seen.features[keep], keep, into)


@st.composite
def prompts(draw):
    """Pictures and videos, what stays of them, and a prompt with text anywhere between placeholders."""
    seen, left, ids, expected = [], [], [1], []
    for number in range(draw(st.integers(0, 3))):
        one = tokens(*(draw(st.integers(1, 3)) for _ in range(3)), base=100.0 * number)
        keep = sorted(draw(st.sets(st.integers(0, len(one) - 1), min_size=1)))
        seen.append(one)
        left.append(reduced(one, keep))
        first = sum(earlier.grid[0] for earlier in seen[:-1])
        for place in range(len(one)):
            if place in keep:
                where = [first + int(one.frame[place]), int(one.row[place]), int(one.col[place])]
                expected.append((len(ids), float(one.features[place, 0]), where))
            ids.append(IMAGE)
            ids += draw(st.lists(st.integers(6, 9), max_size=1))
    return [*ids, 2], seen, left, expected


@settings(deadline=None, max_examples=60)
@given(prompts())
def test_what_is_left_stays_in_its_place(case):
    ids, seen, left, expected = case
    prompt = seeing(ids, IMAGE, seen, left)
    stays = [p for p, token in enumerate(ids) if token != IMAGE or p in {at for at, _, _ in expected}]
    assert staying(ids, IMAGE, left).tolist() == stays
    assert list(prompt) == [ids[p] for p in stays]
    assert [stays[p] for p in prompt.visual] == [at for at, _, _ in expected]
    if expected:
        assert prompt.features[:, 0].tolist() == [feature for _, feature, _ in expected]
        assert prompt.places.tolist() == [where for _, _, where in expected]


def test_placeholders_for_pictures_and_for_tokens():
    seen = [tokens(1, 2, 2), tokens(2, 1, 2)]
    whole = [1, *[IMAGE] * 4, 7, *[IMAGE] * 4, 2]
    assert expanded([1, IMAGE, 7, IMAGE, 2], IMAGE, seen) == whole
    assert expanded(whole, IMAGE, seen) == whole
    frames = [1, IMAGE, 7, IMAGE, 8, IMAGE, 2]
    assert expanded(frames, IMAGE, seen) == [1, *[IMAGE] * 4, 7, IMAGE, IMAGE, 8, IMAGE, IMAGE, 2]
    assert list(seeing(frames, IMAGE, seen)) == expanded(frames, IMAGE, seen)
    assert expanded([1, 2], IMAGE, []) == [1, 2]
    for wrong in ([1, IMAGE], [1, *[IMAGE] * 7], [1]):
        with pytest.raises(VisionError, match=r"2 images or videos.*3 pictures.*8 visual tokens"):
            expanded(wrong, IMAGE, seen)


def test_what_does_not_belong_together():
    seen = [tokens(1, 2, 2), tokens(1, 1, 2)]
    left = [reduced(seen[1], [0]), reduced(seen[0], [1])]
    with pytest.raises(VisionError, match="in their order"):
        seeing([IMAGE] * 6, IMAGE, seen, left)
    with pytest.raises(VisionError, match="2 placeholders for 6 visual tokens"):
        staying([IMAGE] * 2, IMAGE, left)
