"""benchmarks/provence and benchmarks/rag_quality: figures, contexts and what a method may be."""

import gzip
import json
import math
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.common import scorers
from benchmarks.common.relevance import auc, best_first, best_within, ndcg, per_passage, recall_at, words_of
from benchmarks.common.store import Store
from benchmarks.provence import sentences
from benchmarks.provence.cases import cases
from benchmarks.rag_quality import answers, contexts, cost
from tokenprune.tokens import get_counter
from tokenprune.training.sets import Item, Passage, fold_of

HERE = os.environ.get("TOKENPRUNE_DATA")


def passage(*texts, labels=None, title=""):
    return Passage(title, texts, tuple(labels or [0] * len(texts)))


def item(*passages, answers=("x",), question="Q?", id="1"):
    return Item(id, "nq20", question, passages, "s", id, "gold", tuple(answers))


CATS = passage("Cats sleep a lot.", "Owls eat mice at night.", labels=[0, 1], title="Animals")
ROCKS = passage("Rocks are hard.", title="Rocks")

# -- figures --------------------------------------------------------------------------------------------


def test_auc_by_hand():
    assert auc(np.array([0.9, 0.1, 0.5]), [1, 0, 0]) == 1
    assert auc(np.array([0.5, 0.5, 0.9, 0.1]), [1, 0, 0, 1]) == pytest.approx(0.5 / 4)
    assert auc(np.array([1.0, 2.0]), [1, 1]) is None and auc(np.array([1.0]), [0]) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=20))
def test_auc_is_the_share_of_pairs_in_order(rows):
    scores, labels = np.array([float(s) for s, _ in rows]), [y for _, y in rows]
    pairs = [(a > b) + (a == b) / 2 for a, x in rows if x for b, y in rows if not y]
    expected = sum(pairs) / len(pairs) if pairs else None
    assert auc(scores, labels) == (None if expected is None else pytest.approx(expected))


def test_recall_counts_the_sentence_that_reaches_the_share():
    scores, labels, words = np.array([3.0, 1.0, 2.0, 0.0]), [1, 1, 0, 0], [2, 2, 2, 4]
    assert recall_at(scores, labels, words, 0.2) == (0.5, 0.2)
    assert recall_at(scores, labels, words, 0.3) == (0.5, 0.4)
    assert recall_at(scores, labels, words, 0.5) == (1, 0.6)
    assert recall_at(scores, labels, words, 1.0) == (1, 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=12), st.integers(0, 60))
def test_selections_take_the_best(rows, budget):
    scores, costs = np.array([float(s) for s, _ in rows]), [c for _, c in rows]
    first, fitting = best_first(scores, costs, budget), best_within(scores, costs, budget)
    assert sum(c for c, k in zip(costs, fitting, strict=True) if k) <= budget
    if first.any() and not first.all():
        assert scores[first].min() >= scores[~first].max()
        assert sum(c for c, k in zip(costs, first, strict=True) if k) >= budget
    left = budget - sum(c for c, k in zip(costs, fitting, strict=True) if k)
    assert all(c > left for c, k in zip(costs, fitting, strict=True) if not k)


def test_ndcg_by_hand():
    assert ndcg(np.array([3.0, 2.0, 1.0]), [0, 1, 0], 5) == pytest.approx(1 / math.log2(3))
    assert ndcg(np.array([3.0, 2.0, 1.0]), [0, 0, 1], 2) == 0
    assert ndcg(np.array([1.0, 2.0]), [0, 1], 5) == 1


def test_columns_by_passage():
    assert [list(x) for x in per_passage(np.arange(3), [CATS, ROCKS])] == [[0, 1], [2]]
    assert words_of([CATS, ROCKS]) == [4, 5, 3]


# -- methods --------------------------------------------------------------------------------------------


def test_units_are_the_sentences():
    odd = passage("One. Two", "- three\n", "four", title="T")
    (units,) = scorers.units([odd])
    assert [t.strip() for t in units.texts] == ["One. Two", "- three", "four"]
    assert units.document.title == "T"


