"""A question and its context, read by one method in our engine: seconds, what was kept, answer and its NLL.

The prompt is that of benchmarks/common/nll.py. The clock runs from the documents to the logits of the first
token: pruning of text, the chat template, tokens, selection and prefill all count, for every method.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from benchmarks.common.context import Context
from benchmarks.common.nll import messages
from tokenprune.bench.statistics import interval
from tokenprune.document import Document
from tokenprune.engine.calibration import go_by
from tokenprune.engine.engine import Continuation, Engine, Strategy
from tokenprune.engine.schedule import Marks
from tokenprune.pipeline import Pipeline
from tokenprune.quality import ANSWER_TOKENS, contains_answer, token_f1

Clock = Callable[[], float]
GENERATED = 24  # tokens of an answer


@dataclass(frozen=True)
class Case:
    """What is asked of which documents.

    Attributes:
        id: names it among the cases of a run.
        question: as asked.
        golds: accepted answers; the NLL is of the first.
        documents: in the order of the prompt; a title stands above its text.
        evidence: passages of the documents in which an answer counts as evidence.
    """

    id: str
    question: str
    golds: tuple[str, ...]
    documents: tuple[Document, ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Method:
    """Text-level pruning, token-level selection, or both; neither is the full prompt."""

    strategy: Strategy | None = None
    texts: Pipeline | None = None


@dataclass(frozen=True)
class Prompt:
    """Tokens of a prompt, and where in it the question, sentences and answers stand, as positions.

    Attributes:
        ids: of the whole prompt.
        question: positions.
        units: where sentences of the context start.
        answers: for each place where an answer stands in evidence, its positions.
    """

    ids: list[int]
    question: tuple[int, ...]
    units: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def marks(self) -> Marks:
        return Marks(window=self.question, units=self.units)


def rendered(documents: Sequence[Document]) -> str:
    """Documents under their titles, those left without text left out."""
    parts = [(d.title, d.text.strip()) for d in documents]
    return "\n\n".join(f"{title}\n{text}" if title else text for title, text in parts if text)


def prompt(tokenizer: Any, context: str, case: Case) -> Prompt:
    """Build the prompt of a case around what is left of its context."""
    from tokenprune.segment.sentences import sentence_starts

    text = tokenizer.apply_chat_template(
        messages(context, case.question), add_generation_prompt=True, tokenize=False
    )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = encoded["offset_mapping"]
    at = text.index(context) if context else 0
    asked = text.rindex(case.question)
    # What stands behind the last sentence (the question, the template) is a unit of its own.
    starts = [at + start for start in sentence_starts(context)] + [at + len(context)]
    return Prompt(
        list(encoded["input_ids"]),
        _covering(spans, asked, asked + len(case.question)),
        tuple(sorted({_covering(spans, start, start + 1)[0] for start in starts})),
        tuple(_covering(spans, at + a, at + b) for a, b in places(context, case)),
    )


def places(context: str, case: Case) -> list[tuple[int, int]]:
    """Where answers stand within the evidence that is left of a context, in characters, as whole words."""
    found = []
    for passage in dict.fromkeys(case.evidence):
        for begin in _all(re.escape(passage), context):
            for gold in case.golds:
                for at in _all(rf"(?<!\w){re.escape(gold)}(?!\w)", passage):
                    found.append((begin + at, begin + at + len(gold)))
    return found


def _all(pattern: str, text: str) -> list[int]:
    return [match.start() for match in re.finditer(pattern, text, re.IGNORECASE)]


def _covering(spans: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, ...]:
    return tuple(i for i, (a, b) in enumerate(spans) if a < end and b > start)


def answerable(case: Case) -> bool:
    """Whether an answer stands in the evidence of a case, so that it can be kept."""
    return bool(places(rendered(case.documents), case))


def clock() -> tuple[str, Clock]:
    """CPU time of the process where one thread computes, so that others disturb little; else wall time."""
    import torch

    one = torch.get_num_threads() == 1
    return ("CPU time", time.process_time) if one else ("wall time", time.perf_counter)


def measure(engine: Engine, method: Method, case: Case, now: Clock, nll: bool = True) -> dict[str, Any]:
    """Read a case once.

    Returns:
        ``tokens`` of the prompt that the engine is given; ``kept`` of them; ``seconds``; ``answer_kept``,
        None where no answer stands in the evidence; ``answered``; ``f1``; ``nll``, nats per token of the
        first gold answer; ``text`` of the answer; ``peak_kv_mb``; ``aux_mb`` of hidden states held for
        tokens that may come back; ``work``, the rows each layer keeps.
    """
    began = now()
    documents = case.documents
    if method.texts is not None:
        documents = tuple(method.texts.prune(case.question, documents).documents)
    made = prompt(engine.lm.tokenizer, rendered(documents), case)
    reading = engine.prefill(made.ids, strategy=method.strategy, marks=made.marks)
    first = int(reading.logits.argmax())
    seconds = now() - began
    kept = set(range(len(made.ids)) if reading.kept is None else reading.kept)
    row: dict[str, Any] = {
        "tokens": len(made.ids),
        "kept": len(kept),
        "seconds": seconds,
        "answer_kept": any(kept.issuperset(p) for p in made.answers) if answerable(case) else None,
        "peak_kv_mb": reading.peak_kv_bytes / 1e6,
        "aux_mb": getattr(reading, "aux_bytes", 0) / 1e6,
        "work": [len(layer) for layer in reading.sequence.layers],  # type: ignore[attr-defined]
    }
    if nll:
        row["nll"] = gold_nll(engine, reading, case.golds[0])
    text = answer(engine, reading, first)
    return row | {
        "answered": contains_answer(text, case.golds),
        "f1": token_f1(text, case.golds),
        "text": text,
    }


def gold_nll(engine: Engine, reading: Continuation, gold: str) -> float:
    """Mean negative log-likelihood of a gold answer behind a prompt, which stays as it is; nats per token."""
    import torch

    ids = engine.lm.tokenizer(gold, add_special_tokens=False)["input_ids"][:ANSWER_TOKENS]
    with torch.inference_mode():
        own = copy.deepcopy(reading, {id(engine.decoder): engine.decoder})
        logits, total = own.logits, 0.0
        for number, token in enumerate(ids):
            total -= float(logits.log_softmax(-1)[token])
            if number < len(ids) - 1:
                logits = own.step(token)
    return total / len(ids)


def answer(engine: Engine, reading: Continuation, first: int) -> str:
    """Continue a prompt greedily."""
    tokens = [first]
    while len(tokens) < GENERATED and tokens[-1] not in engine.lm.eos_ids:
        tokens.append(int(reading.step(tokens[-1]).argmax()))
    return str(engine.lm.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def in_turns(
    context: Context,
    engine: Engine,
    methods: Mapping[str, Method],
    cases: Sequence[Case],
    label: str,
) -> dict[str, list[dict[str, Any]]]:
    """Measure every method on every case, the methods next to each other; what is stored is not done again.

    A stored row is that of the same strategy with the same settings, not of the same code: measure with
    ``--fresh`` after the engine was changed.
    """
    _, now = clock()
    store = context.store("reading")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    known_by = crc32(go_by(engine.decoder, None).to_json().encode())  # layers and heads come from there
    about = f"{engine.lm.name}|{engine.decoder.dtype}|{known_by}"
    for method in methods.values():
        if method.texts is not None:  # so that no case pays for loading models
            method.texts.prune("warm up", [Document("One sentence. Another one.", kind="text")])
    for case in context.track(cases, len(cases), label):
        for name, method in methods.items():
            texts = "" if method.texts is None else "+".join(p.name for p in method.texts.pruners)
            key = f"{about}|{case.id}|{texts}|{method.strategy!r}"
            if key not in store:
                store.put(key, measure(engine, method, case, now))
            found[name].append(store[key])
    store.close()
    return found


def compared(rows: Sequence[dict[str, Any]], full: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one method over its cases, beside those of the full prompt on the same cases."""
    import numpy as np

    def mean(name: str) -> float:
        return float(np.mean([row[name] for row in rows]))

    speedups = [f["seconds"] / r["seconds"] for f, r in zip(full, rows, strict=True)]
    found: dict[str, Any] = {
        "n": len(rows),
        "tokens": mean("tokens"),
        "kept": mean("kept"),
        "answerable": sum(row["answer_kept"] is not None for row in rows),
        "answer_kept": sum(bool(row["answer_kept"]) for row in rows),
        "answered": int(sum(row["answered"] for row in rows)),
        "f1": mean("f1"),
        "seconds": float(np.median([row["seconds"] for row in rows])),
        "speedup": float(np.median(speedups)),
        "speedup_range": [min(speedups), max(speedups)],
        "peak_kv_mb": max(row["peak_kv_mb"] for row in rows),
        "aux_mb": max(row["aux_mb"] for row in rows),
    }
    if "nll" in rows[0]:
        gaps = [r["nll"] - f["nll"] for f, r in zip(full, rows, strict=True)]
        found |= {"nll": mean("nll"), "nll_gap": float(np.mean(gaps)), "nll_gap_ci": interval(gaps)}
    return found
