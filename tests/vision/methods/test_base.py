"""What holds for every method: budgets, order, determinism, and one clear error for bad input."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.errors import BudgetError, ConfigError, TokenPruneError, UnknownNameError, VisionError
from tokenprune.vision import VisualTokens, list_vision_methods, vision_method
from tokenprune.vision.methods.base import (
    VisionMethod,
    everything,
    inner_method,
    more_than_asked,
    vision_method_info,
)
from tokenprune.vision.tokens import parse_keep, rows_of

BEFORE = [info.name for info in list_vision_methods() if info.where == "before"]
VARIANTS = [
    *((name, {}) for name in BEFORE),
    ("fopru", {"strategy": "row"}),
    ("prumerge", {"plus": True}),
    ("visionzip", {"contextual": 0.5}),
    ("holitom", {"tau": 0.2}),
]


def tokens(grid, seed=0, dtype=torch.float32, cls=True, repeat=False):
    rng = torch.Generator().manual_seed(seed)
    n = math.prod(grid)
    features = torch.randn(n, 6, generator=rng)
    if repeat:  # few different tokens: ties everywhere
        features = features[torch.randint(0, min(3, n), (n,), generator=rng)]
    return VisualTokens.from_grid(
        features.to(dtype),
        grid,
        received=torch.randint(1, 9, (n,), generator=rng) / n,
        cls_attention=torch.randint(1, 9, (n,), generator=rng) / n if cls else None,
        keys=torch.randn(n, 8, generator=rng),
        heads=2,
    )


grids = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(VARIANTS), grids, st.integers(0, 5), st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(), st.booleans(), st.data(),
)  # fmt: skip
def test_budget_order_determinism_and_consistency(variant, grid, seed, dtype, cls, repeat, draw):
    name, options = variant
    original = tokens(grid, seed, dtype, cls, repeat)
    n = len(original)
    keep = draw.draw(st.one_of(st.integers(1, n + 2), st.floats(0.001, 1.0)))
    reduced = vision_method(name, **options).reduce(original, keep)
    rows = rows_of(keep, n)
    if name == "none":
        rows = n
    elif name == "evs":
        rows = max(rows, n // grid[0])
    m = len(reduced)
    assert m == rows == len(reduced.features) == len(reduced.keep)
    assert reduced.features.dtype == dtype and bool(reduced.features.isfinite().all())
    assert m < 2 or bool((reduced.keep.diff() > 0).all())
    assert int(reduced.keep[0]) >= 0 and int(reduced.keep[-1]) < n
    assert (
        tuple(reduced.into.shape) == (n,)
        and int(reduced.into.min()) >= -1
        and int(reduced.into.max()) == m - 1
    )
    assert torch.equal(reduced.into[reduced.keep], torch.arange(m))  # a row's centre is in its row
    assert reduced.scores is None or tuple(reduced.scores.shape) == (n,)
    alone = ~reduced.merged
    if name != "prumerge":  # there a token may be added to several rows
        assert torch.equal(reduced.features[alone], original.features[reduced.keep[alone]])
    if name == "visionzip":
        for row in range(m):
            mean = original.features[reduced.into == row].float().mean(0).to(dtype)
            torch.testing.assert_close(reduced.features[row], mean)
    if m == n:
        assert torch.equal(reduced.features, original.features)
    again = vision_method(name, **options).reduce(tokens(grid, seed, dtype, cls, repeat), keep)
    assert torch.equal(again.features, reduced.features) and torch.equal(again.into, reduced.into)


@pytest.mark.parametrize("name", BEFORE)
def test_input_is_left_alone(name):
    original = tokens((3, 4, 4))
    before = {key: value.clone() for key, value in vars(original).items() if isinstance(value, torch.Tensor)}
    vision_method(name).reduce(original, 20)
    assert all(torch.equal(getattr(original, key), value) for key, value in before.items())


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_one_clear_error(name, bad):
    original = tokens((2, 3, 3))
    original.features[4, 2] = bad
    with pytest.raises(VisionError, match="features of the visual tokens holds NaN or infinity"):
        vision_method(name).reduce(original, 5)


@pytest.mark.parametrize(
    ("name", "field"), [("fopru", "received"), ("visionzip", "keys"), ("holitom", "received")]
)
def test_attention_and_keys_are_checked_too(name, field):
    original = tokens((2, 3, 3))
    getattr(original, field)[1] = float("nan")
    with pytest.raises(VisionError, match=f"{field} of the visual tokens holds NaN"):
        vision_method(name).reduce(original, 5)
    bare = VisualTokens.from_grid(original.features, original.grid)
    with pytest.raises(VisionError, match=f"'{name}' needs '.*' of the vision encoder"):
        vision_method(name).reduce(bare, 5)


@pytest.mark.parametrize("keep", [0, -3, 0.0, -0.1, 1.0001, math.nan, math.inf, True, "five"])
@pytest.mark.parametrize("name", BEFORE)
def test_budgets_that_cannot_be_meant(name, keep):
    with pytest.raises(BudgetError):
        vision_method(name).reduce(tokens((1, 3, 3)), keep)


@pytest.mark.parametrize(
    ("keep", "after", "asked"),
    [(0.25, 4, None), (0.25, 5, 4), (5, 16, 5), (16, 16, None), (None, 16, None), (1.0, 16, None)],
)
def test_more_than_asked_for_is_said(keep, after, asked):
    said = more_than_asked("evs", keep, 16, after)
    if asked is None:
        assert said == ""
    else:
        assert said.startswith(f"{after} of 16 tokens stay, and keep asks for {asked}; what 'evs' keeps: ")
        assert said.endswith(vision_method_info("evs").summary)


def test_only_methods_that_count_themselves_need_no_budget():
    without = set()
    for name in BEFORE:
        try:
            vision_method(name).reduce(tokens((2, 4, 4)))
        except BudgetError as error:
            assert "needs a budget" in str(error)
        else:
            without.add(name)
    assert without == {"none", "prumerge"}


def test_a_method_that_misses_its_budget_is_found_out():
    wrong = VisionMethod(lambda given, rows: everything(given), name="mine")
    with pytest.raises(VisionError, match="'mine' left 9 rows for a budget of 4"):
        wrong.reduce(tokens((1, 3, 3)), 4)


@pytest.mark.parametrize(
    ("keep", "n", "rows"),
    [(1, 5, 1), (9, 5, 5), (0.29, 100, 29), (0.25, 196, 49), (0.001, 50, 1), (1.0, 7, 7)],
)
def test_rows_of_a_budget(keep, n, rows):
    assert rows_of(keep, n) == rows


def test_shapes_that_do_not_belong_together():
    features = torch.ones(6, 4)
    for make in (
        lambda: VisualTokens.from_grid(features, (1, 2, 2)),
        lambda: VisualTokens.from_grid(features, [(2, 2), (1, 3)]),
        lambda: VisualTokens.from_grid(features[None], (1, 2, 3)),
        lambda: VisualTokens.from_grid(features, (1, 2, 3), received=torch.ones(5)),
        lambda: VisualTokens.from_grid(features, (1, 2, 3), keys=torch.ones(6, 5), heads=2),
    ):
        with pytest.raises(VisionError):
            make()


@pytest.mark.parametrize(
    "grid", [(1, 0, 0), (0, 2, 3), (1, -2, -3), [], [(0, 4)], [(2, 3), (0, 3)], [(2, 3), (4, 0)]]
)
def test_grids_without_places(grid):
    for features in (torch.ones(6, 4), torch.ones(0, 4)):
        with pytest.raises(VisionError, match=r"a grid of .* needs"):
            VisualTokens.from_grid(features, grid)


def test_frames_cannot_be_compared_when_tokens_are_missing():
    whole = tokens((3, 2, 2))
    part = VisualTokens(
        whole.features[1:], whole.frame[1:], whole.row[1:], whole.col[1:], whole.grid, whole.received[1:]
    )
    for name in ("evs", "holitom"):
        with pytest.raises(VisionError, match="all tokens of the grid"):
            vision_method(name).reduce(part, 5)
    assert len(vision_method("uniform").reduce(part, 5)) == 5


def test_positions_of_a_grid():
    given = tokens((2, 2, 3))
    assert given.frame.tolist() == [0] * 6 + [1] * 6
    assert given.row.tolist() == [0, 0, 0, 1, 1, 1] * 2 and given.col.tolist() == [0, 1, 2] * 4
    views = VisualTokens.from_grid(torch.ones(7, 2), [(1, 3), (2, 2)])
    assert views.frame.tolist() == [0] * 3 + [1] * 4 and views.views == ((1, 3), (2, 2))
    assert views.row.tolist() == [0, 0, 0, 0, 0, 1, 1] and views.col.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert (views.grid, views.moments, given.moments) == ((2, 2, 3), 1, 2)


def test_names_and_options():
    for name, options, error in (
        ("nope", {}, UnknownNameError),
        ("fopru", {"strategy": "column"}, ConfigError),
        ("fopru", {"rows": 3}, ConfigError),
        ("visionzip", {"contextual": 1.0}, ConfigError),
        ("prumerge", {"neighbours": 0}, ConfigError),
        ("random", {"seed": "x"}, ConfigError),
    ):
        with pytest.raises(error):
            vision_method(name, **options)
    with pytest.raises(ConfigError, match="works before the language model"):
        inner_method("fopru")
    infos = list_vision_methods()
    assert {"none", "random", "uniform", "fopru", "visionzip", "divprune", "prumerge", "evs", "holitom"} <= {
        info.name for info in infos
    }
    assert all(info.summary and info.paper for info in infos)
    assert next(i for i in infos if i.name == "fopru").options == ("strategy='rank'",)
    assert issubclass(VisionError, TokenPruneError)


def test_options_may_stand_behind_the_name():
    given = tokens((1, 4, 4))
    wanted = vision_method("fopru", strategy="row").reduce(given, 8).keep
    for name in ("fopru:strategy=row", " fopru : strategy = row ", "fopru:strategy=row,"):
        assert torch.equal(vision_method(name).reduce(given, 8).keep, wanted)
    assert vision_method("fopru:strategy=row").name == "fopru"
    assert inner_method("fastv:layers=1,keep=25%") == inner_method("fastv", layers=1, keep=0.25)
    for name, options, says in (
        ("fopru:strategy=row,strategy=row", {}, "'strategy' is given twice"),
        ("fopru:strategy=row", {"strategy": "row"}, "'strategy' is given twice"),
        ("fopru:row", {}, "options are written as"),
        ("fopru:=row", {}, "options are written as"),
    ):
        with pytest.raises(ConfigError, match=says):
            vision_method(name, **options)


def test_names_as_python_has_them_and_options_without_default():
    for name in ("atp_llava", "holitom_merge"):
        assert vision_method_info(name) is vision_method_info(name.replace("_", "-"))
    assert inner_method("holitom_merge", keep="25%") == inner_method("holitom-merge", keep=0.25)
    assert inner_method("fastv", keep="auto") == inner_method("fastv")
    assert "weights (required)" in vision_method_info("atp-llava").described
    with pytest.raises(ConfigError, match=r"weights: .*; its options: weights \(required\)$"):
        inner_method("atp_llava")
    for wrong in ("abc", 0, True, "101%"):
        with pytest.raises(BudgetError, match="keep must leave something"):
            inner_method("fastv", keep=wrong)


@pytest.mark.parametrize(
    ("given", "keep"),
    [
        (49, 49), ("49", 49), (" 49 ", 49), (1, 1), ("1", 1), (1.0, 1.0), ("1.0", 1.0), ("100%", 1.0),
        (0.25, 0.25), ("0.25", 0.25), (".25", 0.25), ("25%", 0.25), ("2.5e-1", 0.25), ("0.5%", 0.005),
        (None, None), ("auto", None), (torch.tensor(3).numpy()[()], 3), (torch.tensor(0.5).numpy()[()], 0.5),
    ],
)  # fmt: skip
def test_budgets_as_people_write_them(given, keep):
    found = parse_keep(given)
    assert (found, type(found)) == (keep, type(keep))


@pytest.mark.parametrize(
    "wrong",
    ["abc", "", "101%", "1.5", "0", "-3", "+3", "nan", "inf", "1_0", "\u0664\u0669", "%", "25 %%", 0, -3, 0.0, 1.01,
     True, False, float("nan"), [49], b"49", 10**9 * 1.0],
)  # fmt: skip
def test_what_no_budget_is_has_one_error(wrong):
    with pytest.raises(BudgetError, match=r"^keep must leave something: .* not "):
        parse_keep(wrong)
    if not isinstance(wrong, str):
        with pytest.raises(BudgetError, match=r"^keep must leave something: "):
            rows_of(wrong, 10)


def test_listing_methods_loads_no_torch():
    code = "import sys, tokenprune.vision as v; v.list_vision_methods(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
