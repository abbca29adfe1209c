"""What pruned models gain on vLLM: TTFT of a 1,024-token prompt and tokens/s, beside the operations saved.

    python benchmarks/weights/serving.py FOLDER [FOLDER ...] --data DATA [--model smollm2-135m]
        [--rounds 7] [--tokens-out 33] [--dtype float32] [--out build/serving]

Each FOLDER was written by `tokenprune weights prune`. It is served beside the dense model, each by a vLLM of
its own on the same cores, and every round asks both in turn, so that what else the machine does hits both;
the first round warms up and is not counted. A prompt is text of the first half of lm/wikitext2, another one
each round, to a token as long. Ratios are medians over rounds of dense by pruned. FOLDERs that are in
OUT/serving.json already are not measured again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.common import served
from benchmarks.common.resumed import add_row, resumed
from benchmarks.weights.run import halves
from tokenprune.bench.client import Server, measure, open_session
from tokenprune.bench.rows import Row
from tokenprune.bench.statistics import interval
from tokenprune.errors import MeasureError
from tokenprune.models.catalog import model_path
from tokenprune.models.causal_lm import load_tokenizer
from tokenprune.weights.card import read_card

TOKENS = 1024


def prompts(model: str, data: Path, count: int) -> list[str]:
    """Return texts that are ``TOKENS`` tokens long behind the chat template."""
    tokenizer = load_tokenizer(model)
    empty = [{"role": "user", "content": ""}]
    frame = tokenizer.apply_chat_template(empty, add_generation_prompt=True, tokenize=False)
    size = TOKENS - len(tokenizer(frame, add_special_tokens=False)["input_ids"])
    text = halves(data)[0][: 12 * TOKENS * count]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [tokenizer.decode(ids[i * TOKENS : i * TOKENS + size]) for i in range(count)]


async def ask(url: str, prompt: str, tokens_out: int) -> tuple[float, float, int]:
    """Return seconds to the first token, tokens per second behind it, and tokens of the prompt."""
    body = {
        "model": "model",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens_out,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    row = Row("serving", None, "direct", 0)
    async with open_session() as session:
        await measure(session, Server.at(url), json.dumps(body).encode(), row, 300)
    if row.error is not None or row.ttft_ms is None or not row.tpot_ms:
        raise MeasureError(f"{url}: {row.error or 'no stream of tokens'}; see the log of the server")
    return row.ttft_ms / 1000, 1000 / row.tpot_ms, row.tokens_in or 0


def compare(dense: str, pruned: str, texts: Sequence[str], tokens_out: int) -> dict[str, Any]:
    """Return medians of both servers and of their ratios; the first text warms up."""
    rounds = []
    for number, text in enumerate(texts):
        sides = {"dense": dense, "pruned": pruned}
        order = list(sides) if number % 2 else list(reversed(sides))
        found = {side: asyncio.run(ask(sides[side], text, tokens_out)) for side in order}
        if number:
            rounds.append((found["dense"], found["pruned"]))
    faster = [d[0] / p[0] for d, p in rounds]
    more = [p[1] / d[1] for d, p in rounds]
    return {
        "tokens": statistics.median(d[2] for d, _ in rounds),
        "ttft": [statistics.median(r[side][0] for r in rounds) for side in (0, 1)],
        "per_second": [statistics.median(r[side][1] for r in rounds) for side in (0, 1)],
        "ttft_ratio": statistics.median(faster),
        "ttft_ratio_ci": interval(faster, statistic=np.median),
        "per_second_ratio": statistics.median(more),
        "rounds": len(rounds),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| model | parameters | operations, dense / pruned | TTFT, s: dense, pruned | faster | 95 % "
        "| tokens/s: dense, pruned | ratio |",
        "|---|---:|---:|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        low, high = row["ttft_ratio_ci"]
        lines.append(
            f"| {row['name']} | {row['parameters']:.0%} | {row['operations']:.2f} "
            f"| {row['ttft'][0]:.2f}, {row['ttft'][1]:.2f} | **{row['ttft_ratio']:.2f}** "
            f"| {low:.2f} to {high:.2f} | {row['per_second'][0]:.0f}, {row['per_second'][1]:.0f} "
            f"| {row['per_second_ratio']:.2f} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("TOKENPRUNE_DATA")
    made.add_argument("folders", nargs="+", type=Path, help="of pruned models")
    made.add_argument("--data", type=Path, default=Path(default) if default else None)
    made.add_argument("--model", default="smollm2-135m")
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--tokens-out", type=int, default=33)
    made.add_argument("--dtype", default="float32")
    made.add_argument("--out", type=Path, default=Path("build/serving"))
    return made


def main() -> None:
    command = parser()
    args = command.parse_args()
    if args.data is None or not (args.data / "lm/wikitext2").is_dir():
        command.error("--data (or TOKENPRUNE_DATA) must name the folder that holds lm/wikitext2")
    if args.rounds < 1 or args.tokens_out < 2:
        command.error("--rounds must be 1 or more, --tokens-out 2 or more")
    cards = {folder.name: read_card(folder) for folder in args.folders}
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "serving.json"
    settings = {"model": args.model, "dtype": args.dtype, "tokens_out": args.tokens_out}
    result = resumed(file, settings)
    known = {row["name"] for row in result["rows"]}
    todo = [folder for folder in args.folders if folder.name not in known]
    texts = prompts(args.model, args.data, args.rounds + 1)
    if todo:
        with served.vllm(str(model_path(args.model)), args.out / "dense.log", "--dtype", args.dtype) as dense:
            for folder in todo:
                card = cards[folder.name]
                with served.vllm(
                    str(folder), args.out / f"{folder.name}.log", "--dtype", args.dtype
                ) as pruned:
                    row = compare(dense, pruned, texts, args.tokens_out)
                row["name"] = folder.name
                row["parameters"] = card.pruned.parameters / card.dense.parameters
                row["operations"] = card.dense.prefill_flops / card.pruned.prefill_flops
                add_row(file, result, row)
    text = table(result["rows"])
    (args.out / "serving.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
