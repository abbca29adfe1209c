"""The mixture, the windows, the loss and the loop that train the small labeler."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stopper import Stop

from tokenprune.errors import ConfigError
from tokenprune.training import mixture
from tokenprune.training.mixture import MIXTURE, Part, check, compose, epoch
from tokenprune.training.sets import SETS, Passage

torch = pytest.importorskip("torch")

from tests.training.tiny import VOCAB, item, maker, network, tokenizer  # noqa: E402
from tokenprune.models.labeler import Labeler, Read  # noqa: E402
from tokenprune.models.labeler.mini import window  # noqa: E402
from tokenprune.training import mini  # noqa: E402
from tokenprune.training.fit import Fit, Recipe, chunks  # noqa: E402
from tokenprune.training.loss import LossWeights, Said, collect, loss  # noqa: E402
from tokenprune.training.validation import auc, pairs_in_order, questions, sentence_scores  # noqa: E402
from tokenprune.training.windows import UNKNOWN, Question, Row, batch, rarity, steps  # noqa: E402

# -- mixture ------------------------------------------------------------------------------------------


def test_every_part_may_be_published():
    assert sorted(check(list(MIXTURE))) == sorted(MIXTURE)
    with pytest.raises(ConfigError, match="evaluation only"):
        check(["evinf"])
    assert all(
        part.distractors for name, part in MIXTURE.items() if name in ("policyqa", "nq_swap", "nq_litm")
    )


def test_an_epoch_is_capped_and_the_same_every_time():
    items = [item(n) for n in range(30)] + [item(n, "qed") for n in range(30, 35)]
    parts = {"selqa": Part(10, distractors=0), "qed": Part(10, distractors=0)}
    once, again = (list(epoch(items, 3, seed=1, mixture=parts)) for _ in range(2))
    assert once == again
    assert sorted(i.set_name for i in once) == ["qed"] * 5 + ["selqa"] * 10
    assert [i.id for i in epoch(items, 4, seed=1, mixture=parts)] != [i.id for i in once]


def test_ambiguous_answers_and_unknown_sets_stay_out():
    items = [item(1, occurrences=2), item(2), item(3, "evinf")]
    assert [i.id for i in epoch(items, 0)] == ["2"]


def test_composing_keeps_evidence_and_takes_it_away_sometimes():
    pool = [item(n) for n in range(200)]
    made = [compose(one, pool, Part(99, distractors=2), 7) for one in pool]
    unanswerable = [m for m in made if not any(p.relevant for p in m.passages)]
    assert 0 < len(unanswerable) < 30
    rest = [m for m in made if m not in unanswerable]
    assert all(len(m.passages) == 4 and sum(p.relevant for p in m.passages) == 1 for m in rest)
    bare = np.mean([not p.title for m in made for p in m.passages])
    assert 0.2 < bare < 0.4


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_long_items_are_cut_but_not_their_evidence(sentences, passages, seed):
    many = [
        Passage("t", tuple(f"the cat is red {i} {j}." for j in range(9)), (0,) * 4 + (int(i == 3),) * 5)
        for i in range(6)
    ]
    made = compose(
        item(seed, passages=many), [], Part(9, distractors=0, sentences=sentences, passages=passages), seed
    )
    assert 1 <= len(made.passages) <= passages
    assert all(len(p.sentences) <= sentences for p in made.passages)
    unanswerable = not any(p.relevant for p in made.passages)
    assert not unanswerable or len(made.passages) == passages - 1


# -- windows ------------------------------------------------------------------------------------------


def test_windows_are_framed_as_the_labeler_frames_them():
    """What training reads is what the labeler's own batches hold."""
    seen = []

    class Recorder:
        def run(self, batch):
            seen.append(batch)
            none = np.zeros(len(batch.ids), np.float32)
            return Read(none, none, np.zeros(batch.ids.shape, np.float32))

    made = maker()
    labeler = Labeler("r", made.reader, made.frame, Recorder(), made.max_length)
    one = item(5)
    sentence_scores(labeler, replace(one, passages=one.passages[:1]))
    own = batch(made.make(one).rows[:1], 0)
    for field in ("ids", "mask", "sentence", "query", "passage"):
        np.testing.assert_array_equal(getattr(own, field), getattr(seen[0], field))


