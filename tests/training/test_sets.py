"""Question sets: loading, licences, and splits that share nothing."""

import gzip
import json
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.errors import ConfigError, UnknownNameError
from tokenprune.training import passages, sets
from tokenprune.training.sets import Item, Passage, fold_of, load, split, text_key

HERE = os.environ.get("TOKENPRUNE_DATA")


def item(n, question=None, texts=None, labels=None, set_name="selqa", group=None, answers=()):
    texts = texts or [f"Passage {n} is one. It ends here {n}."]
    labels = labels or [1] + [0] * (len(texts) - 1)
    made = []
    for text, label in zip(texts, labels, strict=True):
        sentences = tuple(s.strip() + "." for s in text.split(".") if s.strip())
        made.append(Passage("", sentences, (label,) + (0,) * (len(sentences) - 1)))
    return Item(
        str(n), set_name, question or f"What is {n}?", tuple(made), "s", group or str(n), "gold", answers
    )


def group_in(fold, set_name="selqa", skip=0):
    """A group name whose hash falls in ``fold``."""
    names = (f"g{i}" for i in range(10_000))
    hits = (g for g in names if fold_of(item(0, set_name=set_name, group=g)) == fold)
    for _ in range(skip):
        next(hits)
    return next(hits)


@pytest.fixture
def folder(tmp_path):
    def put(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    common = {"source": "s", "label_type": "gold", "answers": ["a"], "answerable": True, "group": "d"}
    passage = {"title": "T", "sentences": ["One. ", " ", "Two."], "labels": [0, 0, 1]}
    put(
        tmp_path / "sentqa/selqa/selqa.jsonl.gz",
        [common | {"id": "x", "question": "Q?", "passages": [passage], "n_occurrences": 2}],
    )
    put(
        tmp_path / "sentqa/qmsum/questions.jsonl.gz",
        [common | {"id": "m", "question": "Q?", "doc_id": "d", "labels_runs": [[1, 2], [4, 4]]}],
    )
    put(tmp_path / "sentqa/qmsum/documents.jsonl.gz", [{"doc_id": "d", "turns": list("abcdef")}])
    texts = ["It is 3.5 m  high. It stands.", "No. It lies."]
    put(
        tmp_path / "retrieval/nq20/nq20.jsonl.gz",
        [
            {
                "id": "r",
                "source": "s",
                "query": "How high?",
                "answers": [],
                "passages": [
                    {"title": "", "text": t, "relevance": 1 - i, "pid": i} for i, t in enumerate(texts)
                ],
            }
        ],
    )
    return tmp_path


def test_loading(folder):
    (one,) = load("selqa", folder)
    assert one.passages == (Passage("T", ("One.", "Two."), (0, 1)),)
    assert one.passages[0].text == "One. Two." and one.passages[0].relevant
    assert (one.id, one.group, one.answers, one.occurrences) == ("x", "d", ("a",), 2)
    (meeting,) = load("qmsum", folder)
    assert meeting.passages == (Passage("", tuple("abcdef"), (0, 1, 1, 0, 1, 0)),)
    (listed,) = load("nq20", folder)
    assert listed.passages[0].sentences == ("It is 3.5 m high.", "It stands.")
    assert [p.labels for p in listed.passages] == [(1, 1), (0, 0)]
    assert (listed.question, listed.group, listed.label_type) == ("How high?", "r", "passage_relevance")


def test_bad_data_is_one_clear_error(folder, tmp_path, monkeypatch):
    with pytest.raises(UnknownNameError, match="selqa"):
        load("nonsense", folder)
    with pytest.raises(ConfigError, match="hotpotqa"):
        load("hotpotqa", folder)
    with pytest.raises(ConfigError, match="TOKENPRUNE_DATA"):
        load("selqa", tmp_path / "nowhere")
    monkeypatch.delenv("TOKENPRUNE_DATA", raising=False)
    with pytest.raises(ConfigError, match="TOKENPRUNE_DATA"):
        load("selqa")
    with gzip.open(folder / "sentqa/selqa/selqa.jsonl.gz", "wt") as file:
        file.write('{"id": "x"}\n')
    with pytest.raises(ConfigError, match=r"selqa.*KeyError"):
        load("selqa", folder)


def test_training_refuses_what_may_not_be_published():
    assert sets.trainable(["selqa", "medquad"]) == ["selqa", "medquad"]
    with pytest.raises(ConfigError, match="evinf"):
        sets.trainable(["selqa", "evinf"])
    with pytest.raises(UnknownNameError):
        sets.trainable(["kv75"])


def test_folds_follow_the_document():
    items = [item(n, group=f"doc {n % 500}") for n in range(1000)]
    folds = [fold_of(i) for i in items]
    assert folds[:500] == folds[500:]
    counts = Counter(folds[:500])
    assert 30 < counts["test"] < 70 and 30 < counts["validation"] < 70


def test_shared_questions_and_evidence_go_and_shared_distractors_are_cut():
    test = item(1, "Who was it?", ["Gold text here.", "A distractor."], group=group_in("test"))
    valid = item(2, texts=["Kept for early stopping."], group=group_in("validation"))
    cases = {
        "question": item(3, "who was it", group=group_in("train")),
        "evidence": item(4, texts=["GOLD text , here ."], group=group_in("train", "qed"), set_name="qed"),
        "was a distractor": item(5, texts=["A distractor."], group=group_in("train")),
        "cut": item(6, texts=["Other gold.", "A distractor.", "Third."], group=group_in("train")),
        "of validation": item(7, texts=["Kept, for early stopping!"], group=group_in("train")),
        "own": item(8, group=group_in("train", skip=1)),
    }
    leak = item(9, "Who was it?", group=group_in("validation", skip=1))
    made = split([*cases.values(), valid, leak, test])
    assert made.test == [test] and made.validation == [valid]
    assert [i.id for i in made.train] == ["6", "8"]
    assert [p.text for p in made.train[0].passages] == ["Other gold.", "Third."]
    assert made.lost == {
        ("selqa", "validation", "question"): 1,
        ("selqa", "train", "question"): 1,
        ("selqa", "train", "evidence"): 2,
        ("qed", "train", "evidence"): 1,
        ("selqa", "train", "passages"): 1,
    }


few = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(few, st.lists(few, min_size=1, max_size=4), st.integers(0, 60)), max_size=40))
def test_no_fold_shares_a_question_or_a_passage_with_a_later_one(rows):
    items = [item(n, q, [f"Text {t}." for t in texts], group=f"{g}") for n, (q, texts, g) in enumerate(rows)]
    made = split(items)
    seen: set[str] = set()
    for fold in (made.test, made.validation, made.train):
        own = {text_key(i.question) for i in fold} | {text_key(p.text) for i in fold for p in i.passages}
        assert not own & seen
        seen |= own
        assert all(any(p.relevant for p in i.passages) for i in fold)
    assert len(made.test) == sum(fold_of(i) == "test" for i in items)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=60), st.integers(1, 50), st.integers(0, 5))
