"""EM, F1, evidence and NLL, against values worked out by hand."""

from dataclasses import replace

import pytest

from tokenprune.quality import (
    answer_nll,
    contains_answer,
    exact_match,
    normalise,
    reading,
    share_kept,
    token_f1,
    visible_text,
)


def test_normalising_as_squad_does():
    assert normalise("The  Cat's\n(big) hat, an owl & a fan.") == "cats big hat owl fan"
    assert normalise("theatre") == "theatre"


def test_exact_match():
    assert exact_match("the Eiffel tower.", ["Big Ben", "Eiffel Tower"]) == 1
    assert exact_match("It is the Eiffel tower", ["Eiffel Tower"]) == 0
    assert exact_match("anything", []) == 0


def test_answer_in_a_sentence():
    assert contains_answer("It is the Eiffel Tower, in Paris.", ["eiffel tower"]) == 1
    assert contains_answer("It is the Eiffel Towers.", ["eiffel tower"]) == 0
    assert contains_answer("It is.", ["the"]) == 0  # nothing is left of this gold answer


def test_token_f1_by_hand():
    # 2 words in common of 4 and 3
    assert token_f1("red big cat sat", ["the cat sat down"]) == pytest.approx(2 * 2 / (4 + 3))
    assert token_f1("red big cat sat", ["no", "red big cat sat"]) == 1
    assert token_f1("", ["x"]) == 0
    assert token_f1("", ["the"]) == 1
    assert token_f1("x", []) == 0


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<p>un<b>believ</b>able</p>", "unbelievable"),
        ("<td>1</td><td>0</td>", "1 0"),
        ("<td0>1</td0><td12>0</td12>", "1 0"),
        ("a <span3>b</span3>, c<br>d", "a b, c d"),
        ("x &lt;b&gt; &amp;amp; y", "x <b> &amp; y"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<!-- <p>no</p> -->A<script>if (a<b) no()</script>\n<style>p{}</style> B", "a b"),
        ("cut <td", "cut <td"),
        ("<p title='a > b'>x</p> <a href=\"?a>b\">y</a>", "x y"),
        ("a<p title=\"it's>b", "a b"),
        ("a<!-- b", "a"),
        ("a<script>b", "a"),
        ("<script>" * 20_000 + "<!--" * 20_000 + "<p x=\"'" * 20_000, ""),
    ],
)
def test_visible_text(html, words):
    assert visible_text(html) == words


def test_share_kept_folds_space_and_case():
    words = reading("<p>The  <code>Cat</code>\nsat.</p><p>It slept.</p>", "html")
    assert share_kept(words, ["the cat sat.", "IT\tslept.", "It ate."]) == pytest.approx(2 / 3)


def test_text_output_is_taken_literally():
    assert reading("a <b> &amp; c", "text") == "a <b> &amp; c"


@pytest.mark.models
def test_nll_against_logits_read_by_hand():
    import torch

    from tokenprune.models.causal_lm import load_causal_lm

    lm = load_causal_lm("smollm2-135m", device="cpu", dtype="float32")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = lm.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = lm.tokenizer("Paris, of course", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        chances = lm.model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    losses = [-float(chances[len(prompt) + i - 1, token]) for i, token in enumerate(answer)]
    assert answer_nll(lm, messages, "Paris, of course") == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert answer_nll(lm, messages, "Paris, of course", 1) == pytest.approx(losses[0], rel=1e-4)
    assert answer_nll(lm, messages, "") is None
    assert answer_nll(replace(lm, max_positions=len(prompt)), messages, "Paris") is None