def test_bm25_and_random():
    bm25 = scorers.method("bm25")
    found = bm25.sentences("What do owls eat?", [CATS, ROCKS])
    assert [len(s) for s in found] == [2, 1] and found[0].argmax() == 1 and found[1][0] == 0
    assert list(bm25.ranks("What do owls eat?", [CATS, ROCKS])) == [found[0].max(), 0]
    random = scorers.method("random")
    one, again = (random.sentences("q", [CATS, ROCKS]) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert len(random.ranks("q", [CATS, ROCKS])) == 2
    assert random.sentences("r", [CATS])[0][0] != one[0][0]


def test_a_labeler_by_module_and_function(monkeypatch, tmp_path):
    calls = []

    def load(argument="none"):
        def label(question, passages):
            calls.append((argument, question))
            return [np.full(len(p.sentences), 0.5) for p in passages], np.arange(len(passages), dtype=float)

        return label

    monkeypatch.setitem(sys.modules, "some_labeler", SimpleNamespace(load=load))
    made = scorers.method(f"some_labeler:load@{tmp_path}")
    assert made.ours
    assert list(made.sentences("q", [CATS])[0]) == [0.5, 0.5]
    assert list(made.ranks("q", [CATS])) == [0]
    assert calls == [(str(tmp_path), "q")]  # one pass gives both
    (tmp_path / "weights").write_text("x")
    assert scorers.method(f"some_labeler:load@{tmp_path}").version != made.version
    assert scorers.method("some_labeler:load").sentences("q", [ROCKS])[0] == [0.5]


def test_a_registered_method_and_one_that_is_not_there():
    notes = []
    found = scorers.available(["bm25-sentences", "no-such-method", "bm25"], notes.append)
    assert [(m.name, m.ours) for m in found] == [("bm25-sentences", True), ("bm25", False)]
    assert found[0].sentences("What do owls eat?", [CATS, ROCKS])[0].argmax() == 1
    assert len(notes) == 1 and "no-such-method" in notes[0]


@pytest.mark.models
def test_a_scorer_that_ranks_gives_the_passages_scores():
    class Ranking:
        def score_and_rank(self, query, documents):
            return [np.zeros(len(u)) for u in documents], np.array([0.25, np.nan])

    sentences, ranks = scorers.of_scorer(Ranking())("Q?", (CATS, ROCKS))
    assert [len(s) for s in sentences] == [2, 1] and ranks.tolist() == [0.25, -np.inf]


def test_models_put_the_right_sentence_first():
    for name in ("minilm", "minilm-late"):
        method = scorers.method(name)
        scores = method.sentences("What do owls have for dinner?", [ROCKS, CATS])
        assert np.concatenate(scores).argmax() == 2
        assert (np.abs(np.concatenate(scores)) <= 1.01).all()
        assert method.ranks("What do owls have for dinner?", [ROCKS, CATS]).argmax() == 1
        assert len(method.sentences("\u200b", [CATS])[0]) == 2


@pytest.mark.models
def test_late_interaction_equals_a_plain_loop():
    """Tolerance 0.02: bfloat16 sums depend on how a batch is padded."""
    import torch

    question = "What do owls eat?"
    got = scorers._late(question, [CATS, ROCKS])
    tokenizer, model = scorers._minilm()

    def states(text):
        ids = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            return model(**ids).last_hidden_state[0, 1:-1].float().numpy()

    for text, value in zip(CATS.sentences + ROCKS.sentences, np.concatenate(got), strict=True):
        best = []
        for q in states(question):
            best.append(max(q @ s / np.linalg.norm(q) / np.linalg.norm(s) for s in states(text)))
        assert value == pytest.approx(np.mean(best), abs=0.02)


# -- provence -------------------------------------------------------------------------------------------


def method_of(function, name="m"):
    return scorers.Method(name, function, lambda q, p: np.zeros(len(p)), "1")


def test_a_question_is_measured_over_all_its_passages():
    right = method_of(lambda q, p: [np.array(x.labels, dtype=float) for x in p])
    record = sentences.measure(item(ROCKS, CATS), right, 0.3)
    assert record["auc"] == 1 and record["recall"] == 1 and record["words"] == pytest.approx(5 / 12)
    with pytest.raises(ValueError, match="m gave"):
        sentences.measure(item(ROCKS, CATS), method_of(lambda q, p: [np.zeros(2)]), 0.3)
    nan = method_of(lambda q, p: [np.full(len(x.labels), np.nan) for x in p])
    with pytest.raises(ValueError, match="finite"):
        sentences.measure(item(ROCKS, CATS), nan, 0.3)


def test_every_set_counts_the_same():
    record = {"auc": 1.0, "recall": 0.5, "words": 0.3, "seconds": 1.0}
    one = item(CATS)
    sets = {
        "large": sentences.summarise({"m": [record] * 3}, [one] * 3),
        "small": sentences.summarise({"m": [record | {"auc": 0.5}]}, [one]),
        "empty": sentences.summarise({"m": []}, []),
    }
    assert sets["large"]["positives"] == 0.5 and sets["large"]["sentences"] == 2
    assert sentences.mean_over_sets(sets)["m"] == {"auc": 0.75, "recall": 0.5, "words": 0.3, "seconds": 1.0}


def test_cases_are_test_items_and_a_sample_is_the_beginning_of_a_larger_one(tmp_path):
    folder = tmp_path / "sentqa" / "policyqa"
    folder.mkdir(parents=True)
    rows = [
        {
            "id": str(n),
            "source": "s",
            "question": f"Question {n}?",
            "passages": [{"title": "", "sentences": [f"Text {n}.", "More."], "labels": [1, 1]}],
            "answers": [f"text {n}"],
            "label_type": "gold",
            "group": f"site {n}",
        }
        for n in range(200)
    ]
    with gzip.open(folder / "policyqa.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    made = cases(tmp_path, "policyqa", 8, 0)
    assert len(made) == 8 and all(fold_of(i) == "test" for i in made)
    for one in made:
        assert [p.relevant for p in one.passages].count(True) == 1 and len(one.passages) == 3
    assert cases(tmp_path, "policyqa", 3, 0) == made[:3]
    assert [i.id for i in cases(tmp_path, "policyqa", 8, 1)] != [i.id for i in made]


# -- rag_quality ----------------------------------------------------------------------------------------


def test_a_title_stays_with_a_sentence_of_its_passage():
    keep = [np.array([False, True]), np.array([False])]
    assert contexts.render([CATS, ROCKS], keep) == "Animals\nOwls eat mice at night."
    assert contexts.render([CATS, ROCKS], contexts.whole([CATS, ROCKS], [1])) == "Rocks\nRocks are hard."
    assert contexts.render([CATS, ROCKS], contexts.whole([CATS, ROCKS])).count("\n\n") == 1
    best = contexts.top([CATS, ROCKS], np.array([0.1, 0.2]), 1)
    assert [m.tolist() for m in best] == [[False, False], [True]]
    above = contexts.above([np.array([0.1, 0.2]), np.array([0.5])], 0.1)
    assert [m.tolist() for m in above] == [[False, True], [True]]


texts = st.lists(
    st.lists(
        st.text("abc dé.?!日", min_size=1, max_size=30).map(str.strip).filter(bool), min_size=1, max_size=4
    ),
    min_size=1,
    max_size=4,
)


@given(texts, st.integers(0, 60), st.randoms(use_true_random=False), st.sampled_from(["", "A title", "日本"]))
def test_a_budget_is_kept_with_titles(made, budget, random, title):
    passages = [passage(*t, title=title) for t in made]
    scores = [np.array([random.random() for _ in t]) for t in made]
    keep = contexts.within(passages, scores, budget)
    assert get_counter().count(contexts.render(passages, keep)) <= budget


def test_evidence():
    marks = contexts.evidence(item(CATS, passage("Owls eat mice too."), answers=("MICE at",)))
    assert [m.tolist() for m in marks] == [[False, True], [False]]
    assert contexts.evidence_kept(marks, contexts.whole([CATS, ROCKS], [0])) == 1
    assert contexts.evidence_kept(marks, contexts.whole([CATS, ROCKS], [1])) == 0
    none = contexts.evidence(item(CATS, answers=("?",)))
    assert contexts.evidence_kept(none, none) is None


def test_what_is_compared(tmp_path):
    store = Store(tmp_path / "s.jsonl")
    calls = []

    def right(question, passages):
        calls.append(question)
        return [np.array(p.labels) * 0.9 + 0.05 for p in passages]

    methods = [method_of(right), method_of(right, "random")]
    one = item(CATS, ROCKS)
    found = answers.compared(one, methods, store, 0.5, 0.1, 0)
    assert list(found) == [
        "none", "full", "gold passage", "5 random passages",
        "m: top 5 passages", "m: sentences at 50%", "m: above 0.1", "random: sentences at 50%",
    ]  # fmt: skip
    assert [m.tolist() for m in found["m: above 0.1"]] == [[False, True], [False]]
    assert [m.tolist() for m in found["gold passage"]] == [[True, True], [False]]
    assert len(calls) == 2
    assert answers.compared(one, methods, store, 0.5, 0.1, 0).keys() == found.keys() and len(calls) == 2
    store.close()


@pytest.mark.skipif(not HERE, reason="TOKENPRUNE_DATA is not set")
def test_real_cases_and_lists():
    from pathlib import Path

    (meeting,) = cases(Path(HERE), "qmsum", 1, 0)
    assert len(meeting.passages[0].sentences) == 200 and meeting.passages[0].relevant
    for one in cases(Path(HERE), "nq_litm", 5, 0):
        assert len(one.passages) == 3 and sum(p.relevant for p in one.passages) == 1
    lists = contexts.items(Path(HERE), "nq20", 20, 0)
    assert all(len(i.passages) == 20 and sum(p.relevant for p in i.passages) == 1 for i in lists)
    assert len({[p.relevant for p in i.passages].index(True) for i in lists}) > 8
    assert all(np.concatenate(contexts.evidence(i)).any() for i in lists)


# -- cost -----------------------------------------------------------------------------------------------


@pytest.fixture
def streaming():
    """A server whose first token takes a millisecond a word."""
    import threading
    import time
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer("application/json", json.dumps({"data": [{"id": "m"}]}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            prompts.append(body["prompt"])
            time.sleep(len(body["prompt"].split()) / 1000)
            empty = "data: " + json.dumps({"choices": []}) + "\n\n"
            token = "data: " + json.dumps({"choices": [{"text": "x"}]}) + "\n\n"
            self.answer(
                "text/event-stream", empty + (token if body["model"] == "m" else "") + "data: [DONE]\n\n"
            )

        def answer(self, kind, text):
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    prompts = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", prompts=prompts)
    server.shutdown()
    server.server_close()


def test_pruning_is_timed_beside_what_it_saves(streaming, monkeypatch, tmp_path):
    many = item(
        passage(*["Cats sleep a lot all day long."] * 60, title="A"), CATS, question="When do owls eat?"
    )
    monkeypatch.setattr(contexts, "items", lambda *args: [many] * 4)
    options = SimpleNamespace(
        upstream=streaming.url + "/v1", methods=["bm25", "random"], timed=2, seed=0, share=0.1
    )
    context = SimpleNamespace(options=options, data=tmp_path, track=lambda work, *args: work, note=print)
    found = cost.run(context)
    (row,) = found["rows"]
    assert (found["model"], found["n"], row["method"]) == ("m", 2, "BM25")
    assert (
        found["direct"]["ttft"] > 0.4 > 0.2 > row["ttft"] and row["tokens"] < 0.1 * found["direct"]["tokens"]
    )
    assert row["speedup"] > 1 and 0 < row["share"] < 1
    assert len(set(streaming.prompts)) == len(streaming.prompts) == 8  # nothing can come of a prefix cache


def test_a_stream_without_a_token_is_an_error(streaming):
    import httpx

    with httpx.Client(base_url=streaming.url) as client, pytest.raises(ValueError, match="without a token"):
        cost.first_token(client, "other", "a b")


def test_without_a_server_cost_is_skipped(tmp_path):
    context = SimpleNamespace(options=SimpleNamespace(upstream=None), data=tmp_path)
    assert "--upstream" in cost.run(context)["skipped"]
