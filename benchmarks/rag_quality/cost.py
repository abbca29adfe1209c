"""What pruning twenty passages costs beside the time to first token that it saves, on a real server.

For every list, in turn: the whole prompt is sent to the server, then each method scores the passages and what
is left of the prompt is sent. Pruning runs in this process, on the cores of the server, which is idle then.
A prompt begins with a number of its own, so that no prefix is cached.
"""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import numpy as np

from benchmarks.common import scorers
from benchmarks.common.context import Context
from benchmarks.rag_quality import contexts
from tokenprune.bench.statistics import interval
from tokenprune.tokens import get_counter

SET = "nq20"
WARMUP = 2


def run(context: Context) -> dict[str, Any]:
    options = context.options
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    if not options.upstream:
        return {"skipped": "no server (--upstream URL of an OpenAI-compatible one)"}
    methods = [m for m in scorers.available(options.methods, context.note) if m.name != "random"]
    items = contexts.items(context.data, SET, options.timed + WARMUP, options.seed)
    rows: dict[str, dict[str, list[float]]] = {
        m.name: {"prune": [], "ttft": [], "tokens": [], "share": [], "speedup": []} for m in methods
    }
    direct: dict[str, list[float]] = {"ttft": [], "tokens": []}
    with httpx.Client(base_url=options.upstream.rstrip("/").removesuffix("/v1"), timeout=600) as client:
        model = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
        for n, item in enumerate(context.track(items, len(items), "cost")):
            whole = contexts.render(item.passages, contexts.whole(item.passages))
            full = get_counter().count(whole)
            ttft = first_token(client, model, prompt(whole, item.question, f"{options.seed}.{n}"))
            timed = n >= WARMUP
            if timed:
                direct["ttft"].append(ttft)
                direct["tokens"].append(full)
            for method in methods:
                begin = time.perf_counter()
                sentences = method.sentences(item.question, item.passages)
                prune = time.perf_counter() - begin
                keep = contexts.within(item.passages, sentences, int(options.share * full))
                left = contexts.render(item.passages, keep)
                pruned = first_token(
                    client, model, prompt(left, item.question, f"{options.seed}.{n}.{method.name}")
                )
                if timed:
                    row = rows[method.name]
                    row["prune"].append(prune)
                    row["ttft"].append(pruned)
                    row["tokens"].append(get_counter().count(left))
                    row["share"].append(prune / ttft)
                    row["speedup"].append(ttft / (prune + pruned))
    if not direct["ttft"]:
        return {"skipped": f"{SET} has no more than {WARMUP} test lists"}
    return {
        "model": model,
        "n": len(direct["ttft"]),
        "direct": {k: float(np.median(v)) for k, v in direct.items()},
        "rows": [
            {"method": m.label, "ours": m.ours}
            | {k: float(np.median(v)) for k, v in rows[m.name].items()}
            | {f"{k}_ci": interval(rows[m.name][k], statistic=np.median) for k in ("share", "speedup")}
            for m in methods
        ],
    }


def prompt(text: str, question: str, own: str) -> str:
    return f"Request {own}.\n\n{text}\n\nQuestion: {question}\nAnswer:"


def first_token(client: httpx.Client, model: str, content: str) -> float:
    """Seconds from sending the request to the first token of the stream."""
    body = {"model": model, "prompt": content, "max_tokens": 1, "temperature": 0, "stream": True}
    begin = time.perf_counter()
    with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]" and json.loads(line[6:])["choices"]:
                return time.perf_counter() - begin
    raise ValueError("the server ended the stream without a token")
