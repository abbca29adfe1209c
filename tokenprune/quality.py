"""How good an answer is, and how much of what it needs is left: EM, F1, NLL of the gold answer, evidence."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from html import unescape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenprune.models.causal_lm import LoadedLM

ANSWER_TOKENS = 100  # of a gold answer; what comes after them is no longer about the context

# Elements inside a line of text: where their tags go, no word is split.
_INLINE = frozenset(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark q s samp small span"
    " strike strong sub sup time tt u var wbr".split()
)
_HIDDEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)|<[!?][^<>]*>", re.S | re.I
)
_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)(?:[^<>\"']++|\"[^\"]*+\"|'[^']*+'|[\"'])*+>")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


# -- answers ------------------------------------------------------------------------------------------


def normalise(answer: str) -> str:
    """Return lower-case words without ASCII punctuation and English articles, as SQuAD v1.1's script does."""
    return " ".join(_ARTICLE.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 when the normalised answer is one of the accepted ones, else 0."""
    return float(normalise(answer) in {normalise(gold) for gold in golds})


def contains_answer(answer: str, golds: Sequence[str]) -> float:
    """1 when the words of an accepted answer stand in a row in it: for models that answer in sentences."""
    words = f" {normalise(answer)} "
    found = (normalise(gold) for gold in golds)
    return float(any(gold and f" {gold} " in words for gold in found))


def token_f1(answer: str, golds: Sequence[str]) -> float:
    """F1 of the multisets of normalised words, against the accepted answer that fits best."""
    return max((_f1(answer, gold) for gold in golds), default=0.0)


def _f1(answer: str, gold: str) -> float:
    mine, wanted = Counter(normalise(answer).split()), Counter(normalise(gold).split())
    if not mine or not wanted:
        return float(mine == wanted)
    common = (mine & wanted).total()
    return 2 * common / (mine.total() + wanted.total())


# -- evidence -----------------------------------------------------------------------------------------


def fold(text: str) -> str:
    """Fold white space and case."""
    return " ".join(text.split()).lower()


def visible_text(html: str) -> str:
    """Return the words of some HTML, folded: inline tags leave no trace, all others part words.

    A number behind a tag's name is ignored (``span3``): the htmlrag package renames elements so.
    """

    def gap(match: re.Match[str]) -> str:
        name = match[1].lower()
        return "" if name in _INLINE or name.rstrip("0123456789") in _INLINE else " "

    return fold(unescape(_TAG.sub(gap, _HIDDEN.sub("", html))))


def reading(output: str, form: str) -> str:
    """Return the folded words of an output: ``html``, or ``text`` where signs mean themselves."""
    return visible_text(output) if form == "html" else fold(output)


def share_kept(words: str, passages: Sequence[str]) -> float:
    """Share of the passages (at least one) that folded ``words`` contain whole: the recall of evidence."""
    return sum(fold(passage) in words for passage in passages) / len(passages)


# -- what a model expects -----------------------------------------------------------------------------


def answer_nll(
    lm: LoadedLM, messages: Sequence[Mapping[str, Any]], answer: str, answer_tokens: int = ANSWER_TOKENS
) -> float | None:
    """Return how little a model expects the gold answer as the assistant's turn; less is better.

    Args:
        lm: a causal LM with a chat template.
        messages: the chat before the answer, contents as text.
        answer: the gold answer.
        answer_tokens: tokens of the answer that count, from its start.

    Returns:
        Mean negative log-likelihood in nats per token; None where prompt and answer exceed the positions of
        the model, or the answer has no token.
    """
    import torch

    prompt = lm.tokenizer.apply_chat_template(
        [dict(message) for message in messages], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    ids = lm.tokenizer(answer, add_special_tokens=False)["input_ids"][:answer_tokens]
    if not ids or len(prompt) + len(ids) > lm.max_positions:
        return None
    tokens = torch.tensor([[*prompt, *ids]], device=lm.device)
    with torch.inference_mode():
        logits = lm.model(tokens, logits_to_keep=len(ids) + 1, use_cache=False).logits[0, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits, tokens[0, len(prompt) :]))
