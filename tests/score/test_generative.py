"""Path probabilities: the trie against brute force, the one-prefill reading against a forward per node."""

from contextlib import nullcontext
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.budget import Budget
from tokenprune.document import Document
from tokenprune.errors import ModelError
from tokenprune.models.causal_lm import LoadedLM
from tokenprune.models.tree_reading import PROMPT_END, read_tree
from tokenprune.pipeline import Pipeline
from tokenprune.registry import pruner
from tokenprune.score.coarse import coarse_blocks
from tokenprune.score.generative import LocalPathModel, PathProbability
from tokenprune.score.outline import outline
from tokenprune.score.path_trie import FLOOR, PathTrie
from tokenprune.score.two_step import TwoStep
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.sentences import Sentences
from tokenprune.tokens import get_counter

paths_strategy = st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=12)


def html(text, max_words=8):
    return HtmlBlocks(max_words).segment(Document(text, kind="html"), get_counter())


def weights_of(prefix, tokens):
    """Some fixed function of a prefix and the tokens that may follow."""
    seed = hash(tuple(prefix)) % 1000
    return np.asarray([np.sin(seed + 7 * t) * 3 for t in tokens])


def brute_force(paths, logits):
    """Log probability of each path, straight from the definition."""
    out = []
    for path in paths:
        total = 0.0
        for n, token in enumerate(path):
            ways = sorted({p[n] for p in paths if len(p) > n and p[:n] == path[:n]})
            if len(ways) > 1:
                w = logits(path[:n], ways)
                p = np.exp(w - w.max()) / np.exp(w - w.max()).sum()
                total += np.log(max(p[ways.index(token)], 1e-9))
        out.append(total)
    return np.asarray(out)


def prefix_of(trie, node):
    path = []
    while node > 0:
        path.append(int(trie.token[node]))
        node = int(trie.parent[node])
    return path[::-1]


@given(paths_strategy)
def test_trie_against_brute_force(paths):
    trie = PathTrie.build(paths)
    got = trie.score(lambda n: weights_of(prefix_of(trie, n), trie.token[trie.children[n]].tolist()))
    assert np.allclose(got, brute_force(paths, weights_of))
    assert [prefix_of(trie, int(leaf)) for leaf in trie.leaf] == paths
    assert (trie.parent[1:] < np.arange(1, len(trie.parent))).all()
    read = set(trie.to_read().tolist())
    for node in trie.choices():
        while node > 0:
            assert node in read
            node = int(trie.parent[node])


def test_floor():
    trie = PathTrie.build([[0], [1]])
    assert trie.score(lambda n: np.array([0.0, -100.0])).tolist() == [0.0, FLOOR]


@lru_cache(maxsize=1)
def tiny():
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    return LoadedLM("tiny", model, None, 64, frozenset())


def next_logits(lm, ids):
    import torch

    with torch.inference_mode():
        return lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].double().numpy()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chunk", [3, 256])
def test_tree_reading_equals_a_forward_per_node(seed, chunk, monkeypatch):
    monkeypatch.setattr("tokenprune.models.tree_reading._CHUNK", chunk)
    rng, lm = np.random.default_rng(seed), tiny()
    prompt = rng.integers(0, 50, 9).tolist()
    token = rng.integers(0, 50, 14)
    parent = np.asarray([int(rng.integers(-1, n)) if n else -1 for n in range(14)])
    asked = {n: rng.integers(0, 50, 4).tolist() for n in (PROMPT_END, 0, 3, 7, 13)}
    check_tree(lm, prompt, token, parent, asked)


def check_tree(lm, prompt, token, parent, asked):
    """Reference: each path read by itself."""
    got = read_tree(lm, prompt, token, parent, asked)
    assert set(got) == set(asked)
    for node, tokens in asked.items():
        path, at = [], node
        while at >= 0:
            path.append(int(token[at]))
            at = int(parent[at])
        assert np.abs(got[node] - next_logits(lm, prompt + path[::-1])[tokens]).max() < 1e-3


