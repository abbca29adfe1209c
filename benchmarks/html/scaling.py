"""(f) Does the time grow in proportion to the page? Broken and hostile HTML of 0.1 to 10 MB."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import tokenprune as tp
from benchmarks.html.context import Context
from benchmarks.html.measure import slope
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.tokens import get_counter

QUESTION = "Which function generates a random identifier?"
GIVE_UP_S = 60.0  # a generator is not tried at larger sizes once it took this long


def _repeat(piece: Callable[[int], str], size: int) -> str:
    parts, length, i = [], 0, 0
    while length < size:
        parts.append(piece(i))
        length += len(parts[-1])
        i += 1
    return "".join(parts)[:size]


def _section(i: int) -> str:
    return (
        f'<div class="section" id="s{i}"><h2>Part {i}: identifiers and how they are made</h2>\n'
        f"<p>The function <code>make_{i}()</code> returns a fresh identifier of {i % 97} characters. It is "
        f'described in <a href="/part/{i}">part {i}</a>, and raises an error when there is none left.</p>\n'
        f"<ul><li>first case of {i}</li><li>second case</li></ul>\n"
        f"<table><tr><th>name</th><th>value</th></tr><tr><td>n{i}</td><td>{i * 7}</td></tr></table></div>\n"
    )


def _nested_tables(size: int) -> str:
    return _repeat(lambda i: f"<table><tr><td>cell {i} of a table in a table ", size)


GENERATORS: dict[str, Callable[[int], str]] = {
    "ordinary": lambda n: f"<html><body>{_repeat(_section, n)}</body></html>",
    "unclosed divs": lambda n: _repeat(lambda i: f"<div>some words in place {i} ", n),
    "runs of <": lambda n: "<p>before</p>" + "<" * n,
    "nested tables": _nested_tables,
    "attribute without end": lambda n: '<p>before</p><div class="' + "abc <p> def " * (n // 12),
    "runs of entities": lambda n: "<p>" + "&amp;&#x41;&nosuch;&" * (n // 20),
    "runs of comments": lambda n: "<p>before</p>" + "<!-- x --><!--" * (n // 14),
}


def run(context: Context) -> dict[str, Any]:
    options, counter = context.options, get_counter()
    blocks, pipeline = HtmlBlocks(128), tp.Pipeline(["htmlrag-bm25"])
    pipeline.prune(QUESTION, [tp.Document(GENERATORS["ordinary"](20_000), kind="html")], tp.Budget(1024))
    gc.collect()
    gc.freeze()  # what the imports left behind would make every later collection slow
    work = [(name, mb) for name in GENERATORS for mb in sorted(options.scaling_mb)]
    rows: dict[str, dict[str, list[float]]] = {
        n: {"mb": [], "blocks_s": [], "prune_s": []} for n in GENERATORS
    }
    for name, mb in context.track(work, len(work), "scaling"):
        row = rows[name]
        if row["prune_s"] and row["prune_s"][-1] > GIVE_UP_S:
            context.note(
                f"scaling: {name} took {row['prune_s'][-1]:.0f} s at {row['mb'][-1]} MB; no larger page"
            )
            continue
        page = tp.Document(GENERATORS[name](int(mb * 1e6)), kind="html")
        repeats = 3 if mb <= 1 else 1
        row["mb"].append(len(page.text) / 1e6)
        row["blocks_s"].append(min(_time(lambda p=page: blocks.segment(p, counter)) for _ in range(repeats)))
        row["prune_s"].append(
            min(_time(lambda p=page: pipeline.prune(QUESTION, [p], tp.Budget(1024))) for _ in range(repeats))
        )
    return {
        "generators": {
            name: {
                **row,
                "blocks_slope": slope(row["mb"], row["blocks_s"]) if len(row["mb"]) > 1 else None,
                "prune_slope": slope(row["mb"], row["prune_s"]) if len(row["mb"]) > 1 else None,
            }
            for name, row in rows.items()
        }
    }


def _time(call: Callable[[], Any]) -> float:
    get_counter().forget()
    gc.collect()
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