def test_an_excerpt_is_consecutive_and_holds_a_positive(labels, most, seed):
    whole = Passage("t", tuple(map(str, range(len(labels)))), tuple(labels))
    one = Item("x", "qmsum", "q", (whole,), "s", "g", "gold")
    (cut,) = passages.excerpt(one, most, seed).passages
    first = int(cut.sentences[0])
    assert cut.sentences == whole.sentences[first : first + most]
    assert cut.labels == whole.labels[first : first + most]
    assert len(cut.sentences) == min(most, len(labels))
    assert cut.relevant == whole.relevant


def test_distractors_come_from_elsewhere_and_do_not_answer():
    mine = item(1, "Q?", ["Mine it is."], answers=("Paris",), group="a")
    pool = [
        mine,
        item(2, texts=["Same document."], group="a"),
        item(3, "q", ["Same question."], group="b"),
        item(4, texts=["It is PARIS."], group="c"),
        item(5, texts=["Fine. Really."], group="d"),
        item(6, texts=["Good."], group="e"),
    ]
    for seed in range(20):
        made = passages.with_distractors(mine, pool, 2, seed)
        assert sorted(p.text for p in made.passages) == ["Fine. Really.", "Good.", "Mine it is."]
        assert {p.text: p.relevant for p in made.passages} == {
            "Fine. Really.": False,
            "Good.": False,
            "Mine it is.": True,
        }
        assert made == passages.with_distractors(mine, pool, 2, seed)
    assert len({passages.with_distractors(mine, pool, 2, s).passages[0].text for s in range(20)}) == 3
    assert len(passages.with_distractors(mine, pool, 9).passages) == 3
    assert passages.with_distractors(mine, [], 2).passages == mine.passages


@pytest.mark.skipif(not HERE, reason="TOKENPRUNE_DATA is not set")
def test_the_real_sets_split_without_overlap():
    names = ["hotpotqa", "nq_litm", "nq_swap", "qed", "squad_rl", "nq20", "pubmedqa10", "squad10"]
    items = [i for name in names for i in load(name)]
    assert all(len(p.labels) == len(p.sentences) and all(p.sentences) for i in items for p in i.passages)
    made = split(items)
    later = {text_key(i.question) for i in made.test}
    later |= {text_key(p.text) for i in made.test for p in i.passages}
    for one in [*made.train, *made.validation]:
        assert text_key(one.question) not in later
        assert not any(text_key(p.text) in later for p in one.passages)
    assert {i.set_name for i in made.train} == set(names)
