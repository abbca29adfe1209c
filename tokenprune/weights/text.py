"""Texts as windows of tokens: for calibration and for perplexity."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import RecipeError
from tokenprune.models.progress import SILENT, Reporter

if TYPE_CHECKING:
    import torch


def read_text(path: Path) -> str:
    """Read a text file, or the ``text`` of each line of a .jsonl or .jsonl.gz file, joined by empty lines.

    Raises:
        RecipeError: The file cannot be read, or is not what its name says.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8")
        if path.name.removesuffix(".gz").endswith(".jsonl"):
            # Not `splitlines`: JSON strings may hold other ends of lines as they are.
            rows = [json.loads(line)["text"] for line in text.split("\n") if line.strip()]
            if not all(isinstance(row, str) for row in rows):
                raise TypeError("of another type")
            return "\n\n".join(rows)
    except (KeyError, TypeError) as error:
        raise RecipeError(
            f"cannot read text from {str(path)!r}: a line is no object with a string as 'text'; give UTF-8 "
            "text or .jsonl"
        ) from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise RecipeError(
            f"cannot read text from {str(path)!r}: {error}; give UTF-8 text or .jsonl"
        ) from error
    return text


def windows_of(
    tokenizer: Any, text: str, count: int | None, length: int, what: str, *, settable: bool = True
) -> torch.Tensor:
    """Cut a text into windows that follow one another; when more are there than asked, spread evenly.

    Args:
        tokenizer: Of the model; no special tokens are added.
        text: Enough for the windows.
        count: Windows; None: as many as there are, at least one.
        length: Tokens of each.
        what: Names the text in an error.
        settable: Whether whoever reads the error can ask for other windows.

    Returns:
        int64 [count, length].

    Raises:
        RecipeError: The text is too short.
    """
    import torch

    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    there = len(ids) // length
    wanted = max(there, 1) if count is None else count
    if there < wanted:
        size = f"{wanted} windows of {length} need" if wanted > 1 else "a window needs"
        ways = ["a longer text"]
        if settable:
            ways += ["fewer windows (--windows)"] * (wanted > 1) + ["a shorter window (--window)"]
        raise RecipeError(f"{what} has {len(ids)} tokens, {size} {wanted * length}: give {' or '.join(ways)}")
    rows = torch.tensor(ids[: there * length], dtype=torch.int64).view(there, length)
    return rows[torch.arange(wanted) * there // wanted]


def shuffled(seed: int, step: int, batch: int, count: int) -> torch.Tensor:
    """Return which of ``count`` windows a step of training reads, int64 [batch].

    Epoch after epoch in an order of its own, which is the same after a stop.
    """
    import torch

    rows = []
    for place in range(step * batch, (step + 1) * batch):
        order = torch.Generator().manual_seed(seed + place // count)
        rows.append(int(torch.randperm(count, generator=order)[place % count]))
    return torch.tensor(rows)


def perplexity(model: Any, windows: torch.Tensor, reporter: Reporter = SILENT) -> float:
    """Return exp of the mean NLL of all tokens of ``windows`` [n, tokens] but each window's first."""
    return math.exp(mean_nll(model, windows, reporter))


def mean_nll(model: Any, windows: torch.Tensor, reporter: Reporter = SILENT) -> float:
    """Return the mean NLL in nats; raises RecipeError when it is not finite."""
    import torch

    reporter.stage("perplexity", float(len(windows)))
    total = 0.0
    with torch.no_grad():
        for row in windows:
            logits = model(row[None], use_cache=False).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum"))
            reporter.advance(1)
    if not math.isfinite(total):
        raise RecipeError("the model's loss is not finite: its weights hold NaN or infinity")
    return total / float(windows.shape[0] * (windows.shape[1] - 1))


def self_text(model: Any, count: int, length: int, seed: int, reporter: Reporter = SILENT) -> torch.Tensor:
    """Let the model write its own calibration text: sampled from the first token on, seeded.

    Args:
        model: A transformers decoder.
        count: Windows.
        length: Tokens of each.
        seed: Of the samples.
        reporter: Told of each window.

    Returns:
        int64 [count, length].
    """
    import torch

    first = model.config.bos_token_id
    first = 0 if first is None else int(first)
    reporter.stage("calibration text", float(length * count))
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        with torch.no_grad():
            ids = torch.full((count, 1), first, dtype=torch.int64)
            cache = None
            for _ in range(length):
                found = model(ids[:, -1:], past_key_values=cache, use_cache=True)
                cache, logits = found.past_key_values, found.logits[:, -1].float()
                ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], 1)
                reporter.advance(count)
    finally:
        torch.random.set_rng_state(state)
    return ids[:, 1:]