def test_labels_and_relevance_go_by_the_window():
    long = Passage("", tuple(["the cat is red."] * 11 + ["the dog is blue."]), (0,) * 11 + (1,))
    rows = maker(32).make(item(passages=[long])).rows
    assert len(rows) > 2
    assert [r.relevant for r in rows] == [False] * (len(rows) - 1) + [True]
    assert all(len(r.ids) <= 32 and r.sentence.max() == len(r.labels) - 1 for r in rows)
    assert rows[-1].labels[-1] == 1


def test_of_a_relevant_passage_nobody_said_which_sentence():
    whole = [Passage("", ("the cat is red.", "it sleeps."), (1, 1)), Passage("", ("the dog is red.",), (0,))]
    made = replace(item(passages=whole), label_type="passage_relevance")
    rows = maker().make(made).rows
    assert rows[0].labels.tolist() == [UNKNOWN] * 2 and rows[0].relevant
    assert rows[1].labels.tolist() == [0] and not rows[1].relevant


def test_steps_keep_questions_whole():
    made = [maker().make(item(n)) for n in range(7)]
    found = list(steps(made, 90))
    assert [q for group in found for q in group] == made[: sum(map(len, found))]
    sizes = [[sum(len(r.ids) for r in q.rows) for q in group] for group in found]
    assert all(sum(s) >= 90 and sum(s[:-1]) < 90 for s in sizes)


def test_rare_words_weigh_more():
    idf = rarity(["the cat", "the dog", "the cat sleeps"], maker().reader, len(VOCAB))
    assert idf[VOCAB["the"]] < idf[VOCAB["cat"]] < idf[VOCAB["dog"]] == idf[VOCAB["pig"]]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(60, 200))
def test_chunks_hold_every_window_once(lengths, most):
    rows = [
        Row(np.zeros(n, np.int64), (0, 0), 0, np.zeros(n, np.int64), np.zeros(1, np.int64), False)
        for n in lengths
    ]
    found = chunks(rows, most)
    assert sorted(n for c in found for n in c) == list(range(len(lengths)))
    assert all(len(c) * max(lengths[n] for n in c) <= most for c in found)


# -- loss ---------------------------------------------------------------------------------------------


def row(labels, relevant=None):
    """A window of two tokens a sentence."""
    of = np.repeat(np.arange(len(labels)), 2)
    marks = np.asarray(labels, np.int64)
    return Row(
        np.zeros(len(of), np.int64),
        (0, 0),
        0,
        of,
        marks,
        bool(marks.max() > 0) if relevant is None else relevant,
    )


def said(rows, sentence_logits, ranks):
    tokens = [torch.tensor(np.repeat(s, 2), dtype=torch.float32) for s in sentence_logits]
    return Said(
        tokens, [torch.from_numpy(r.sentence) for r in rows], torch.tensor(ranks, dtype=torch.float32)
    )


def test_the_loss_by_hand():
    rows = (row([1, 0]), row([0]))
    total, terms = loss(said(rows, [[1.0, -1.0], [0.5]], [2.0, -1.0]), [Question(rows, 0.5)])
    soft = lambda x: np.log1p(np.exp(x))  # noqa: E731
    token = 0.5 * np.mean([soft(-1.0), soft(-1.0), soft(0.5)])
    pairs = 0.5 * np.mean([soft(-2.0), soft(-0.5)])
    rank = np.mean([soft(-2.0), soft(-1.0)])
    listed = soft(-3.0)
    want = {"token": token, "pairs": pairs, "rank": rank, "rank_list": listed}
    assert terms == pytest.approx(want, abs=1e-5)
    w = LossWeights()
    assert float(total) == pytest.approx(sum(getattr(w, k) * v for k, v in want.items()), abs=1e-5)


