"""The pure parts of benchmarks/html: what it measures and the baselines it makes itself."""

import ast
import gzip
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.common.nll import summarise as summarise_nll
from benchmarks.common.store import Store
from benchmarks.html import chunks, measure
from benchmarks.html.data import questions, without_heading
from benchmarks.html.evidence import summarise
from benchmarks.html.methods import Method
from benchmarks.html.naive_trie import branching_nodes, leaf_log_probabilities
from benchmarks.html.peers import _WithoutBreak
from benchmarks.html.scaling import GENERATORS
from tokenprune.bench.statistics import interval
from tokenprune.quality import visible_text

# -- evidence -----------------------------------------------------------------------------------------


def test_a_row_counts_only_when_all_its_cells_stand_together():
    row = ["160 | September 28 |  | Braves"]
    assert measure.row_kept(visible_text("<tr><td>160<td>September 28<td><td>Braves"), row) == 1
    assert measure.row_kept(visible_text("<tr><td>160<td>x<td>Braves"), row) == 0


def test_interval_holds_the_mean_and_is_the_same_every_time():
    values = [0.0, 1.0] * 50
    low, high = interval(values)
    assert 0.35 < low < 0.5 < high < 0.65
    assert interval(values) == (low, high)
    assert interval([1.0, 1.0]) == (1.0, 1.0)


def test_slope_of_a_power_law():
    sizes = [1.0, 3.0, 10.0]
    assert measure.slope(sizes, [0.2 * s**2 for s in sizes]) == pytest.approx(2)


def test_heading_and_links_to_it_are_deleted_and_the_answer_stays():
    page = (
        "<title>FAQ</title><ul><li><a href='#q'>1.2. Why is it so?</a></li><li><a>Why not?</a></li></ul>"
        "<h2>Why is it so?</h2><p>Because. Why is it so? Nobody asks.</p>"
    )
    left, deleted = without_heading(page, "Why is it so?")
    assert deleted == 2
    assert "<h2>" not in left and "1.2." not in left
    assert "Why not?" in left and "Because. Why is it so?" in left


def record(share, tokens=10):
    return {"8": {"share": share, "rows": None, "tokens": tokens}}


def test_gains_are_paired_with_the_best_peer():
    listed = [
        Method(name, run=None, form="html", ours=ours, version="1", label=name)
        for name, ours in (("good", False), ("bad", False), ("mine", True))
    ]
    records = {
        "good": {"a": record(1.0), "b": record(0.0), "c": record(0.0)},
        "bad": {"a": record(0.0)},  # a smaller sample, on which `good` is better
        "mine": {"a": record(1.0, tokens=4), "b": record(1.0, tokens=8), "c": record(0.5)},
    }
    rows = {row["method"]: row for row in summarise(records, listed, 8)}
    assert "gain" not in rows["good"]
    assert rows["mine"]["best_peer"] == "good"
    assert rows["mine"]["gain"] == pytest.approx(0.5)
    assert rows["bad"]["gain"] == -1 and rows["bad"]["n"] == 1
    assert rows["mine"]["over_budget"] == pytest.approx(1 / 3)
    assert rows["mine"]["budget_use"] == pytest.approx((0.5 + 1 + 1.25) / 3)


# -- token F1 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "gold", "f1"),
    [
        ("A b, c!", "c B a", 1),
        ("a a a", "a", 0.5),
        ("a b", "c", 0),
        ("", "", 1),
        ("", "a", 0),
        ("...", "a", 0),
    ],
)
def test_token_f1(text, gold, f1):
    assert measure.token_f1(text, gold) == pytest.approx(f1)


# -- chunks -------------------------------------------------------------------------------------------


def test_chunks_hold_every_word_once_and_in_order():
    text = " ".join(map(str, range(250)))
    made = chunks.chunks(text)
    assert [len(c.split()) for c in made] == [100, 100, 50]
    assert " ".join(made) == text


def test_page_text_leaves_scripts_out_and_words_whole():
    assert chunks.page_text("<p>a<b>b</b></p>\n<script>no</script><style>no</style>c").split() == ["ab", "c"]


def test_okapi_by_hand():
    texts = ["cat cat dog", "dog bird", "fish"]
    scores = chunks.okapi("Cat?", texts)
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    assert scores == pytest.approx([idf * 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 3 / 2)), 0, 0])


def test_fill_takes_the_best_that_fit_in_document_order():
    texts = ["one", "two two", "three three three", "four"]
    kept = chunks.fill(texts, np.array([1.0, 2.0, 9.0, 3.0]), 4, lambda t: len(t.split()))
    assert kept == "three three three four"
    assert chunks.fill(texts, np.array([1.0, 2.0, 9.0, 3.0]), 2, lambda t: len(t.split())) == "one four"


# -- path probabilities -------------------------------------------------------------------------------


class Table:
    """A model whose logits depend on the last token alone."""

    def __init__(self, table):
        self.table = table

    def __call__(self, ids):
        import torch

        return SimpleNamespace(logits=torch.stack([self.table[row] for row in ids]))


