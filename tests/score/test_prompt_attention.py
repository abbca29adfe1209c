import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.errors import ConfigError, ModelError
from tokenprune.score import prompt_attention
from tokenprune.score.prompt_attention import EarlyLayer, LayersReached, LookAhead, PromptAttention
from tokenprune.segment.sentences import Sentences
from tokenprune.segment.tokens import Tokens
from tokenprune.segment.words import inside_words
from tokenprune.tokens import get_counter

pytestmark = pytest.mark.models

QUERY = "What is the secret code of the bridge?"
NEEDLE = "The secret code of the bridge is 58490."


def hay(copies=1):
    fillers = (
        "People who live near the ferry say that mornings are quiet there.",
        "The museum was painted last year and read about by few.",
        "On most days the bakery closes early, and visitors come before noon.",
        "Nobody knows who planned the theatre, although the papers were looked through.",
    )
    lines = [f"In year {1900 + n}: {text}" for n in range(copies) for text in fillers]
    lines.insert(len(lines) * 2 // 3, NEEDLE)
    return " ".join(lines)


def units(text, segmenter=None):
    return (segmenter or Sentences()).segment(tp.Document(text), get_counter())


@given(st.text(max_size=60))
def test_token_units_are_the_counters_tokens_or_words_of_them(text):
    found = units(text, Tokens())
    assert "".join(found.texts) == text
    starts = np.unique(get_counter().starts(text))
    starts = starts[~inside_words(text, starts)]
    assert len(found) == len(starts) + bool(len(text) and (not len(starts) or starts[0] > 0))
    assert int(found.cost.sum()) == get_counter().count(text)


@pytest.mark.parametrize(
    "reader",
    [
        EarlyLayer(),
        EarlyLayer(6, question=False, softmax=False, kernel=5),
        LayersReached(question=True),
        LayersReached(question=True, share=0.2),
        LookAhead(2, 5, 8),
    ],
)
def test_what_units_are_worth_by_their_tokens(reader):
    """Against the reader's scores and offsets of a prompt written down here, token by token."""
    texts = [hay(), "Another document. It has two sentences."]
    documents = [units(text) for text in texts]
    got = PromptAttention(reader).score(QUERY, documents)
    lm, decoder = prompt_attention._load("smollm2-135m", None)
    context = "".join(text + "\n\n" for text in texts)
    prompt = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": f"Context:\n{context}\n\nQuestion: {QUERY}"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    encoded = lm.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    asked = prompt.index(QUERY)
    window = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < asked + len(QUERY) and b > asked]
    assert lm.tokenizer.decode([encoded["input_ids"][i] for i in window]).strip() == QUERY
    from tokenprune.engine.schedule import Marks

    scores = reader.scores(decoder, encoded["input_ids"], Marks(tuple(window)), lm.eos_ids)
    for document, text, found in zip(documents, texts, got, strict=True):
        at = prompt.index(text)
        assert len(found) == len(document)
        for piece, score in zip(document.texts, found, strict=True):
            end = at + len(piece) + (2 if piece is document.texts[-1] else 0)
            inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > at]
            of_unit = [scores[i] for i in inside]
            mean = sum(of_unit) / len(of_unit)
            by_mean = isinstance(reader, EarlyLayer) or getattr(reader, "share", None)
            assert score == pytest.approx((max(of_unit) + mean) / 2 if by_mean else max(of_unit), abs=1e-12)
            at += len(piece)


@pytest.mark.parametrize(
    "reader", [EarlyLayer(), LayersReached(question=True, share=0.2), LookAhead(2, 5, 8)]
)
def test_scores_do_not_depend_on_the_default_dtype(reader):
    """While transformers loads a model, it is another one in all threads."""
    torch = pytest.importorskip("torch")
    (expected,) = PromptAttention(reader).score(QUERY, [units(hay())])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        (scores,) = PromptAttention(reader).score(QUERY, [units(hay())])
    finally:
        torch.set_default_dtype(before)
    assert scores.tolist() == expected.tolist()


def test_layers_reached_are_shares_of_the_depth():
    scores = PromptAttention(LayersReached()).score(QUERY, [units(hay(2), Tokens())])[0]
    # Dropped behind layer 8, 17 or 26 of 30, or never.
    assert set(np.round(scores * 30).tolist()) <= {9, 18, 27, 30}
    assert np.abs(scores * 30 - np.round(scores * 30)).max() < 1e-4
    assert 0.2 < (scores >= 1).mean() < 0.4


