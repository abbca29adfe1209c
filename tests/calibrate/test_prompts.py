from itertools import pairwise

import pytest

from tokenprune.calibrate.prompts import items
from tokenprune.errors import ConfigError
from tokenprune.tokens import get_counter


def count(text):
    return get_counter().count(text)


def words(text):
    return {w.strip("?.,").lower() for w in text.split() if len(w) > 3}


def test_items_are_as_asked():
    made = items(24, 800, 3, count)
    assert [item.kind for item in made] == ["needle", "qa"] * 12
    assert made == items(24, 800, 3, count) and made != items(24, 800, 4, count)
    assert made[:10] == items(10, 800, 3, count)
    for item in made:
        assert 300 < count(item.context) < 1000
        assert item.answers and all(item.context[a:b].strip() for a, b in item.answers)
    for kind in ("needle", "qa"):
        depths = sorted(item.depth for item in made if item.kind == kind)
        assert depths[0] < 0.2 and depths[-1] > 0.7 and max(b - a for a, b in pairwise(depths)) < 0.35


def test_needles_have_one_answer_and_distractors_beside_it():
    for item in items(40, 800, 0, count)[::2]:
        ((start, end),) = item.answers
        value = item.context[start:end]
        statement = next(s for s in item.context.replace("\n", " ").split(". ") if value in s)
        # The question names the place and hardly anything else of the statement.
        place = max((p for p in words(item.question) & words(statement)), key=len, default="")
        assert place
        assert len(words(item.question) & words(statement)) <= 3
        assert len(words(statement) - words(item.question)) >= 2
        assert item.context.count(value) == 1 or not value.isdigit()


@pytest.mark.parametrize(("number", "tokens"), [(1, 800), (98, 800), (8, 100)])
def test_wrong_sizes(number, tokens):
    with pytest.raises(ConfigError):
        items(number, tokens, 0, count)
