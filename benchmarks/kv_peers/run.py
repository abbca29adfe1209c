"""kvpress beside tokenprune: keys and values compressed, or the prompt pruned before it is read.

    make bench-kvpress ARGS="--limit 4 --workload rag-nq20:1500"

kvpress (github.com/NVIDIA/kvpress) compresses the key-value cache during a full prefill: it saves memory and
time per token of the answer, not time to the first token. tokenprune prunes the documents before the prefill.
Both run in one process on the same model in transformers, for each case one after the other in changing
order, after a warm-up:

- full: the chat as it is;
- each press at each compression ratio (share dropped): the prompt up to the question is prefilled with
  the press, then the question is read, as kvpress's own pipeline does it;
- each of our pruners, at its own default: pruning, then a full prefill of what is left.

Measured: seconds to the logits of the first answer token, pruning included (medians), key-value pairs held
per layer then, and the gold answer's NLL. It runs in an environment of its own (`.venv-kvpress`): kvpress 0.5
asks for transformers below 5.3.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.common.command import floats, words  # noqa: E402
from benchmarks.common.nll import MODEL, messages  # noqa: E402
from tokenprune.bench.machine import machine  # noqa: E402
from tokenprune.bench.source import Source  # noqa: E402
from tokenprune.bench.workloads import sources  # noqa: E402
from tokenprune.models.causal_lm import LoadedLM, load_causal_lm  # noqa: E402
from tokenprune.quality import ANSWER_TOKENS  # noqa: E402

PRESSES = ("SnapKVPress", "ExpectedAttentionPress", "StreamingLLMPress")


@dataclass(frozen=True)
class Read:
    """A prompt that was read: seconds to its first logits, pairs held per layer, and the answer's NLL."""

    seconds: float
    held: int
    nll: float


def prompt_of(lm: LoadedLM, context: str, question: str) -> tuple[list[int], int]:
    """Ids of the chat, and how many of them stand before the question."""
    text = lm.tokenizer.apply_chat_template(
        messages(context, question), add_generation_prompt=True, tokenize=False
    )
    found = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begin = text.rindex("Question: ")
    before = sum(end <= begin for _, end in found["offset_mapping"])
    return found["input_ids"], before


def read(lm: LoadedLM, context: str, source: Source, press: Any | None, begin: float | None = None) -> Read:
    """Prefill a chat, with a press or without one, and score the gold answer behind it."""
    from transformers import DynamicCache

    begin = time.perf_counter() if begin is None else begin
    ids, before = prompt_of(lm, context, source.question)
    answer = lm.tokenizer(source.answers[0], add_special_tokens=False)["input_ids"][:ANSWER_TOKENS]
    cache = DynamicCache()

    def forward(part: Sequence[int], at: int, keep: int = 1) -> torch.Tensor:
        tokens = torch.tensor([list(part)], device=lm.device)
        positions = torch.arange(at, at + len(part), device=lm.device)[None]
        logits: torch.Tensor = lm.model(
            tokens, past_key_values=cache, position_ids=positions, logits_to_keep=keep
        ).logits[0]
        return logits

    with torch.inference_mode():
        with press(lm.model) if press is not None else contextlib.nullcontext():
            forward(ids[:before], 0)
        # Positions go on where the whole prompt ended: kept keys carry those they were read at.
        first = forward(ids[before:], before)
        seconds = time.perf_counter() - begin
        held = max(layer.keys.shape[-2] for layer in cache.layers)
        rest = forward(answer[:-1], len(ids), len(answer) - 1) if len(answer) > 1 else first[:0]
        logits = torch.cat([first, rest]).float()
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(answer, device=lm.device))
    return Read(seconds, held, float(nll))


def methods(lm: LoadedLM, options: argparse.Namespace) -> dict[str, Callable[[Source], Read]]:
    """Name -> how it reads a case."""
    import kvpress

    from tokenprune import Pipeline

    def whole(source: Source) -> str:
        return "\n\n".join(document.text for document in source.documents)

    def pressed(name: str, ratio: float) -> Callable[[Source], Read]:
        return lambda source: read(lm, whole(source), source, getattr(kvpress, name)(compression_ratio=ratio))

    def pruned(name: str) -> Callable[[Source], Read]:
        pipeline = Pipeline([name])

        def run(source: Source) -> Read:
            begin = time.perf_counter()
            left = pipeline.prune(source.question, source.documents).documents
            return read(lm, "\n\n".join(d.text for d in left if d.text), source, None, begin)

        return run

    found: dict[str, Callable[[Source], Read]] = {"full": lambda s: read(lm, whole(s), s, None)}
    found |= {
        f"{name} {ratio:g}": pressed(name, ratio) for name in options.presses for ratio in options.ratios
    }
    return found | {name: pruned(name) for name in options.methods}


def turns(names: Sequence[str], cases: Sequence[Source]) -> Iterator[tuple[Source, list[str]]]:
    """Each case with the methods in an order of its own."""
    for n, case in enumerate(cases):
        at = n % len(names)
        yield case, [*names[at:], *names[:at]]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--workload", default="rag-nq20:1500")
    made.add_argument("--limit", type=int, default=4)
    made.add_argument("--presses", type=words, default=list(PRESSES), help="class names of kvpress")
    made.add_argument("--ratios", type=floats, default=[0.5, 0.9], help="shares that are dropped")
    made.add_argument("--methods", type=words, default=["provence"], help="ours, by name")
    made.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "out")
    return made


def main(argv: list[str] | None = None) -> None:
    made = parser()
    options = made.parse_args(argv)
    try:
        import kvpress
    except ModuleNotFoundError:
        made.error("kvpress is not installed here: `make bench-kvpress` makes an environment for it")
    if unknown := [name for name in options.presses if not hasattr(kvpress, name)]:
        made.error(f"kvpress has no {', '.join(unknown)}")
    cases = sources(options.workload, options.limit)
    lm = load_causal_lm(MODEL)
    chosen = methods(lm, options)
    for run in chosen.values():  # what is loaded or compiled at the first use is not measured
        run(sources(options.workload, options.limit + 1)[-1])
    found: dict[str, list[Read]] = {name: [] for name in chosen}
    for case, order in turns(list(chosen), cases):
        for name in order:
            found[name].append(chosen[name](case))
            print(f"{case.id} {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    full = float(np.median([r.seconds for r in found["full"]]))
    command = f"python benchmarks/kv_peers/run.py {shlex.join(argv if argv is not None else sys.argv[1:])}"
    lines = [
        f"{machine()}; {time.strftime('%Y-%m-%d %H:%M')}; `{command.strip()}`; {len(cases)} cases",
        "",
        "| | to the first token, s | times shorter than full | pairs held per layer | gold-answer NLL |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, reads in found.items():
        seconds = float(np.median([r.seconds for r in reads]))
        held, nll = np.mean([r.held for r in reads]), np.mean([r.nll for r in reads])
        lines.append(f"| {name} | {seconds:.2f} | {full / seconds:.2f} | {held:.0f} | {nll:.2f} |")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "kv_peers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