def test_what_nobody_judged_costs_nothing():
    rows = (row([UNKNOWN, UNKNOWN], relevant=True), row([0]))
    terms = [loss(said(rows, [[x, -x], [0.0]], [0.0, 0.0]), [Question(rows, 1.0)])[1] for x in (0.0, 5.0)]
    assert terms[0] == terms[1]
    assert terms[0]["token"] == pytest.approx(np.log(2), abs=1e-6) and terms[0]["pairs"] == 0


def test_chunks_come_back_in_order():
    made = maker()
    qs = [made.make(item(n)) for n in range(3)]
    rows = [r for q in qs for r in q.rows]
    net = network().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.2)

    def through(size):
        parts = []
        for numbers in chunks(rows, size):
            seen = window(batch([rows[n] for n in numbers], 0), "cpu")
            parts.append((numbers, net(seen), seen.sentence))
        return collect(parts, len(rows))

    one, many = through(10_000), through(30)
    assert torch.allclose(one.rank, many.rank, atol=1e-5)
    for a, b in zip(one.tokens, many.tokens, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


# -- loop ---------------------------------------------------------------------------------------------

SHORT = Recipe(
    steps=6,
    head_steps=2,
    tokens=200,
    encoder_rate=1e-3,
    head_rate=3e-3,
    warmup=2,
    evaluate_every=4,
    patience=9,
)
ITEMS = [item(n) for n in range(120)]


def first_stage_only(folder):
    fit = Fit(network(), maker(), replace(SHORT, steps=0, head_steps=3), folder)
    before = {k: v.clone() for k, v in fit.network.state_dict().items()}
    fit.run(ITEMS, lambda net: 0.5)
    after = fit.network.state_dict()
    return {k for k, v in before.items() if not torch.equal(v, after[k])}


def test_first_the_head_alone(tmp_path):
    changed = first_stage_only(tmp_path)
    assert changed and not any(k.startswith(("words", "places", "norm.", "layers", "cross")) for k in changed)


def test_then_the_layers_where_texts_meet(tmp_path):
    fit = Fit(network(), maker(), SHORT, tmp_path)
    before = {k: v.clone() for k, v in fit.network.state_dict().items()}
    fit.run(ITEMS, lambda net: 0.5)
    changed = {k for k, v in fit.network.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.startswith("layers.1.") for k in changed) and any(k.startswith("layers.2.") for k in changed)
    assert "cross" in changed
    assert not any(k.startswith(("words", "places", "layers.0.")) for k in changed)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path):
    whole = Fit(network(), maker(), SHORT, tmp_path / "whole")
    whole.run(ITEMS, lambda net: 0.5)

    calls = []

    def stop(net):
        calls.append(net)
        if len(calls) == 2:
            raise Stop
        return 0.5

    first = Fit(network(), maker(), SHORT, tmp_path / "cut")
    with pytest.raises(Stop):
        first.run(ITEMS, stop)
    second = Fit(network(seed=9), maker(), SHORT, tmp_path / "cut")
    assert second.progress.step == 4
    second.run(ITEMS, lambda net: 0.5)
    for name, value in whole.average.items():
        assert torch.allclose(value, second.average[name], atol=1e-6), name


def test_another_recipe_does_not_go_on_there(tmp_path):
    Fit(network(), maker(), SHORT, tmp_path).run(ITEMS, lambda net: 0.5)
    with pytest.raises(ConfigError, match="another recipe"):
        Fit(network(), maker(), replace(SHORT, seed=4), tmp_path)


def test_items_that_make_no_step_are_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="make no step of 200 tokens"):
        Fit(network(), maker(), SHORT, tmp_path).run(ITEMS[:1], lambda net: 0.5)
    with pytest.raises(ConfigError, match="warmup"):
        replace(SHORT, warmup=0)


