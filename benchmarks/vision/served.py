"""Time to the first token through a real vLLM: pixels sent to it, against the proxy that prunes in front."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import statistics
from typing import Any

import yaml

from benchmarks.common import served
from benchmarks.common.context import Context
from benchmarks.vision import timing_model
from benchmarks.vision.asking import images
from benchmarks.vision.scenes import video
from tokenprune.bench.client import Server, measure, open_session
from tokenprune.bench.rows import Row
from tokenprune.bench.statistics import interval
from tokenprune.errors import MeasureError
from tokenprune.vision.export import export_vision

QUESTION = "what moved, and where to?"
SIDES = ("direct", "proxy", "proxy again")


def run(context: Context) -> dict[str, Any]:
    """Send every video to vLLM, to the proxy, and there again with another question (rows are cached)."""
    options = context.options
    folder = options.out / "served"
    model = timing_model.build(folder / "llava-smol")
    vision = folder / "llava-smol-vision"
    if not vision.exists():
        export_vision(str(model), vision)
    config = folder / "proxy.yaml"
    settings = {
        "model": str(vision.resolve()),
        "dtype": "float32",
        "method": options.served_method,
        "keep": options.ttft_keep,
    }
    config.write_text(yaml.safe_dump({"server": {"pipeline": "none", "vision": settings}}))
    limit = json.dumps({"image": options.ttft_frames})
    flags = ("--enable-mm-embeds", "--limit-mm-per-prompt", limit, "--mm-processor-cache-gb", "0")
    with (
        served.vllm(str(model), folder / "vllm.log", *flags) as upstream,
        served.proxy(upstream, config, folder / "proxy.log") as door,
    ):
        rows = asyncio.run(_measure(context, upstream, door))
    ratios = {
        side: [row["direct"]["ttft_ms"] / row[side]["ttft_ms"] for row in rows]
        for side in SIDES
        if side != "direct"
    }
    return {
        "method": options.served_method,
        "keep": options.ttft_keep,
        "frames": options.ttft_frames,
        "rows": rows,
        "ratios": {
            side: {"median": statistics.median(found), "interval": interval(found)}
            for side, found in ratios.items()
        },
    }


async def _measure(context: Context, upstream: str, door: str) -> list[dict[str, Any]]:
    options = context.options
    servers = {"direct": Server.at(upstream), "proxy": Server.at(door), "proxy again": Server.at(door)}
    rows: list[dict[str, Any]] = []
    async with open_session() as session:
        for number in context.track(range(options.served_rounds + 1), options.served_rounds + 1, "served"):
            found: dict[str, Any] = {}
            sides = SIDES if number % 2 else (*SIDES[1:], SIDES[0])
            for side in sides:
                question = QUESTION if side != "proxy again" else f"{QUESTION} answer in one word"
                row = Row(f"video {number}", None, "direct" if side == "direct" else "pruned", number)
                await measure(session, servers[side], _body(number, options.ttft_frames, question), row, 600)
                if row.error is not None or row.ttft_ms is None:
                    raise MeasureError(f"{side}: {row.error or 'no first token'}")
                found[side] = {"ttft_ms": row.ttft_ms, "tokens": row.tokens_in}
            if number:  # the first warms up
                rows.append(found)
    return rows


def _body(number: int, frames: int, question: str) -> bytes:
    parts: list[dict[str, Any]] = []
    for picture in images(video("test", number, frames)):
        file = io.BytesIO()
        picture.save(file, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    body = {
        "model": "model",
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}],
        "max_tokens": 1,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body).encode()