@pytest.mark.parametrize("unit", ["token", "sentence"])
@pytest.mark.parametrize("asked", [tp.Budget(keep_ratio=0.1), None])
def test_lazyllm_under_a_budget_is_not_the_beginning(unit, asked, check):
    """The answer stands behind two thirds; a ratio of the method's own is a budget, too."""
    document = tp.Document(hay(6))
    method = tp.pruner("lazyllm", unit=unit, **({} if asked else {"keep_ratio": 0.1}))
    result = tp.Pipeline([method]).prune(QUERY, [document], asked)
    check(result, [document], int(0.1 * result.tokens_before))
    assert "code of the bridge is 58490" in result.documents[0].text


def test_what_is_read_on_follows_a_budget(monkeypatch):
    """No reader is asked for fewer tokens than will be kept, of the prompt with all around the documents."""
    read = []

    def scores(self, decoder, ids, *_):
        read.append((self.narrow, len(ids)))
        return np.ones(len(ids))

    monkeypatch.setattr(EarlyLayer, "scores", scores)
    document = units(hay(4))
    total = int(document.cost.sum())
    for tokens in (0, total // 4, total, 2 * total):
        PromptAttention(EarlyLayer(narrow=0.2)).within(tokens).score(QUERY, [document])
    shares = [share for share, _ in read]
    rest = 1 - total / read[0][1]
    assert shares[0] == 0.2 and shares[2:] == [1.0, 1.0]
    assert 0.25 < shares[1] == pytest.approx(rest + 0.25 * (1 - rest), abs=0.03)
    PromptAttention(EarlyLayer(narrow=0.2)).score(QUERY, [document])
    assert read[-1][0] == 0.2


def test_chunks_of_the_draft_have_one_score():
    from tokenprune.engine.schedule import Marks

    lm, decoder = prompt_attention._load("smollm2-135m", None)
    scores = LookAhead(1, 5, 16).scores(decoder, lm.tokenizer(hay())["input_ids"], Marks())
    runs = np.diff(np.flatnonzero(np.concatenate(([True], np.diff(scores) != 0, [True]))))
    assert len(runs) > 3 and runs[:-1].tolist() == [16] * (len(runs) - 1)


def test_a_look_ahead_ends_where_the_answer_does(monkeypatch):
    """What the model would go on with behind its end says nothing of the answer."""
    lm, decoder = prompt_attention._load("smollm2-135m", None)
    document = units(hay())
    (one,) = PromptAttention(LookAhead(1, 5, 8)).score(QUERY, [document])
    (more,) = PromptAttention(LookAhead(4, 5, 8)).score(QUERY, [document])
    assert not np.array_equal(one, more)
    # A model whose every token ends an answer looks ahead for one.
    ending = replace(lm, eos_ids=frozenset(range(decoder.vocabulary)))
    monkeypatch.setattr(prompt_attention, "_load", lambda *_: (ending, decoder))
    (ended,) = PromptAttention(LookAhead(4, 5, 8)).score(QUERY, [document])
    assert np.array_equal(ended, one)


@pytest.mark.parametrize(
    ("unit", "options"), [("token", {}), ("sentence", {}), ("sentence", {"near": 256, "narrow": 0.5})]
)
def test_gemfilter_q_keeps_the_answer(unit, options, check):
    document = tp.Document(hay(4))
    for budget in (None, tp.Budget(100)):
        result = tp.Pipeline([tp.pruner("gemfilter-q", unit=unit, **options)]).prune(
            QUERY, [document], budget
        )
        check(result, [document], None if budget is None else 100)
        assert "code of the bridge is 58490" in result.documents[0].text
        assert result.tokens_after < 0.5 * result.tokens_before
        spans = [(u.start, u.end) for u in result.receipts[0].units if u.kept]
        assert "".join(document.text[a:b] for a, b in spans) == result.documents[0].text


@pytest.mark.parametrize("method", ["gemfilter", "lazyllm", "specprefill"])
def test_the_published_ones_keep_what_they_say(method, check):
    document = tp.Document(hay(2))
    result = tp.Pipeline([method]).prune(QUERY, [document], tp.Budget(60))
    check(result, [document], 60)
    assert result.tokens_after > 30
    free = tp.Pipeline([method]).prune(QUERY, [document])
    assert 0.15 < free.tokens_after / free.tokens_before < 0.6


def test_longer_than_the_model_is_read_in_parts(monkeypatch):
    lm, decoder = prompt_attention._load("smollm2-135m", None)
    monkeypatch.setattr(prompt_attention, "_load", lambda *_: (replace(lm, max_positions=120), decoder))
    documents = [units(hay(4)), units(hay(1))]
    scores = PromptAttention(EarlyLayer()).score(QUERY, documents)
    assert [len(s) for s in scores] == [len(u) for u in documents]
    # Prompts without the answer spread the same attention over other units: among the best is what holds.
    for found, document in zip(scores, documents, strict=True):
        needle = [text.strip() for text in document.texts].index(NEEDLE)
        assert found[needle] >= np.sort(found)[-3]
    (note,) = PromptAttention(EarlyLayer()).score_and_note(QUERY, documents)[1]
    windows = int(re.fullmatch(r"longer than the 120 positions of .*: read in (\d+) windows .*", note)[1])
    assert windows > 3
    assert PromptAttention(EarlyLayer()).score_and_note(QUERY, [units(hay(1).split(".")[0])])[1] == ()
    assert PromptAttention(EarlyLayer()).score_and_note(QUERY, [units("")])[1] == ()
    one = PromptAttention(EarlyLayer()).score(QUERY, [units("word " * 180)])
    assert len(one[0]) == 1 and one[0][0] > 0
    (note,) = PromptAttention(EarlyLayer()).score_and_note(QUERY, [units("word " * 180)])[1]
    assert note.startswith("a unit exceeds the 120 positions of ")
    result = tp.Pipeline([tp.pruner("gemfilter-q")]).prune(QUERY, [hay(4), hay(1)], tp.Budget(60))
    assert all("windows" in receipt.notes[0] for receipt in result.receipts)
    whole = tp.Pipeline([tp.pruner("gemfilter-q")]).prune(QUERY, ["One. Two is more. Three."], tp.Budget(4))
    assert whole.receipts[0].notes == ()
    # A look-ahead needs room behind the prompt.
    read = []
    monkeypatch.setattr(
        LookAhead, "scores", lambda self, d, ids, *_: read.append(len(ids)) or np.ones(len(ids))
    )
    PromptAttention(LookAhead(8)).score(QUERY, documents)
    assert 100 < max(read) <= 112
    with pytest.raises(ModelError, match="question alone"):
        PromptAttention(EarlyLayer()).score("word " * 200, documents)


def test_the_prompt_is_cut_once(monkeypatch):
    """Scores and what is said of them come from the same windows."""
    lm, decoder = prompt_attention._load("smollm2-135m", None)
    monkeypatch.setattr(prompt_attention, "_load", lambda *_: (replace(lm, max_positions=120), decoder))
    written, write = [], prompt_attention.QuestionPrompt.write
    monkeypatch.setattr(
        prompt_attention.QuestionPrompt, "write", lambda *given: written.append(given[1]) or write(*given)
    )
    result = tp.Pipeline([tp.pruner("gemfilter-q")]).prune(QUERY, [hay(4)], tp.Budget(60))
    assert "windows" in result.receipts[0].notes[0]
    assert len(written) > 3 and len(set(written)) == len(written)


def test_odd_input():
    scorer = PromptAttention(EarlyLayer(2))
    assert [s.tolist() for s in scorer.score(QUERY, [units(""), units("")])] == [[], []]
    got = scorer.score("\ud800 ?", [units(""), units("One.\x00 \udfff Two. 🤖"), units("   ")])
    assert [len(s) for s in got] == [0, len(units("One.\x00 \udfff Two. 🤖")), len(units("   "))]
    assert all(np.isfinite(s).all() for s in got)
    assert np.isfinite(scorer.score("", [units("One. Two.")])[0]).all()
    with pytest.raises(ConfigError, match=r"1\.\.29"):
        PromptAttention(EarlyLayer(30)).score(QUERY, [units("One.")])
    with pytest.raises(ConfigError, match="keep_ratio"):
        tp.pruner("gemfilter-q", keep_ratio=0.5, top_k=3)
    with pytest.raises(ConfigError, match="unit"):
        tp.pruner("gemfilter-q", unit="word")
    with pytest.raises(ConfigError, match=r"narrow is a share in \(0, 1\], not 1.5"):
        tp.pruner("gemfilter-q", narrow=1.5)


def test_nothing_to_score_needs_no_model():
    scorer = PromptAttention(EarlyLayer(), "a model that nobody has")
    assert [len(scores) for scores in scorer.score("why?", [])] == []


def test_a_model_that_changes_on_disk_is_read_anew(tmp_path):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = prompt_attention._load("smollm2-135m", None)[0].tokenizer
    tokenizer.save_pretrained(tmp_path)
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.5, **size)
    documents = [units("One line. Another line of more words. A third.")]
    scorer = PromptAttention(EarlyLayer(2), str(tmp_path), "float32")
    found = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(tmp_path)
        found.append(scorer.score(QUERY, documents)[0])
        again = prompt_attention._load(str(tmp_path), "float32")[1]
        assert prompt_attention._load(str(tmp_path), "float32")[1] is again
    assert np.array_equal(found[0], found[2]) and not np.allclose(found[0], found[1])