def test_it_stops_when_nothing_gets_better(tmp_path):
    recipe = replace(SHORT, steps=50, evaluate_every=2, patience=3, head_steps=0)
    figures = iter([0.5, 0.7, 0.6, 0.6, 0.6, 0.9])
    progress = Fit(network(), maker(), recipe, tmp_path).run(ITEMS, lambda net: next(figures))
    assert (progress.best, progress.best_step, progress.step) == (0.7, 4, 10)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["step"] == 4


def test_it_learns(tmp_path):
    """From random weights to answering which sentence has the animal that was asked for."""
    held = {"selqa": [item(n) for n in range(1000, 1030)]}
    made = maker()
    net = network()

    def evaluate(n):
        return auc(mini.labeler_of(n, made), held)["selqa"]

    before = evaluate(network())
    recipe = replace(SHORT, steps=40, head_steps=20, tokens=300, evaluate_every=80, decay=0.9)
    after = Fit(net, made, recipe, tmp_path).run([item(n) for n in range(300)], evaluate).best
    assert before < 0.8 < 0.95 < after


# -- validation and packing ---------------------------------------------------------------------------


def test_validation_takes_questions_with_both_kinds():
    one_sided = item(1, passages=[Passage("", ("the cat is red.",), (1,))])
    chosen = questions([one_sided, *(item(n) for n in range(2, 9))], per_set=3)
    assert len(chosen["selqa"]) == 3 and one_sided not in chosen["selqa"]
    assert questions([one_sided], 3) == {}


def test_a_written_model_is_what_was_trained(tmp_path):
    made = maker()
    net = network().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.2)
    tokenizer().save(str(tmp_path / "t.json"))
    mini.write(net, tmp_path / "t.json", tmp_path / "m", 40, {"default_threshold": 0.3})
    loaded = Labeler.load(str(tmp_path / "m"), device="cpu", dtype="float32")
    assert (loaded.default_threshold, loaded.max_length) == (0.3, 40)
    assert json.loads((tmp_path / "m/config.json").read_text())["model_type"] == "tokenprune_mini"
    for a, b in zip(
        sentence_scores(loaded, item(3)), sentence_scores(mini.labeler_of(net, made), item(3)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=0.01)


def test_every_trained_set_is_known():
    assert set(MIXTURE) - {mixture.OWN} <= set(SETS) and mixture.UNANSWERABLE > 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=2, max_size=20))
def test_auc_is_that_of_scikit_learn(rows):
    from sklearn.metrics import roc_auc_score

    scores, labels = np.array([float(s) for s, _ in rows]), np.array([y for _, y in rows])
    if len(set(labels.tolist())) == 2:
        assert pairs_in_order(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_a_sentence_without_tokens_is_in_no_pair():
    rows = (Row(np.zeros(2, np.int64), (0, 0), 0, np.array([0, 0]), np.array([1, 0]), True),)
    _, terms = loss(
        Said([torch.zeros(2)], [torch.zeros(2, dtype=torch.long)], torch.zeros(1)), [Question(rows, 1.0)]
    )
    assert terms["pairs"] == 0


def test_labels_of_ones_own(tmp_path):
    """A file in the schema of the sets trains without any data folder."""
    path = tmp_path / "labels.jsonl"
    rows = []
    for n in range(60):
        made = item(n)
        passages = [{"title": p.title, "sentences": p.sentences, "labels": p.labels} for p in made.passages]
        rows.append(
            {
                "id": made.id,
                "question": f"{made.question} {n}",
                "passages": passages,
                "source": "s",
                "group": made.group,
            }
            | {"label_type": "silver_llm", "answers": [], "answerable": True}
        )
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    folds = mini.data(None, [path])
    assert len(folds.train) > 30 and {i.set_name for i in folds.train} == {mixture.OWN}
    assert list(epoch(folds.train, 0))
    with pytest.raises(ConfigError):
        mini.data(tmp_path)
