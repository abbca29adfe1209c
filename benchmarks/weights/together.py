"""Context pruning x weight pruning: TTFT on vLLM and gold-answer NLL of the four combinations.

    python benchmarks/weights/together.py PRUNED --data DATA [--model smollm2-135m] [--sample 40]
        [--keep 640] [--rounds 3] [--urls DENSE_URL,PRUNED_URL] [--out build/together]

PRUNED is a folder that `tokenprune weights prune` wrote. A context is the 20 passages of a question of nq20
(about 2,500 tokens with the chat template), full or cut beforehand to --keep tokens of its best sentences by
BM25; the time of that is its own column, no part of TTFT. Without --urls the two models are served by vLLM
one after the other, in float32, without prefix caching; each round sends full and pruned in turn. NLL is
measured with the local weights, in float32. Results of each question are kept: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import served
from benchmarks.common.nll import messages
from benchmarks.common.store import Store
from tokenprune.bench.client import Server, measure, models_of, open_session
from tokenprune.bench.machine import machine
from tokenprune.bench.rows import Row
from tokenprune.bench.statistics import interval
from tokenprune.errors import MeasureError

CONTEXTS = ("full", "pruned")
MODELS = ("dense", "pruned")
Cases = Sequence[Mapping[str, Any]]


def cases(data: Path, sample: int, keep: int, seed: int) -> list[dict[str, Any]]:
    """Return questions with both contexts, and the milliseconds that cutting one took."""
    from benchmarks.common import scorers
    from benchmarks.rag_quality import contexts

    (method,) = scorers.available(["bm25"], print)
    found = []
    for item in contexts.items(data, "nq20", sample, seed):
        began = time.perf_counter()
        masks = contexts.within(item.passages, method.sentences(item.question, item.passages), keep)
        took = 1000 * (time.perf_counter() - began)
        found.append(
            {
                "id": item.id,
                "question": item.question,
                "answer": item.answers[0],
                "full": contexts.render(item.passages, contexts.whole(item.passages)),
                "pruned": contexts.render(item.passages, masks),
                "prune_ms": took,
            }
        )
    return found


async def times(url: str, asked: Cases, rounds: int, store: Store, model: str) -> None:
    """Measure TTFT of every question that the store does not know; both contexts of one in turn."""
    server = Server.at(url)
    async with open_session() as session:
        name = (await models_of(session, server))[0]
        warm = Row("warm", None, "direct", 0)
        await measure(session, server, _body(name, asked[0], "full"), warm, 300)
        for turn in range(rounds):
            for case in asked:
                for context in CONTEXTS:
                    key = f"ttft|{model}|{context}|{case['id']}|{turn}"
                    if key in store:
                        continue
                    row = Row(str(case["id"]), None, "direct", turn)
                    await measure(session, server, _body(name, case, context), row, 300)
                    if row.error is not None or row.ttft_ms is None:
                        raise MeasureError(
                            f"{url}: {row.error or 'no first token'}; see the log of the server"
                        )
                    store.put(key, {"ttft_ms": row.ttft_ms, "tokens": row.tokens_in})


def _body(model: str, case: Mapping[str, Any], context: str) -> bytes:
    body = {
        "model": model,
        "messages": messages(str(case[context]), str(case["question"])),
        "max_tokens": 1,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body).encode()


def losses(name: str, asked: Cases, store: Store, model: str) -> None:
    """Measure the NLL of every gold answer that the store does not know."""
    from tokenprune.models.causal_lm import fresh_causal_lm
    from tokenprune.quality import answer_nll

    todo = [(c, x) for c in asked for x in CONTEXTS if f"nll|{model}|{x}|{c['id']}" not in store]
    if not todo:
        return
    lm = fresh_causal_lm(name)
    for case, context in todo:
        said = messages(str(case[context]), str(case["question"]))
        store.put(f"nll|{model}|{context}|{case['id']}", answer_nll(lm, said, str(case["answer"])))


def summary(asked: Cases, store: Store, rounds: int) -> list[dict[str, Any]]:
    """Return one row for each combination; ratios are to the dense model with the full context."""
    rows: list[dict[str, Any]] = []
    for model in MODELS:
        for context in CONTEXTS:
            found = [[store[f"ttft|{model}|{context}|{c['id']}|{r}"] for r in range(rounds)] for c in asked]
            ttft = [statistics.median(one["ttft_ms"] for one in turns) for turns in found]
            nll = [store[f"nll|{model}|{context}|{c['id']}"] for c in asked]
            nll = [value for value in nll if value is not None]
            row = {
                "model": model,
                "context": context,
                "n": len(ttft),
                "tokens": statistics.mean(turns[0]["tokens"] or 0 for turns in found),
                "ttft_ms": statistics.median(ttft),
                "ttft_ci": interval(ttft),
                "prune_ms": statistics.median(c["prune_ms"] for c in asked) if context == "pruned" else 0.0,
                "nll": statistics.mean(nll),
                "nll_ci": interval(nll),
            }
            row["speedup"] = (rows[0]["ttft_ms"] if rows else row["ttft_ms"]) / row["ttft_ms"]
            rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| model | context | tokens | TTFT, ms (median) | x | pruning, ms | gold-answer NLL | 95 % |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row["nll_ci"]
        lines.append(
            f"| {row['model']} | {row['context']} | {row['tokens']:,.0f} | {row['ttft_ms']:,.0f} "
            f"| {row['speedup']:.2f} | {row['prune_ms']:.0f} | {row['nll']:.3f} | {low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [f"{row['model']} model\n{row['context']} context" for row in rows]
    colors = ["#9a9a9a", "#3b6ea5", "#c98a2b", "#3f8f5b"]
    for axis, key, title in ((left, "ttft_ms", "TTFT, ms"), (right, "nll", "NLL of the gold answer")):
        bars = axis.bar(names, [row[key] for row in rows], color=colors)
        axis.bar_label(bars, fmt="%.0f" if key == "ttft_ms" else "%.2f", fontsize=8)
        axis.set_title(title, loc="left", fontsize=10)
        axis.tick_params(axis="x", labelsize=6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def run(asked: Cases, names: Sequence[str], urls: Sequence[str], rounds: int, out: Path) -> str:
    """Measure what is missing, and write table, picture and JSON into ``out``; return the table."""
    from tokenprune.models.catalog import model_path

    out.mkdir(parents=True, exist_ok=True)
    store = Store(out / "together.jsonl")
    for index, (model, name) in enumerate(zip(MODELS, names, strict=True)):
        losses(name, asked, store, model)
        wanted = [f"ttft|{model}|{x}|{c['id']}|{r}" for c in asked for x in CONTEXTS for r in range(rounds)]
        if all(key in store for key in wanted):
            continue
        with contextlib.ExitStack() as stack:
            if urls:
                url = urls[index]
            else:
                folder = name if Path(name).is_dir() else str(model_path(name))
                url = stack.enter_context(served.vllm(folder, out / f"vllm-{model}.log"))
            asyncio.run(times(url, asked, rounds, store, model))
    rows = summary(asked, store, rounds)
    store.close()
    result = {"machine": machine(), "models": list(names), "rounds": rounds, "rows": rows}
    (out / "together.json").write_text(json.dumps(result, indent=1) + "\n")
    text = table(rows)
    (out / "together.md").write_text(text + "\n")
    draw(rows, out / "together.png")
    return text


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("TOKENPRUNE_DATA")
    made.add_argument("pruned", help="folder of the pruned model")
    made.add_argument("--data", type=Path, default=Path(default) if default else None)
    made.add_argument("--model", default="smollm2-135m")
    made.add_argument("--sample", type=int, default=40)
    made.add_argument("--keep", type=int, default=640)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--urls", default="", help="of servers of the dense and of the pruned model")
    made.add_argument("--out", type=Path, default=Path("build/together"))
    return made


def main() -> None:
    made = parser()
    args = made.parse_args()
    urls = [url for url in args.urls.split(",") if url]
    if args.data is None or not (args.data / "retrieval").is_dir():
        made.error("--data (or TOKENPRUNE_DATA) must name the folder that holds retrieval/")
    if len(urls) not in (0, 2):
        made.error("--urls takes two, of the dense and of the pruned model")
    asked = cases(args.data, args.sample, args.keep, args.seed)
    print(run(asked, (args.model, args.pruned), urls, args.rounds, args.out))


if __name__ == "__main__":
    main()
