"""(a) Seconds per megabyte of HTML for cleaning and the block tree, ours against htmlrag's."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import bs4
import lxml.html
import numpy as np

from benchmarks.html import data, peers
from benchmarks.html.context import Context
from tokenprune.document import Document
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.html_clean import clean
from tokenprune.tokens import DEFAULT_TOKENIZER, TokenCounter, get_counter, load_tokenizer, sanitize

TARGET = 20.0


class NoTokens(TokenCounter):
    """Counts nothing: what is left of the time is cleaning and the tree."""

    def __init__(self) -> None:
        self.name = "none"

    def starts(self, text: str) -> np.ndarray:
        return np.empty(0, dtype=np.int64)


def runners() -> dict[str, Callable[[str], Any]]:
    blocks, nothing, counter = HtmlBlocks(peers.MAX_WORDS), NoTokens(), get_counter()
    tokenizer = load_tokenizer(DEFAULT_TOKENIZER)
    found: dict[str, Callable[[str], Any]] = {
        "ours: clean + blocks": lambda page: blocks.segment(Document(page, kind="html"), nothing),
        "ours: clean + blocks + tokens": lambda page: blocks.segment(Document(page, kind="html"), counter),
        "ours: clean": clean,
        "parse only: bs4 html.parser": lambda page: bs4.BeautifulSoup(page, "html.parser"),
        "parse only: bs4 lxml": lambda page: bs4.BeautifulSoup(page, "lxml"),
        "parse only: lxml": lxml.html.document_fromstring,
        "tokens of the page: tokenizers": lambda page: tokenizer.encode(sanitize(page)).offsets,
        "tokens of the page: ours": counter.starts,
    }
    try:
        package = peers.htmlrag()
    except peers.PeerMissing:
        return found

    def published(page: str) -> Any:
        return package.build_block_tree(package.clean_html(page), max_node_words=peers.MAX_WORDS)

    return {"htmlrag: clean + tree": published, "htmlrag: clean": package.clean_html, **found}


def run(context: Context) -> dict[str, Any]:
    """Time every runner on every page in turns; a runner's figure for a page is the median of its rounds."""
    options = context.options
    pages = data.speed_pages(context.data, options.speed_pages)
    todo = list(runners().items())
    if not any(name.startswith("htmlrag") for name, _ in todo):
        context.note("speed: htmlrag is not installed, so there is no ratio")
    times: dict[str, list[list[float]]] = {name: [[] for _ in pages] for name, _ in todo}
    failed: dict[str, int] = {}
    gc.collect()
    gc.freeze()  # what the imports left behind would make every later collection slow
    steps = [(r, p) for r in range(options.rounds + 1) for p in range(len(pages))]
    for turn, p in context.track(steps, len(steps), "speed"):
        shift = (turn + p) % len(todo)  # nobody always runs first, or right behind the same other
        for name, call in todo[shift:] + todo[:shift]:
            gc.collect()
            get_counter().forget()
            begin = time.perf_counter()
            try:
                result = call(pages[p][1])
            except Exception as error:
                if turn == 0:
                    failed[name] = failed.get(name, 0) + 1
                    context.note(f"speed: {name} raised {type(error).__name__} on {pages[p][0]}")
                continue
            seconds = time.perf_counter() - begin
            del result
            if turn:  # the first round warms up
                times[name][p].append(seconds)
    return summarise(pages, times, failed)


def summarise(
    pages: list[tuple[str, str]], times: dict[str, list[list[float]]], failed: dict[str, int]
) -> dict[str, Any]:
    megabytes = [len(html.encode("utf-8", "replace")) / 1e6 for _, html in pages]
    medians = {
        name: [statistics.median(s) if s else float("nan") for s in rows] for name, rows in times.items()
    }
    rows = []
    for name, values in medians.items():
        done = [i for i, v in enumerate(values) if v == v]
        rows.append(
            {
                "name": name,
                "s_per_mb": sum(values[i] for i in done) / sum(megabytes[i] for i in done),
                "median_page_s_per_mb": statistics.median(values[i] / megabytes[i] for i in done),
                "failed_pages": failed.get(name, 0),
            }
        )
    result: dict[str, Any] = {
        "pages": [{"name": n, "mb": mb} for (n, _), mb in zip(pages, megabytes, strict=True)],
        "medians_s": medians,
        "rows": rows,
        "target_ratio": TARGET,
    }
    theirs, mine = medians.get("htmlrag: clean + tree"), medians["ours: clean + blocks"]
    if theirs:
        both = [(a, b) for a, b in zip(theirs, mine, strict=True) if a == a]
        result["ratio_total"] = sum(a for a, _ in both) / sum(b for _, b in both)
        result["ratio_median_page"] = statistics.median(a / b for a, b in both)
        result["ratio_min"] = min(a / b for a, b in both)
        result["ratio_max"] = max(a / b for a, b in both)
    return result
