"""Workloads in the formats of other benchmark clients."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenprune.bench.case import Case
from tokenprune.errors import ConfigError


def vllm_row(case: Case) -> dict[str, Any]:
    """Return a line of vLLM's ``custom`` dataset: ``prompt`` and ``output_tokens``.

    The format has one string, which vLLM's client sends as one user message: a system message becomes its
    first paragraph.

    Raises:
        ConfigError: the case has turns before the question, or parts that are no text.
    """
    contents = [_content(case, m) for m in case.messages]
    roles = [str(m.get("role")) for m in case.messages]
    if roles[-1:] != ["user"] or any(role not in ("system", "developer") for role in roles[:-1]):
        raise ConfigError(
            f"case {case.id!r} has the turns {', '.join(roles)}: vLLM's custom dataset holds one prompt a "
            "line; export a workload of single questions, or measure this one with `tokenprune bench ttft`"
        )
    return {"prompt": "\n\n".join(contents), "output_tokens": case.max_tokens}


def _content(case: Case, message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise ConfigError(f"case {case.id!r} has a message whose content is no text; it cannot be exported")
    return content


def write_vllm(cases: Iterable[Case], path: Path) -> int:
    """Write a file for ``--dataset-name custom`` and return the number of its lines.

    Raises:
        ConfigError: a case does not fit the format, the name does not end in ``.jsonl`` (vLLM reads no other)
            or the file cannot be written. Nothing is written then.
    """
    if path.suffix != ".jsonl":
        raise ConfigError(f"vLLM reads custom datasets only from files named *.jsonl, not {path.name!r}")
    # JSON's escapes keep a line a line, whatever reads it.
    lines = [json.dumps(vllm_row(case)) for case in cases]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    return len(lines)
