"""(e) Main text of a page: token F1 against the gold text."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tokenprune as tp
from benchmarks.html import chunks, data, peers
from benchmarks.html.context import Context
from benchmarks.html.measure import token_f1
from benchmarks.html.methods import code_version
from tokenprune.bench.statistics import interval
from tokenprune.errors import TokenPruneError
from tokenprune.quality import visible_text


def extractors(context: Context) -> dict[str, tuple[Callable[[str], str], str]]:
    """Return name -> (page to text, version)."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, tuple[Callable[[str], str], str]] = {"all text": (chunks.page_text, "1")}
    for name, call in (
        ("trafilatura", peers.trafilatura_text),
        ("readability-lxml", lambda page: visible_text(peers.readability_html(page))),
    ):
        try:
            found[name] = (call, version(name))
        except PackageNotFoundError:
            context.note(f"boilerplate: skipped {name}: not installed")
    for name in context.options.boilerplate_methods:
        try:
            pipeline = tp.Pipeline([tp.pruner(name)])
        except TokenPruneError as error:
            context.note(f"boilerplate: skipped {name}: {error}")
            continue
        found[f"ours: {name}"] = (_ours(pipeline), code_version())
    return found


def _ours(pipeline: tp.Pipeline) -> Callable[[str], str]:
    return lambda page: visible_text(pipeline.prune("", [tp.Document(page, kind="html")]).documents[0].text)


def run(context: Context) -> dict[str, Any]:
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    pages = data.boilerplate(context.data, context.options.boilerplate_sample, context.options.seed)
    store, found = context.store("boilerplate"), extractors(context)
    values: dict[str, list[dict[str, Any]]] = {name: [] for name in found}
    for page in context.track(pages, len(pages), "boilerplate"):
        for name, (call, made_by) in found.items():
            key = f"{page['id']}|{name}|{made_by}"
            if key not in store:
                begin = time.perf_counter()
                try:
                    text, error = call(page["html"]), ""
                except Exception as raised:
                    text, error = "", f"{type(raised).__name__}: {raised}"[:200]
                seconds = time.perf_counter() - begin
                store.put(key, {"f1": token_f1(text, page["gold_text"]), "s": seconds, "error": error})
            values[name].append(store[key])
    store.close()
    rows = [
        {
            "name": name,
            "n": len(series),
            "f1": float(np.mean([v["f1"] for v in series])),
            "f1_ci": interval([v["f1"] for v in series]),
            "f1_median": statistics.median(v["f1"] for v in series),
            "seconds": statistics.fmean(v["s"] for v in series),
            "errors": sum(bool(v["error"]) for v in series),
        }
        for name, series in values.items()
        if series
    ]
    return {"rows": rows}