# Kind of model -> what its config says beside the sizes; the prompt and the paths go beyond the windows.
WINDOWED = {
    "Mistral": {"sliding_window": 6},
    "Qwen2": {"sliding_window": 6, "use_sliding_window": True, "max_window_layers": 2},
    "Gemma2": {"sliding_window": 6, "head_dim": 8},
    "Gemma3Text": {
        "sliding_window": 13,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


def made(kind, **config):
    torch = pytest.importorskip("torch")
    import transformers

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**sizes | config)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    return LoadedLM(kind, model, None, 64, frozenset())


@pytest.mark.parametrize("chunk", [3, 256])
@pytest.mark.parametrize("kind", WINDOWED)
def test_tree_reading_with_windows_equals_a_forward_per_node(kind, chunk, monkeypatch):
    monkeypatch.setattr("tokenprune.models.tree_reading._CHUNK", chunk)
    rng, lm = np.random.default_rng(1), made(kind, **WINDOWED[kind])
    token = rng.integers(3, 50, 14)
    parent = np.asarray([int(rng.integers(max(-1, n - 3), n)) if n else -1 for n in range(14)])
    for prompt in (rng.integers(3, 50, length).tolist() for length in (3, 12, 30)):
        check_tree(lm, prompt, token, parent, {n: [4, 7, 49] for n in range(PROMPT_END, 14)})


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("Llama4Text", {"attention_chunk_size": 8, "head_dim": 8}, "layers of chunked_attention"),
        ("RecurrentGemma", {}, "layers of a recurrent state"),
        (
            "Mistral",
            {"sliding_window": 6, "layer_types": ["full_attention", *["sliding_attention"] * 2]},
            "without masks of their own",
        ),
    ],
)
def test_models_that_cannot_read_a_tree(kind, config, said):
    with pytest.raises(ModelError, match=f"{said}.*use a model of full"):
        read_tree(made(kind, **config), [3, 4, 5], np.array([6, 7]), np.array([-1, -1]), {1: [1]})


def test_too_long():
    with pytest.raises(ModelError, match="reads 1 to 64 tokens"):
        read_tree(tiny(), [1] * 64, np.array([1]), np.array([-1]), {0: [1]})
    with pytest.raises(ModelError, match="reads 1 to 64 tokens"):
        read_tree(tiny(), [], np.array([], dtype=int), np.array([], dtype=int), {})


def test_outline():
    page = "<h1>Top</h1><p>one</p><p>two <code>c</code></p><ul><li>x y</li><li>z w</li></ul>tail<table><tr><td>a<td>b</tr></table>"
    units = html(page, 2)
    seen = outline([units], [np.ones(len(units), dtype=bool)])
    assert seen.paths == [
        ["<h1>", "<p1>", "<p2>", "<ul><li1>", "<ul><li2>", "<text>", "<table>"]
    ]  # a table of two words is one block
    assert "<p2>two <code>c</code>" in seen.text and "<ul><li1>x y<li2>z w</ul><text>tail" in seen.text
    keep = np.zeros(len(units), dtype=bool)
    keep[[1, 4]] = True
    part = outline([units], [keep])
    assert part.paths == [["<p>", "<ul><li>"]] and "two" not in part.text


def test_outline_of_several_documents():
    one, two = html("<p>a b</p><p>c d</p>", 2), Sentences().segment(Document("One. Two."), get_counter())
    keep = [np.array([False, True]), np.array([True, True])]
    seen = outline([one, two, html("<p>x</p>")], [*keep, np.array([False])])
    assert seen.paths == [["<html1><p>"], ["<html2><text1>", "<html2><text2>"], []]


@given(st.lists(st.sampled_from(["<p>a b</p>", "<ul><li>c d<li>e f</ul>", "g h", "<div><p>i</p>j k</div>",
                                 "<table><tr><td>l m<td>n</table>"]), min_size=1, max_size=6), st.data())  # fmt: skip
