"""The rank head alone: what it reads, what it changes, whether it learns."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.training.tiny import item, maker, network, tokenizer  # noqa: E402
from tokenprune.errors import ConfigError, ModelError  # noqa: E402
from tokenprune.models.labeler import Labeler  # noqa: E402
from tokenprune.training import mini  # noqa: E402
from tokenprune.training.mixture import MIXTURE, RANKED, Part, check, ranked  # noqa: E402
from tokenprune.training.rank import RankedList, RankRecipe, fit_rank, loss, ndcg, read  # noqa: E402
from tokenprune.training.validation import text_of  # noqa: E402


def lists(count, first=0):
    pool = [item(n) for n in range(first, first + count)]
    return list(ranked(pool, mixture={"selqa": Part(count, distractors=3)}))


def test_every_ranked_set_may_be_published_and_is_trained_on():
    assert sorted(check(list(RANKED))) == sorted(RANKED)
    assert set(RANKED) <= set(MIXTURE)


def test_lists_are_the_same_every_time_and_lose_their_titles_as_a_whole():
    made = lists(60)
    assert made == lists(60)
    assert all(sum(p.relevant for p in one.passages) == 1 for one in made)
    titled = [{bool(p.title) for p in one.passages} for one in made]
    assert all(len(kinds) == 1 for kinds in titled)
    assert 0.1 < np.mean([kinds == {False} for kinds in titled]) < 0.5


def test_what_is_read_is_what_the_labeler_ranks_by():
    net, made = network(), maker()
    with torch.no_grad():
        for parameter in net.rank.parameters():
            parameter.normal_(0, 0.3)
    one = lists(6)[0]
    (seen,) = read(net, made, [one])
    by_labeler = mini.labeler_of(net, made).label(one.question, [text_of(p)[0] for p in one.passages])
    ranks = net.rank_of(seen.found).detach().numpy()
    best = [ranks[seen.passage == p].max() for p in range(len(one.passages))]
    np.testing.assert_allclose(best, [labels.rank for labels in by_labeler], atol=1e-5)
    same = [p for p in one.passages if not p.relevant]
    assert list(read(net, made, [replace(one, passages=tuple(same))])) == []


def test_the_title_counts_in_the_rank():
    """Passages that differ in their titles alone."""
    net, made = network(), maker()
    one = item(3)
    titled = one.passages[0]
    two = replace(one, passages=(titled, replace(titled, title="the", labels=(0, 0))))
    (seen,) = read(net, made, [two])
    assert not torch.allclose(seen.found[0, 26:36], seen.found[1, 26:36])


def test_loss_by_hand():
    ranks, relevant = torch.tensor([2.0, 0.0, 1.0]), torch.tensor([True, False, True])
    whole = np.exp([2.0, 0.0, 1.0])
    own = -np.log(1 / (1 + np.exp([-2.0, 0.0, -1.0])))
    wanted = -np.log((whole[0] + whole[2]) / whole.sum()) + 0.5 * own.mean()
    assert float(loss(ranks, relevant, 0.5)) == pytest.approx(wanted, rel=1e-5)


def test_ndcg_goes_by_the_best_window_of_a_passage():
    net = network()
    for parameter in net.rank.parameters():
        torch.nn.init.zeros_(parameter)
    found = torch.zeros(4, net.rank[0].in_features)
    found[:, -1] = torch.tensor([0.0, 3.0, 2.0, 1.0])
    one = RankedList(found, torch.tensor([False, False, True, False]), np.array([0, 0, 1, 2]))
    assert ndcg(net, [one]) == pytest.approx(1 / np.log2(3))
    assert ndcg(net, [one], k=1) == 0
    assert ndcg(net, [RankedList(found, torch.tensor([True, False, False, False]), one.passage)]) == 1


def test_the_head_learns_and_nothing_else_changes():
    net, made = network(), maker()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    train, held = (list(read(net, made, lists(n, first))) for n, first in ((150, 0), (40, 500)))
    start = ndcg(net, held)
    fit_rank(net, train, held, RankRecipe(epochs=12, rate=0.01))
    assert ndcg(net, held) > start + 0.05
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith("rank.") for k in changed)
    again = network()
    fit_rank(again, train, held, RankRecipe(epochs=12, rate=0.01))
    for name, value in net.rank.state_dict().items():
        torch.testing.assert_close(value, again.rank.state_dict()[name])


def test_it_says_what_is_missing():
    with pytest.raises(ConfigError, match="held ones"):
        fit_rank(network(), [], [])


def test_a_packed_model_is_read_again(tmp_path):
    net = network()
    said = {"default_threshold": 0.3, "lexical": 1.25, "rank_weight": 0.5, "rank_slack": 3.0}
    tokenizer().save(str(tmp_path / "t.json"))
    mini.write(net, tmp_path / "t.json", tmp_path / "m", 40, said)
    config, loaded = mini.load_packed(tmp_path / "m")
    assert config["max_length"] == 40 and {k: config[k] for k in said} == said
    mini.write(loaded, tmp_path / "m/tokenizer.json", tmp_path / "m", 40, said)  # in its own place
    kept = mini.load_packed(tmp_path / "m")[1].state_dict()
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, kept[name])
    labeler = Labeler.load(str(tmp_path / "m"), device="cpu", dtype="float32")
    assert {k: getattr(labeler, k) for k in said} == said
    (tmp_path / "m/config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="not a packed model"):
        mini.load_packed(tmp_path / "m")
    with pytest.raises(ConfigError, match="no folder"):
        mini.load_packed(tmp_path / "lost")


def test_weights_that_do_not_fit_are_one_clear_error(tmp_path):
    tokenizer().save(str(tmp_path / "t.json"))
    mini.write(network(), tmp_path / "t.json", tmp_path / "m", 40, {})
    config = json.loads((tmp_path / "m/config.json").read_text(encoding="utf-8"))
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"sentence_width": 8}), encoding="utf-8")
    with pytest.raises(ModelError, match="do not fit its config"):
        mini.load_packed(tmp_path / "m")
