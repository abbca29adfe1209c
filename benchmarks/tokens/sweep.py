"""Which layer, pooling, unit and number of tokens suit the question-window selection: nq20, validation fold.

Every layer's scores come from one pass over the whole prompt; what a choice keeps is then read and asked for
the gold answer's NLL. `quality` reports on the test fold what was chosen here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common.context import Context
from benchmarks.common.reading import Case, Prompt, gold_nll, prompt, rendered
from benchmarks.common.token_methods import MODEL
from benchmarks.tokens.cases import cases
from tokenprune.bench.statistics import interval
from tokenprune.engine.choice import best_units
from tokenprune.engine.decoder import go_on
from tokenprune.engine.engine import Continuation, Engine
from tokenprune.engine.methods.gemfilter import QuestionGemFilter, Selected, read_selected
from tokenprune.engine.reading import SequenceKV, read, read_prompt
from tokenprune.engine.rules import AttentionProbability, DotProduct, Pooled, ScoreRule
from tokenprune.engine.schedule import LayerView, best

if TYPE_CHECKING:
    import torch

SET = "nq20"
FULL = "full"
DEPTHS = (10, 12, 14, 15, 16, 17, 18, 20)
KERNELS = (13, 31, 63)
LAYER, KERNEL = 15, 31  # where one thing at a time is varied
DEFAULT = QuestionGemFilter(LAYER, kernel=KERNEL)


@dataclass(frozen=True)
class Choice:
    """What is varied: a layer, a rule and how the best tokens are taken."""

    layer: int = LAYER
    softmax: bool = True
    kernel: int = KERNEL
    keep: int = DEFAULT.keep
    snap: bool = False
    pins: bool = True

    @property
    def name(self) -> str:
        parts = [f"r {self.layer}", "" if self.softmax else "raw", f"pool {self.kernel}", f"k {self.keep}"]
        parts += ["sentences" if self.snap else "", "" if self.pins else "nothing pinned"]
        return ", ".join(part for part in parts if part)

    @property
    def rule(self) -> ScoreRule:
        return Pooled(AttentionProbability(peak=True) if self.softmax else DotProduct(), self.kernel)


def choices(keeps: Sequence[int]) -> Iterator[Choice]:
    """Layers with poolings, then one thing at a time at the default."""
    yield from (Choice(layer, kernel=kernel) for layer in DEPTHS for kernel in KERNELS)
    yield Choice(softmax=False)
    yield Choice(pins=False)
    yield from (Choice(keep=keep, snap=snap) for keep in keeps for snap in (False, True))


@dataclass
class Look:
    """A reducer that drops nothing and notes the question's queries and all keys of the layers varied."""

    seen: dict[int, LayerView] = field(default_factory=dict)

    def acts_after(self, layer: int, depth: int) -> bool:
        return layer in DEPTHS

    def reduce(self, view: LayerView) -> None:
        self.seen[view.layer] = view


def selected(view: LayerView, made: Prompt, choice: Choice) -> Selected:
    """Choose as `QuestionGemFilter` does, from a layer that ran."""

    size = len(made.ids)
    if size <= choice.keep:
        return Selected(tuple(range(size)))
    scores: torch.Tensor = choice.rule.score(view.query[:, view.window], view.keys[:, -size:], view.scale)
    pinned = view.pinned.clone()
    if choice.pins:
        pinned[: DEFAULT.head] = True
        pinned[size - DEFAULT.tail :] = True
    if choice.snap:
        return Selected(tuple(best_units(scores, choice.keep, pinned, made.units).tolist()))
    return Selected(tuple(best(scores, choice.keep, pinned).tolist()))


def run(context: Context) -> dict[str, Any]:
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    options = context.options
    engine = Engine(MODEL, dtype=options.dtype)
    store = context.store("sweep")
    wanted = {choice.name: choice for choice in choices(options.keeps)}
    sample = cases(context.data, SET, options.sweep_sample, options.seed, "validation")
    found: dict[str, list[dict[str, Any]]] = {}
    for case in context.track(sample, len(sample), "sweep"):
        for name, row in _case(engine, store, case, wanted).items():
            found.setdefault(name, []).append(row)
    store.close()
    rows = [_summary(name, own, found[FULL]) for name, own in found.items()]
    return {"model": MODEL, "dtype": options.dtype, "set": f"{SET}, validation fold", "rows": rows}


def _case(engine: Engine, store: Any, case: Case, wanted: dict[str, Choice]) -> dict[str, dict[str, Any]]:
    keys = {name: f"{engine.decoder.dtype}|{case.id}|{name}" for name in (FULL, *wanted)}
    if any(key not in store for key in keys.values()):
        made = prompt(engine.lm.tokenizer, rendered(case.documents), case)
        look = Look()
        whole = SequenceKV.empty(engine.decoder)
        if keys[FULL] not in store:
            store.put(keys[FULL], _row(engine, read_prompt(engine.decoder, made.ids), made, case))
        read(engine.decoder, [whole], [made.ids], depth=max(DEPTHS) + 2, reducer=look, marks=[made.marks])
        for name, choice in wanted.items():
            if keys[name] not in store:
                chosen = selected(look.seen[choice.layer], made, choice)
                reading = read_selected(engine.decoder, made.ids, chosen, go_on)
                store.put(keys[name], _row(engine, reading, made, case))
    return {name: store[key] for name, key in keys.items()}


def _row(engine: Engine, reading: Continuation, made: Prompt, case: Case) -> dict[str, Any]:
    kept = set(range(len(made.ids)) if reading.kept is None else reading.kept)
    whole = any(kept.issuperset(place) for place in made.answers) if made.answers else None
    return {"kept": len(kept), "answer_kept": whole, "nll": gold_nll(engine, reading, case.golds[0])}


def _summary(name: str, rows: list[dict[str, Any]], full: list[dict[str, Any]]) -> dict[str, Any]:
    gaps = [row["nll"] - whole["nll"] for row, whole in zip(rows, full, strict=True)]
    return {
        "choice": name,
        "n": len(rows),
        "kept": float(np.mean([row["kept"] for row in rows])),
        "answerable": sum(row["answer_kept"] is not None for row in rows),
        "answer_kept": sum(bool(row["answer_kept"]) for row in rows),
        "nll": float(np.mean([row["nll"] for row in rows])),
        "nll_gap": float(np.mean(gaps)),
        "nll_gap_ci": interval(gaps),
    }
