"""Prompts of models with a chat template and without one."""

import pytest

from tokenprune.score.question_prompt import QuestionPrompt, user_message

pytestmark = pytest.mark.models

BOS, EOS = 0, 2  # of the tokenizer's vocabulary
CONTEXT, QUESTION = "A bridge. Its code is 58490. 🤖", "Which code?"


def base_tokenizer(around):
    """A tokenizer as base models have it: no chat template, and special tokens ``around`` a text."""
    from tokenizers.processors import TemplateProcessing

    from tokenprune.models.causal_lm import load_tokenizer

    tokenizer = load_tokenizer("smollm2-135m")
    tokenizer.chat_template = None
    names = {"<bos>": tokenizer.convert_ids_to_tokens(BOS), "<eos>": tokenizer.convert_ids_to_tokens(EOS)}
    for short, name in names.items():
        around = around.replace(short, name)
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in names.values()]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=around, special_tokens=special)
    return tokenizer


@pytest.mark.parametrize(
    ("around", "before"),
    [("$A", []), ("<bos> $A", [BOS]), ("<bos> $A <eos>", [BOS]), ("$A <eos>", [])],
)
def test_plain_text_begins_as_the_tokenizer_has_it(around, before):
    """With the BOS, where there is one, and no EOS: the answer comes behind it."""
    tokenizer = base_tokenizer(around)
    prompt = QuestionPrompt.write(tokenizer, CONTEXT, QUESTION)
    plain = tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
    assert prompt.ids == before + plain and len(prompt.spans) == len(prompt.ids)
    asked = tokenizer.decode([prompt.ids[i] for i in prompt.window])
    assert asked.strip() == QUESTION
    said = tokenizer.decode([prompt.ids[i] for i in prompt.tokens_of(0, len(CONTEXT))])
    assert CONTEXT in said and len(said) < len(CONTEXT) + 4
    assert user_message(tokenizer, "Words.")[1]["input_ids"] == before + tokenizer.encode(
        "Words.\n", add_special_tokens=False
    )


def test_the_path_model_reads_the_same(monkeypatch):
    from types import SimpleNamespace

    from tokenprune.score.generative import LocalPathModel

    tokenizer = base_tokenizer("<bos> $A <eos>")
    monkeypatch.setattr(LocalPathModel, "_lm", lambda self: SimpleNamespace(tokenizer=tokenizer))
    expected = [BOS, *tokenizer.encode("Words.\n", add_special_tokens=False)]
    assert LocalPathModel().prompt("Words.") == expected


def test_a_template_writes_its_own_special_tokens():
    from tokenprune.models.causal_lm import load_tokenizer

    tokenizer = base_tokenizer("<bos> $A <eos>")
    tokenizer.chat_template = load_tokenizer("smollm2-135m").chat_template
    text, encoded = user_message(tokenizer, "Words.")
    assert encoded["input_ids"] == tokenizer.encode(text, add_special_tokens=False)
    assert text.count("Words.") == 1 and text.endswith("assistant\n")
