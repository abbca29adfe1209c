"""A fused rank: which lists it is fitted to, what it changes, whether it helps."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.training.tiny import item, maker, network, tokenizer  # noqa: E402
from tokenprune.errors import ConfigError  # noqa: E402
from tokenprune.models.labeler import Labeler  # noqa: E402
from tokenprune.models.labeler.mini_network import N_LIKENESS  # noqa: E402
from tokenprune.training import mini  # noqa: E402
from tokenprune.training.fuse import FusionRecipe, crossed, fit_fusion  # noqa: E402
from tokenprune.training.lists import FUSED, parts, taken, unread  # noqa: E402
from tokenprune.training.mixture import Part, check, ranked  # noqa: E402
from tokenprune.training.rank import RankRecipe, fit_rank, ndcg, ranks_of, read  # noqa: E402
from tokenprune.training.sets import Passage, fold_of  # noqa: E402
from tokenprune.training.validation import text_of  # noqa: E402


def fused(seed=0):
    net = network(seed)
    net.add_fusion()
    with torch.no_grad():
        for parameter in net.rank.parameters():
            parameter.normal_(0, 0.3)
    return net


def lists(count, first=0):
    pool = [item(n) for n in range(first, first + count)]
    return list(ranked(pool, mixture={"selqa": Part(count, distractors=3)}))


def test_every_fused_set_may_be_published():
    assert sorted(check(list(FUSED))) == sorted(FUSED)


def test_a_fusion_that_was_not_fitted_changes_no_rank():
    plain, net, made = network(), network(), maker()
    net.add_fusion()
    (one,), (same,) = (list(read(n, made, lists(5)[:1])) for n in (plain, net))
    torch.testing.assert_close(plain.rank_of(one.found), net.rank_of(same.found))
    torch.testing.assert_close(one.found, net.for_head(same.found))
    assert same.found.shape[1] == one.found.shape[1] + N_LIKENESS


def test_likeness_by_hand():
    net, made = fused(), maker()
    one = replace(item(4), passages=item(4).passages[:1])
    (row,) = made.make(one).rows
    from tokenprune.models.labeler.mini import window
    from tokenprune.training.windows import batch

    w = window(batch([row, made.make(item(1)).rows[1]], 0), "cpu")
    with torch.no_grad():
        found = net.eval()(w).found[0, -1 - N_LIKENESS : -1]
        states, _, halfway = (x[0, w.filled[0]].double() for x in net.encode(w))
    begin = row.query[1] + 1
    ours, theirs = states[:begin], states[begin:]
    unit = torch.nn.functional.normalize(halfway, dim=-1)
    asked = slice(*row.query)
    late = (unit[asked] @ unit[begin + 1 : -1].T).amax(1)
    rare = net.idf[torch.from_numpy(row.ids[asked])].double()
    cosine = torch.nn.functional.cosine_similarity
    wanted = torch.stack(
        (
            cosine(ours[0], theirs[0], 0),
            cosine(ours.mean(0), theirs.mean(0), 0),
            late.mean(),
            (late * rare).sum() / rare.sum(),
        )
    )
    torch.testing.assert_close(found.double(), 4 * wanted - 2, atol=1e-5, rtol=1e-5)


def test_it_helps_a_poor_head_and_changes_nothing_else():
    net, made = fused(), maker()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    train, held = (list(read(net, made, lists(n, first))) for n, first in ((80, 0), (40, 500)))
    start, old = ndcg(net, held), ranks_of(net, train)
    fit_fusion(net, train)
    assert ndcg(net, held) > start + 0.05
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"fuse.weight", "fuse.bias"}
    new = ranks_of(net, train)
    for of in (lambda own: own.std(correction=0), lambda own: own.sum()):
        assert float(sum(map(of, new))) == pytest.approx(float(sum(map(of, old))), rel=1e-3, abs=1e-2)


def test_each_part_is_ranked_by_weights_that_have_not_seen_it():
    net, made = fused(), maker()
    some = list(read(net, made, lists(30)))
    kept = net.fuse.weight.clone()
    across = crossed(net, some, [n % 3 for n in range(30)])
    assert torch.equal(net.fuse.weight, kept)
    wrong = [replace(one, relevant=~one.relevant) if n % 3 == 0 else one for n, one in enumerate(some)]
    other = crossed(net, wrong, [n % 3 for n in range(30)])
    for n in range(30):
        assert torch.allclose(across[n], other[n], atol=1e-5) == (n % 3 == 0)


def test_the_head_of_a_fused_rank_can_be_fitted_again():
    net, made = fused(), maker()
    some = list(read(net, made, lists(12)))
    fit_rank(net, some, some, RankRecipe(epochs=1))
    assert np.isfinite(ndcg(net, some))


def test_it_says_what_is_missing():
    with pytest.raises(ConfigError, match="needs lists"):
        fit_fusion(fused(), [])
    some = list(read(network(), maker(), lists(6)))
    with pytest.raises(ConfigError, match="not fused"):
        fit_fusion(network(), some, FusionRecipe())
    with pytest.raises(ConfigError, match="needs lists"):
        crossed(fused(), some, [0] * len(some))


def test_a_packed_fused_model_ranks_as_before(tmp_path):
    net, made = fused(), maker()
    one = lists(6)[0]
    fit_fusion(net, list(read(net, made, lists(20))))
    tokenizer().save(str(tmp_path / "t.json"))
    mini.write(net, tmp_path / "t.json", tmp_path / "m", 40, {})
    passages = [text_of(p)[0] for p in one.passages]
    packed = Labeler.load(str(tmp_path / "m"), device="cpu", dtype="float32").label(one.question, passages)
    mine = mini.labeler_of(mini.load_packed(tmp_path / "m")[1], made).label(one.question, passages)
    assert [labels.rank for labels in packed] == pytest.approx([labels.rank for labels in mine], abs=1e-5)
    here = mini.labeler_of(net, made).label(one.question, passages)
    assert [labels.rank for labels in packed] == pytest.approx([labels.rank for labels in here], abs=0.3)


def named(n, evidence=None, other=None):
    """A list with a question of its own, and texts of its own where none are given."""
    texts = (evidence or f"evidence {n}", other or f"other {n}")
    passages = [Passage("", (text,), (1 - i,)) for i, text in enumerate(texts)]
    return replace(item(n, set_name="nq20", passages=passages), question=f"question {n}")


def test_lists_that_were_trained_on_or_are_like_a_test_are_left_out():
    by_fold = {"train": [], "validation": [], "test": []}
    for n in range(200):
        by_fold[fold_of(named(n))].append(n)
    train, validation, test = by_fold["train"], by_fold["validation"], by_fold["test"]
    held = {named(n).id for n in validation}
    pool = [named(n) for n in range(200) if n not in train[:4]]
    assert {i.id for i in unread(pool, ["nq20"])} == held  # the network was trained on all the others
    like = [
        named(train[0], evidence=f"other {test[0]}"),  # lost to the test fold, but not judged there
        named(train[1], evidence=f"evidence {validation[0]}"),
        named(train[2], evidence=f"evidence {test[0]}"),
        replace(named(train[3]), question=f"Question {test[1]}!"),
    ]
    found = unread([*pool, *like], ["nq20"])
    assert {i.id for i in found} == held | {like[0].id, like[1].id}
    assert taken(found, {"nq20": 5}) == taken(found, {"nq20": 9})[:5]
    assert len(taken(found, {"nq20": 5})) == 5


def test_what_shares_a_question_or_evidence_is_in_one_part():
    pool = [item(n) for n in range(60)]
    pool += [replace(item(n + 1000), id=f"p{n}", passages=item(n).passages) for n in range(60)]
    number = parts(pool, 4)
    assert number[:60] == number[60:]
    for part in range(4):
        inside = {i.question for i, n in zip(pool, number, strict=True) if n == part}
        outside = {i.question for i, n in zip(pool, number, strict=True) if n != part}
        assert not inside & outside
