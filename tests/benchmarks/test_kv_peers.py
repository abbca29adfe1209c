"""The comparison with kvpress: a prompt read in two parts is the prompt, and a press sees the first part."""

import contextlib

import pytest

from benchmarks.common.nll import messages
from benchmarks.kv_peers.run import prompt_of, read, turns
from tokenprune.bench.source import Source
from tokenprune.models.causal_lm import load_causal_lm
from tokenprune.quality import answer_nll

CONTEXT = "The lamp of the harbour is kept by Ann Lee. Question: is a word that stands here as well."


@pytest.fixture(scope="module")
def lm():
    return load_causal_lm("smollm2-135m", dtype="float32")


def source(answer):
    return Source("s", "Who keeps the lamp?", (), (answer,))


@pytest.mark.parametrize("answer", ["Ann Lee", "Yes"])
def test_two_parts_are_one_prompt(lm, answer):
    asked = source(answer)
    found = read(lm, CONTEXT, asked, None)
    whole = answer_nll(lm, messages(CONTEXT, asked.question), answer)
    assert found.nll == pytest.approx(whole, abs=1e-4)
    assert found.held == len(prompt_of(lm, CONTEXT, asked.question)[0])


def test_a_press_covers_what_stands_before_the_question(lm):
    seen = []

    @contextlib.contextmanager
    def press(model):
        layer = model.model.layers[0]
        hook = layer.register_forward_hook(lambda *args: seen.append(args[2][0].shape[-2]))
        yield
        hook.remove()

    read(lm, CONTEXT, source("Ann Lee"), press)
    ids, before = prompt_of(lm, CONTEXT, "Who keeps the lamp?")
    assert seen == [before]
    assert lm.tokenizer.decode(ids[before:]).startswith("Question: Who keeps")


def test_each_method_is_the_first_in_turn():
    names = ["a", "b", "c"]
    orders = [order for _, order in turns(names, [None] * 3)]
    assert [order[0] for order in orders] == names
    assert all(sorted(order) == names for order in orders)