def test_paths_differ_and_stand_in_the_page(parts, data):
    units = html("".join(parts), data.draw(st.integers(1, 6)))
    keep = np.asarray(
        data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units))), dtype=bool
    )
    seen = outline([units], [keep])
    assert len(seen.paths[0]) == keep.sum() == len(set(seen.paths[0]))
    for path in seen.paths[0]:
        for step in path.split(">")[:-1]:
            assert f"{step}>" in seen.text


def test_coarse_blocks():
    page = (
        "<section><h2>A</h2><ul><li>one two</li><li>three four</li></ul><p>five six</p></section><p>seven</p>"
    )
    units = html(page, 2)
    assert units.texts == ["A", "one two", "three four", "five six", "seven"]

    def groups(max_words):
        block = coarse_blocks(units, max_words).tolist()
        return [[u for u, b in enumerate(block) if b == g] for g in dict.fromkeys(block)]

    assert groups(100) == [[0, 1, 2, 3], [4]]
    assert groups(4) == [[0], [1, 2], [3], [4]]
    assert groups(1) == [[0], [1], [2], [3], [4]]


class Fixed:
    def __init__(self, scores):
        self.scores = scores

    def score(self, query, documents):
        return [np.asarray(s, dtype=float) for s in self.scores]


class Reads:
    """A second step that remembers what it was shown, and prefers what comes last."""

    def score_best(self, query, documents, choose, max_tokens):
        self.keeps = choose(max_tokens)
        return self.keeps, [-np.arange(int(k.sum()), 0, -1.0) for k in self.keeps]


def test_two_step():
    units = html("<p>one two</p><p>three four</p><p>five six</p><p>seven eight</p>", 2)
    second = Reads()
    scorer = TwoStep(Fixed([[0.9, 0.1, 0.5, 0.4]]), second, first_budget=int(units.cost[:2].sum()), blend=1.0)
    got = scorer.score("q", [units])[0]
    assert second.keeps[0].tolist() == [True, False, True, False]
    assert got[[0, 2]].tolist() == [0.5, 0.9]  # the order of the second step on the scale of the first
    assert max(got[[1, 3]]) < 0.5 and got[3] > got[1]
    half = TwoStep(Fixed([[0.9, 0.1, 0.5, 0.4]]), second, scorer.first_budget, blend=0.25).score(
        "q", [units]
    )[0]
    assert np.allclose(half[[0, 2]], [0.75 * 0.9 + 0.25 * 0.5, 0.75 * 0.5 + 0.25 * 0.9])
    assert scorer.within(4000).first_budget == 8000
    assert TwoStep(Fixed([[]]), second).score("q", [html("")])[0].tolist() == []


class Writes:
    """A path model that remembers what it was asked; a token is a byte."""

    def __init__(self, positions=None):
        self.positions, self.prompts = positions, 0

    def opened(self):
        return nullcontext(self)

    def room(self):
        return self.positions

    def encode(self, text):
        return list(text.encode())

    def encode_many(self, texts):
        return [self.encode(text) for text in texts]

    def prompt(self, text):
        self.asked = text
        self.prompts += 1
        return list(text.encode())

    def score(self, prompt, trie):
        assert self.positions is None or len(prompt) + int(trie.depth.max()) <= self.positions
        self.read = len(prompt)
        return -np.arange(len(trie.leaf), dtype=float)


@pytest.mark.parametrize("template", ["{page}|{question}", "{question}|{page}"])
def test_markers_of_the_template_in_question_and_page(template):
    model = Writes()
    units = html("<p>a {question} b</p><p>{page}</p>")
    PathProbability(model, template).score("What is {page} or {question}?", [units])
    page = outline([units], [np.ones(2, dtype=bool)]).text
    assert model.asked == "|".join(
        page if part == "{page}" else "What is {page} or {question}?" for part in template.split("|")
    )


