"""What gives sentences and passages their scores: plain baselines, and any labeler through one adapter.

A name on the command line is

- ``random``, ``bm25``, ``minilm`` (cosine of the sentence), ``minilm-late`` (late interaction, untrained);
- ``NAME`` or ``NAME@MODEL``: the scorer of a registered method, ``tp.pruner(NAME, model=MODEL)``, which also
  ranks the passages where it is a `tokenprune.score.Ranker`;
- ``MODULE:FUNCTION`` or ``MODULE:FUNCTION@ARGUMENT``: what the function returns (given the argument as a
  string) is called with a question and passages and returns (one float array of sentence scores per passage,
  float array [p] of passage scores).

Scores of one question are compared across its passages. Where a method gives passages no score of their own,
the best sentence of a passage is its score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.relevance import Floats, per_passage
from benchmarks.common.store import code_version
from tokenprune.document import Document
from tokenprune.errors import TokenPruneError
from tokenprune.registry import pruner
from tokenprune.score import score_and_rank
from tokenprune.score.bm25 import BM25
from tokenprune.tokens import get_counter, sanitize
from tokenprune.training.sets import Passage
from tokenprune.units import Units

Passages = Sequence[Passage]
Both = tuple[list[Floats], Floats]
BASELINES = ("random", "bm25", "minilm", "minilm-late")
_LABELS = {
    "random": "random",
    "bm25": "BM25",
    "minilm": "MiniLM cosine",
    "minilm-late": "MiniLM late interaction",
}
_MAX_LENGTH = 256  # tokens read of a sentence or passage
_BATCH = 32


@dataclass(frozen=True)
class Method:
    """Sentences' and passages' scores for a question; ``version`` changes when the scores may."""

    name: str
    sentences: Callable[[str, Passages], list[Floats]]
    ranks: Callable[[str, Passages], Floats]
    version: str

    @property
    def label(self) -> str:
        return _LABELS.get(self.name, self.name)

    @property
    def ours(self) -> bool:
        return self.name not in BASELINES


def available(names: Iterable[str], note: Callable[[str], None]) -> list[Method]:
    """Return the methods that can be had; a note says which cannot, and why."""
    found = []
    for name in names:
        try:
            found.append(method(name))
        except (TokenPruneError, ImportError, AttributeError) as error:
            note(f"skipped {name}: {error}")
    return found


def method(name: str) -> Method:
    if name == "random":
        return Method(name, _random, lambda q, p: _random(q + "|ranks", p, whole=True)[0], "1")
    if name == "bm25":
        return Method(name, _bm25, lambda q, p: _best(_bm25(q, p)), code_version())
    if name == "minilm":
        return Method(name, _cosine, _passage_cosine, code_version())
    if name == "minilm-late":
        return Method(name, _late, lambda q, p: _best(_late(q, p)), "1")
    made, _, argument = name.partition("@")
    if ":" in made:
        module, _, function = made.partition(":")
        both: Callable[[str, Passages], Both] = getattr(import_module(module), function)(
            *([argument] if argument else [])
        )
    else:
        options = {"model": argument} if argument else {}
        both = of_scorer(pruner(made, **options).scorer)
    once = every = lru_cache(maxsize=1)(both)  # sentences and passages come from one pass
    if made == "provence":  # which reads all passages only where their order is asked for
        every = lru_cache(maxsize=1)(of_scorer(pruner(made, reorder=True, **options).scorer))
    return Method(
        name,
        lambda q, p: once(q, tuple(p))[0],
        lambda q, p: every(q, tuple(p))[1],
        f"{code_version()}|{_stamp(argument)}",
    )


def of_scorer(scorer: Any) -> Callable[[str, Passages], Both]:
    """Adapt a scorer of the library: the units of a document are the sentences of a passage."""

    def both(question: str, passages: Passages) -> Both:
        sentences, ranks = score_and_rank(scorer, question, units(passages))
        return sentences, np.nan_to_num(ranks, nan=-np.inf)

    return both


def units(passages: Passages) -> list[Units]:
    """Documents cut exactly into the sentences of the passages."""
    made = []
    for passage in passages:
        text, starts = "", []
        for sentence in passage.sentences:
            starts.append(len(text))
            text += sentence + " "
        document = Document(text, kind="text", title=passage.title or None)
        made.append(Units.from_starts(document, starts, get_counter()))
    return made


def _stamp(argument: str) -> str:
    """Change when files of a model's folder do."""
    path = Path(argument)
    if not argument or not path.exists():
        return ""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    state = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return hashlib.sha1(repr(state).encode(), usedforsecurity=False).hexdigest()[:10]


def _best(scores: list[Floats]) -> Floats:
    return np.array([s.max() if len(s) else -np.inf for s in scores])


def _random(question: str, passages: Passages, whole: bool = False) -> list[Floats]:
    seed = hashlib.sha1(question.encode(), usedforsecurity=False).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    return [rng.random(len(passages))] if whole else [rng.random(len(p.sentences)) for p in passages]


def _bm25(question: str, passages: Passages) -> list[Floats]:
    return BM25().score(question, units(passages))


def _cosine(question: str, passages: Passages) -> list[Floats]:
    return per_passage(_similar(question, [s for p in passages for s in p.sentences]), passages)


def _passage_cosine(question: str, passages: Passages) -> Floats:
    return _similar(question, [f"{p.title}\n{p.text}" if p.title else p.text for p in passages])


def _similar(question: str, texts: Sequence[str]) -> Floats:
    from tokenprune.models.encoder import Encoder

    vectors = Encoder.load("minilm-l6").encode(
        [sanitize(text) for text in (question, *texts)], max_length=_MAX_LENGTH
    )
    return (vectors[1:] @ vectors[0]).astype(np.float64)


@lru_cache(maxsize=1)
def _minilm() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    from tokenprune.models.catalog import resolve_model
    from tokenprune.models.device import loading_alone, pick_device, pick_dtype

    path = resolve_model("minilm-l6")
    with loading_alone():
        model = AutoModel.from_pretrained(path, dtype=pick_dtype(pick_device(None), None))
    return AutoTokenizer.from_pretrained(path), model.eval()


def _late(question: str, passages: Passages) -> list[Floats]:
    """Mean over the query's tokens of the best cosine among a sentence's token states.

    ColBERT's MaxSim (arXiv 2004.12832, section 3.3) on a model not trained for it; sentence by sentence,
    special tokens left out on both sides.
    """
    import torch

    asked = _states([question])[0]
    texts = [s for p in passages for s in p.sentences]
    if not len(asked):
        return [np.zeros(len(p.sentences)) for p in passages]
    scores = np.zeros(len(texts))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for begin in range(0, len(order), _BATCH):
        rows = order[begin : begin + _BATCH]
        for row, states in zip(rows, _states([texts[i] for i in rows]), strict=True):
            if len(states):
                scores[row] = float(torch.mean((asked @ states.T).max(dim=1).values))
    return per_passage(scores, passages)


def _states(texts: Sequence[str]) -> list[Any]:
    """Token states of unit length, one float32 [t, h] per text."""
    import torch

    tokenizer, model = _minilm()
    batch = tokenizer(
        [sanitize(t) for t in texts],
        truncation=True,
        max_length=_MAX_LENGTH,
        padding=True,
        return_tensors="pt",
        return_special_tokens_mask=True,
    )
    own = batch.pop("special_tokens_mask") == 0
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state.float()
    hidden = torch.nn.functional.normalize(hidden, dim=-1)
    return [hidden[i, own[i]] for i in range(len(texts))]
