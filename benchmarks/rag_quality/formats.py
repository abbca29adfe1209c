"""What runs provence-mini fastest here: torch, or ONNX Runtime on the same batches of nq20's lists?"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.common.context import Context
from benchmarks.common.scorers import units
from benchmarks.rag_quality import contexts
from benchmarks.rag_quality.onnx_encoder import OnnxNetwork
from tokenprune.bench.statistics import interval
from tokenprune.models.labeler import Labeler, Labels, Passage
from tokenprune.models.labeler.checkpoint import open_checkpoint
from tokenprune.models.labeler.mini import network_of
from tokenprune.score.labeling import joined

SET = "nq20"
MODEL = "provence-mini"
TORCH, ONNX = "torch float32", "ONNX Runtime float32"


def run(context: Context) -> dict[str, Any]:
    """Time both in turn, list by list; the first round warms up and is not counted."""
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    options, threads = context.options, torch.get_num_threads()
    ours = Labeler.load(MODEL, device="cpu", dtype="float32")
    try:
        other = OnnxNetwork(network_of(open_checkpoint(MODEL)), threads)
    except ImportError as error:
        return {"skipped": f"{error.name} is not installed (the extra `bench` has it)"}
    labelers = {TORCH: ours, ONNX: replace(ours, network=other)}
    items = contexts.items(context.data, SET, options.formats_sample, options.seed)
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in items] for name in labelers}
    labels: dict[str, list[list[Labels]]] = {name: [[] for _ in items] for name in labelers}
    work = [(r, n) for r in range(options.rounds + 1) for n in range(len(items))]
    for turn, n in context.track(work, len(work), "formats"):
        passages = []
        for document in units(items[n].passages):
            text, bounds = joined(document)
            passages.append(Passage(text, document.document.title, tuple(bounds[1:-1].tolist())))
        for name in sorted(labelers, reverse=turn % 2 == 1):
            begin = time.perf_counter()
            labels[name][n] = labelers[name].label(items[n].question, passages)
            if turn:
                seconds[name][n].append(time.perf_counter() - begin)
    pairs = [
        (a, b)
        for mine, theirs in zip(labels[TORCH], labels[ONNX], strict=True)
        for a, b in zip(mine, theirs, strict=True)
    ]
    medians = {name: [float(np.median(s)) for s in own] for name, own in seconds.items()}
    faster = [a / b for a, b in zip(medians[TORCH], medians[ONNX], strict=True)]
    return {
        "model": MODEL,
        "threads": threads,
        "n": len(items),
        "rounds": options.rounds,
        "tokens": float(np.mean([sum(len(label.keep) for label in own) for own in labels[TORCH]])),
        "seconds": {name: float(np.median(own)) for name, own in medians.items()},
        "faster": float(np.median(faster)),
        "faster_ci": interval(faster, statistic=np.median),
        "keep_difference": max(float(np.abs(a.keep - b.keep).max(initial=0)) for a, b in pairs),
        "rank_difference": max(abs(a.rank - b.rank) for a, b in pairs),
    }