SECTIONS = "<h1>T</h1>" + "".join(
    f"<h2>Part {i}</h2><p>Paragraph {i} tells of river {7 * i} and a boat.</p>" for i in range(120)
)


def test_too_large_a_page_is_read_in_part():
    """The best blocks stay, most of the room is used, and few prompts are encoded."""
    units = html(SECTIONS)
    model = Writes(4000)
    worth = np.arange(len(units), 0, -1.0)
    scorer = TwoStep(Fixed([worth]), PathProbability(model), 10**6, blend=0.0)
    scorer.score("Which river?", [units])
    assert model.prompts <= 8 and 3000 < model.read <= 4000
    assert "river 7 " in model.asked and "river 700" not in model.asked


@given(st.integers(1, 3000), st.integers(0, 4000), st.integers(1, 10**5))
def test_what_is_read_fits_any_model(positions, length, budget):
    units = [html("<p>é one</p>" * 9), html("<h2>Part</h2><ul><li>a b c<li>d e f</ul>" * 20, 4)]
    question = ("wörd " * (length // 5 + 1))[:length]
    worth = [np.linspace(0, 1, len(u)) for u in units]
    scores = TwoStep(Fixed(worth), PathProbability(Writes(positions)), budget).score(question, units)
    assert [len(s) for s in scores] == [len(u) for u in units]
    assert all(np.isfinite(s).all() for s in scores)


def test_a_long_question_leaves_room_for_the_page():
    model = Writes(3000)
    units = html(SECTIONS[:600])
    TwoStep(Fixed([np.ones(len(units))]), PathProbability(model)).score("river " * 9000, [units])
    assert 1000 < model.asked.count("river ") * 6 < 1600 and "Paragraph 5 " in model.asked


@pytest.mark.models
def test_large_budgets_and_long_questions_are_read_as_far_as_the_model_can(monkeypatch):
    """The model's own tokens and template; it is not run."""
    seen = []

    def positions(lm, prompt, trie):
        seen.append((len(prompt) + int(trie.depth.max()), lm.max_positions))
        return np.zeros(len(trie.leaf))

    monkeypatch.setattr("tokenprune.score.generative.score_trie", positions)
    page = "<h1>T</h1>" + "".join(
        f"<h2>Part {i}</h2><p>Paragraph {i} tells a story about river {i * 7}, a boat, and the people who live "
        f"near the water in year {1000 + i}.</p>" for i in range(500)
    )  # fmt: skip
    method = Pipeline([pruner("htmlrag", first="bm25")])
    method.prune("Which river is in the year 1200?", [page], Budget(max_tokens=5000))
    method.prune("river " * 9000, ["<p>A river.</p><p>A boat that is here.</p>" * 3], Budget(max_tokens=20))
    assert len(seen) == 2 and all(size <= room for size, room in seen)
    assert seen[0][0] > 7000


@pytest.mark.models
def test_local_model_against_a_forward_per_node():
    """SmolLM2 in float32: the scores of the whole page equal those of the published way of reading."""
    model = LocalPathModel(dtype="float32")
    units = html(
        "<h2>Cats</h2><p>Cats sleep a lot.</p><p>Dogs bark.</p><ul><li>mice</li><li>rats</li></ul>", 3
    )
    keep = np.ones(len(units), dtype=bool)
    scorer = PathProbability(model, template="{page}\n{question}")
    got = scorer.score("What do cats do?", [units])[0]
    seen = outline([units], [keep])
    prompt = model.prompt(f"{seen.text}\nWhat do cats do?")
    lm = model._lm()
    paths = [model.encode(p) for p in seen.paths[0]]
    reference = brute_force(paths, lambda prefix, ways: next_logits(lm, prompt + list(prefix))[list(ways)])
    assert np.abs(got - reference).max() < 1e-3
    assert got.max() <= 0 and len(set(got.round(6))) > 1
