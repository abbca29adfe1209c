"""Videos of four frames: what moved, and which way, against visual tokens kept."""

from __future__ import annotations

from typing import Any

from benchmarks.common.context import Context
from benchmarks.vision.asking import measure, summary, videos


def run(context: Context) -> dict[str, Any]:
    options = context.options
    return {"rows": summary(measure(context, "video", list(videos(options.videos)), options.video_keeps))}