def test_trie_by_hand():
    torch = pytest.importorskip("torch")
    table = torch.zeros(6, 6)
    table[0] = torch.tensor([9.0, 0.0, 1.0, 9.0, 9.0, 9.0])  # after 0 only 1 and 2 are asked for
    table[2] = torch.tensor([9.0, 9.0, 9.0, 2.0, 0.0, 9.0])
    paths = [[1, 5, 5], [2, 3], [2, 4], [2]]
    got = leaf_log_probabilities(Table(table), [5, 0], paths)
    one, two = math.log(1 / (1 + math.e)), math.log(math.e / (1 + math.e))
    three = math.log(math.e**2 / (1 + math.e**2))
    four = math.log(1 / (1 + math.e**2))
    assert got == pytest.approx([one, two + three, two + four, two])  # a node with one child costs nothing
    assert branching_nodes(paths) == 2
    assert leaf_log_probabilities(Table(table), [5, 0], paths, floor=0.4)[0] == pytest.approx(math.log(0.4))


def test_trie_against_one_forward_per_path_on_a_tiny_model():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.6,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    rng = np.random.default_rng(0)
    paths = [list(map(int, rng.integers(1, 4, 4))) for _ in range(25)]
    prompt = [7, 8, 9]
    got = leaf_log_probabilities(model, prompt, paths)
    expected = []
    for path in paths:
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *path]])).logits[0].double()
        total = 0.0
        for depth, token in enumerate(path):
            rivals = sorted({p[depth] for p in paths if p[:depth] == path[:depth]})
            values = logits[len(prompt) + depth - 1]
            total += float(values[token] - torch.logsumexp(values[rivals], 0))
        expected.append(total)
    assert got == pytest.approx(expected, abs=1e-5)
    leaves = {tuple(path): value for path, value in zip(paths, got, strict=True)}
    assert sum(map(math.exp, leaves.values())) == pytest.approx(1, abs=1e-6)


# -- the rest -----------------------------------------------------------------------------------------


def test_only_the_early_break_of_the_published_pruner_is_removed():
    source = """
def prune(paths, max_context_window):
    for i in range(len(paths)):
        for child in paths[i]:
            if child == 3:
                found = child
                break
        total = i
        if total > max_context_window:
            paths = paths[: i + 1]
            break
    while total > max_context_window:
        if len(paths) == 1:
            break
        total -= 1
"""
    transformer = _WithoutBreak()
    text = ast.unparse(transformer.visit(ast.parse(source)))
    assert transformer.removed == 1
    assert text.count("break") == 2 and "paths[:i + 1]" not in text


def test_store_survives_a_cut_line(tmp_path):
    path = tmp_path / "a" / "b.jsonl"
    first = Store(path)
    first.put("x", {"n": 1})
    first.put("x", {"n": 2})
    first.close()
    path.write_text(path.read_text() + '{"key": "y", "val')
    second = Store(path)
    assert second["x"] == {"n": 2} and "y" not in second
    second.put("z", 3)
    second.close()
    third = Store(path)
    assert third["x"] == {"n": 2} and third["z"] == 3
    third.close()
    fresh = Store(path, fresh=True)
    assert "x" not in fresh
    fresh.close()


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_give_the_size_asked_for(name):
    assert len(GENERATORS[name](50_000)) == pytest.approx(50_000, rel=0.01)


def test_nll_rows_are_paired():
    values = {
        "plain": {"a": {"nll": 2.0, "tokens": 5}, "b": {"nll": 4.0, "tokens": 7}},
        "mine": {"a": {"nll": 1.0, "tokens": 5}, "b": {"nll": 1.0, "tokens": 5}},
    }
    plain, mine = summarise_nll(values, "plain")
    assert plain["nll"] == 3 and plain["tokens"] == 6 and "difference" not in plain
    assert mine["difference"] == -2


def test_a_sample_is_the_beginning_of_a_larger_one(tmp_path):
    folder = tmp_path / "html" / "docs"
    folder.mkdir(parents=True)
    rows = [
        {
            "id": str(i),
            "page_id": "p",
            "question": f"What is number {i}?",
            "question_style": "faq_heading" if i % 2 else "api_entry",
            "key_sentences": ["x"],
            "answer_text": "x",
        }
        for i in range(10)
    ]
    page = "<p>x</p>" + "".join(f"<h2>{row['question']}</h2>" for row in rows)
    for name, lines in (("questions", rows), ("pages", [{"page_id": "p", "html": page}])):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    ids = [q.id for q in questions(tmp_path, "docs", 8, seed=1)]
    assert [q.id for q in questions(tmp_path, "docs", 3, seed=1)] == ids[:3]
    assert questions(tmp_path, "docs", 0, seed=1) == []
    hard = questions(tmp_path, "docs-no-heading", 9, seed=1)
    assert len(hard) == 5 and all(q.question not in q.html for q in hard)
