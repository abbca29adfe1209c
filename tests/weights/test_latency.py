"""Costs that were measured."""

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.errors import ModelError, RecipeError
from tokenprune.weights.allocation.uniform import Uniform
from tokenprune.weights.allocation.units import by_ratio, pooled
from tokenprune.weights.card import latency_of, read_card
from tokenprune.weights.criteria.flap import Fluctuation
from tokenprune.weights.export import export
from tokenprune.weights.kept import Kept, Shape
from tokenprune.weights.latency import Latency, measure
from tokenprune.weights.materialise import materialise
from tokenprune.weights.prune import prune
from tokenprune.weights.recipes import get_recipe
from tokenprune.weights.structured import UnitPruning
from tokenprune.weights.units import Constraints, UnitCosts, UnitScores

MS = 1e-3


def fake(part, width, run):
    """A machine whose FFN has a step at 30 channels and whose attention is slow."""
    assert run() is not None
    return (2 + 3 * width) * MS if part == "attention" else (1 + 0.1 * width + (width > 30)) * MS


@pytest.fixture
def model(tiny_lm):
    return tiny_lm(num_attention_heads=8, num_key_value_heads=4, num_hidden_layers=4)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_table(tiny_lm, family):
    seen = []

    def clock(part, width, run):
        out = run()
        out = out[0] if isinstance(out, tuple) else out
        assert tuple(out.shape) == (1, 20, 32)
        seen.append((part, width))
        return fake(part, width, run) + (1.0 if len(seen) == 3 else 0.0)  # one run is disturbed

    model = tiny_lm(family)
    before = torch.random.get_rng_state()
    table = measure(model, 20, clock, rounds=3, widths=4)
    assert torch.equal(before, torch.random.get_rng_state())
    assert table.attention == pytest.approx({1: 5 * MS, 2: 8 * MS})
    assert table.ffn == pytest.approx({12: 2.2 * MS, 24: 3.4 * MS, 36: 5.6 * MS, 48: 6.8 * MS})
    assert seen[: len(seen) // 3] == seen[len(seen) // 3 : 2 * len(seen) // 3]  # in turn
    groups, channels = table.costs(Shape.of(model.config))
    assert groups == (2_000_000, 5_000_000, 8_000_000)
    assert channels[12] == 2_200_000 and channels[30] == 4_500_000
    assert channels[6] == 1_600_000  # below the least width along the first piece
    assert len(channels) == 49 and all(a <= b for a, b in itertools.pairwise(channels))


def test_a_wider_part_is_never_cheaper(model):
    odd = measure(model, 8, lambda part, width, run: MS * (5 if width == 24 else 3), 1, 4)
    _, channels = odd.costs(Shape.of(model.config))
    assert channels[24] == channels[48] == 5_000_000
    with pytest.raises(RecipeError, match="measure it for this model"):
        odd.model_copy(update={"ffn": {7: 1.0}}).costs(Shape.of(model.config))


def test_the_wall_clock(model):
    table = measure(model, 64, rounds=2, widths=2)
    assert all(0 < seconds < 5 for seconds in (*table.attention.values(), *table.ffn.values()))
    assert table.tokens == 64 and table.threads == torch.get_num_threads()


def nanoseconds(kept, costs):
    return sum(costs.layer(len(x.kv_heads), len(x.channels)) for x in kept.layers)


@pytest.mark.parametrize("allocation", [Uniform(), "zscore"], ids=["uniform", "zscore"])
def test_the_target_is_met_in_time(model, windows, allocation):
    table = measure(model, 8, fake, 1, 48)
    costs = UnitCosts.of_latency(Shape.of(model.config), table)
    how = UnitPruning(Fluctuation(), allocation, costs="latency", latency=table)
    whole = nanoseconds(Kept.all_of(model.config), costs)
    kept, _ = how.run(model, windows, 0.3)
    assert abs(nanoseconds(kept, costs) - 0.7 * whole) <= 1_100_001  # the dearest step of a channel
    assert materialise(model, kept)(windows).logits.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.lists(st.integers(0, 9), min_size=2, max_size=40),
    st.floats(0, 0.6),
    st.integers(0, 10**6),
)
def test_costs_that_are_no_line(layers, groups, steps, share, seed):
    """A table that is a line gives what unit prices give; any other meets the target within its dearest step."""
    g = torch.Generator().manual_seed(seed)
    wide = len(steps)
    scores = [
        UnitScores(torch.rand(groups, 2, generator=g), torch.rand(wide, generator=g)) for _ in range(layers)
    ]
    limits, line = Constraints(), UnitCosts(7, 3)
    table = UnitCosts(7, 3, tuple(7 * k for k in range(groups + 1)), tuple(3 * k for k in range(wide + 1)))
    bent = UnitCosts(7, 3, table.groups, tuple(itertools.accumulate(steps, initial=5)))
    for find in (
        lambda costs: by_ratio(scores, [share] * layers, costs, limits),
        lambda costs: pooled(
            scores, round(share * layers * costs.layer(groups, wide)), costs, limits, "zscore"
        ),
    ):
        found = []
        for costs in (line, table, bent):
            try:
                found.append(find(costs))
            except RecipeError:
                found.append(None)
        cost = [None if f is None else sum(table.layer(len(a), len(b)) for a, b in f) for f in found[:2]]
        assert cost[0] is None or cost[1] is None or abs(cost[0] - cost[1]) <= 3
        if found[2] is not None:
            left = sum(bent.layer(len(a), len(b)) for a, b in found[2])
            assert abs(left - (1 - share) * layers * bent.layer(groups, wide)) <= max(7, *steps) + 1


def test_the_card_holds_the_table(model, windows, tmp_path):
    table = measure(model, 8, fake, 1, 4)
    with pytest.raises(RecipeError, match="measured first"):
        UnitCosts.of(Shape.of(model.config), "latency")
    done = prune(model, windows, get_recipe("flap"), 0.2, costs="latency", latency=table)
    assert done.latency == table
    folder = export(model, done.kept, tmp_path / "out", biases=done.biases, latency=done.latency)
    assert latency_of(folder) == table
    assert "an FFN took 2.20 ms with 12" in (folder / "README.md").read_text()
    # a card of before there was a table is still read
    raw = json.loads((folder / "pruning.json").read_text())
    del raw["latency"]
    (folder / "pruning.json").write_text(json.dumps(raw))
    assert read_card(folder).latency is None
    with pytest.raises(ModelError, match="no table"):
        latency_of(folder)


def test_prune_measures_by_itself(model, windows, monkeypatch):
    monkeypatch.setattr("tokenprune.weights.latency._wall_clock", fake)
    done = prune(model, windows, get_recipe("wanda-sp"), 0.2, costs="latency")
    assert isinstance(done.latency, Latency) and done.latency.tokens == windows.shape[1]
