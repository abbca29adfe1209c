"""(d) The generative step: a fast scorer of block paths against the naive reference, values and time.

A scorer is any function of (model, prompt token ids, paths as token ids) that returns a log probability per
path; name it with ``--trie-scorer package.module:function`` (may be given several times).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, cast

from benchmarks.html import data, peers
from benchmarks.html.context import Context
from benchmarks.html.naive_trie import branching_nodes, leaf_log_probabilities
from tokenprune.quality import visible_text

MODEL = "smollm2-135m"
MAX_WORDS = 128  # of a block in the second step (HtmlRAG, arXiv 2411.02959)
FLOOR = 1e-9
Scorer = Callable[[Any, Sequence[int], Sequence[Sequence[int]]], Sequence[float]]


def scorer(name: str) -> Scorer:
    """Load a scorer by ``module:attribute``; the attribute may be dotted."""
    module, _, attribute = name.partition(":")
    found: Any = import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def ours(model: Any, prompt: Sequence[int], paths: Sequence[Sequence[int]]) -> Sequence[float]:
    """Score paths with `tokenprune.score.generative`: one prefill, the trie behind its KV cache."""
    from tokenprune.models.causal_lm import LoadedLM
    from tokenprune.score.generative import score_trie
    from tokenprune.score.path_trie import PathTrie

    lm = LoadedLM("benchmark", model, cast(Any, None), model.config.max_position_embeddings, frozenset())
    return list(score_trie(lm, prompt, PathTrie.build(paths)))


def case(
    question: data.Question, lm: Any, prompt_tokens: int, leaves: int
) -> tuple[list[int], list[list[int]]]:
    """Return the prompt (page first, then question) and the token paths of the page's first blocks."""
    blocks, _ = peers.tree(question.html, MAX_WORDS)
    paths = [f"<{'><'.join(path)}>" for _, path, _ in blocks][:leaves]
    page = lm.tokenizer(visible_text(question.html), add_special_tokens=False)["input_ids"][:prompt_tokens]
    asked = lm.tokenizer(f"\n\nQuestion: {question.question}\nPath: ", add_special_tokens=False)["input_ids"]
    return [*page, *asked], [lm.tokenizer(p, add_special_tokens=False)["input_ids"] for p in paths]


def compare(
    lm: Any, cases: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], scorers: dict[str, Scorer]
) -> dict[str, Any]:
    """Run the reference and every scorer on every case."""
    reference: list[list[float]] = []
    rows: dict[str, dict[str, Any]] = {name: {"seconds": [], "difference": []} for name in scorers}
    seconds = []
    for prompt, paths in cases:
        begin = time.perf_counter()
        expected = leaf_log_probabilities(lm.model, prompt, paths, FLOOR)
        seconds.append(time.perf_counter() - begin)
        reference.append(expected)
        for name, call in scorers.items():
            begin = time.perf_counter()
            got = list(call(lm.model, prompt, paths))
            rows[name]["seconds"].append(time.perf_counter() - begin)
            rows[name]["difference"].append(max(abs(a - b) for a, b in zip(got, expected, strict=True)))
    return {
        "cases": [
            {"prompt_tokens": len(prompt), "leaves": len(paths), "branching_nodes": branching_nodes(paths)}
            for prompt, paths in cases
        ],
        "reference_s": seconds,
        "reference_values": reference,
        "scorers": {
            name: {
                **row,
                "max_difference": max(row["difference"]),
                "median_speedup": statistics.median(
                    a / b for a, b in zip(seconds, row["seconds"], strict=True)
                ),
            }
            for name, row in rows.items()
        },
    }


def run(context: Context) -> dict[str, Any]:
    options = context.options
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    try:
        peers.htmlrag()
    except peers.PeerMissing as error:
        return {"skipped": str(error)}
    from tokenprune.models.causal_lm import load_causal_lm

    scorers: dict[str, Scorer] = {}
    for name in options.trie_scorer:
        try:
            scorers[name] = scorer(name)
        except (ImportError, AttributeError) as error:
            context.note(f"generative: skipped {name}: {error}")
    if not scorers:
        context.note("generative: no --trie-scorer given, only the reference runs")
    # float32: the values are compared, and bfloat16 alone moves a log probability by some hundredths.
    lm = load_causal_lm(MODEL, dtype="float32")
    questions = data.questions(context.data, "docs", options.trie_cases, options.seed)
    cases = [case(q, lm, options.trie_prompt, options.trie_leaves) for q in questions]
    merged: dict[str, Any] = {}
    parts = [compare(lm, [c], scorers) for c in context.track(cases, len(cases), "generative")]
    for part in parts:
        for field in ("cases", "reference_s", "reference_values"):
            merged.setdefault(field, []).extend(part[field])
    merged["scorers"] = {
        name: {
            "seconds": [p["scorers"][name]["seconds"][0] for p in parts],
            "max_difference": max(p["scorers"][name]["max_difference"] for p in parts),
            "median_speedup": statistics.median(p["scorers"][name]["median_speedup"] for p in parts),
        }
        for name in scorers
    }
    return merged
