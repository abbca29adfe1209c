"""One real RAG request, direct and through the proxy: `make demo`, or `make demo-vllm` with a real vLLM.

A documentation page of 18,000 tokens and a question it answers go to the same server twice. Printed and
written to build/demo.json: tokens, pruning time and time to first token (TTFT) before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

from openai import OpenAI
from rich.console import Console
from rich.table import Table

from tokenprune.models.catalog import model_path
from tokenprune.models.device import pick_dtype
from tokenprune.tokens import get_counter

HERE = Path(__file__).parent
MODEL = "smollm2-135m"
QUESTION = "Which function generates a random UUID?"
BUDGET = 150
CONTEXT = 8192  # positions SmolLM2 reads
RESERVED = 160  # chat template, question and answer
console = Console(stderr=True)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def server(name: str, command: list[str], ready: str, seconds: int = 300, **env: str):
    """Start a server, wait until its URL answers, stop it at the end."""
    with tempfile.NamedTemporaryFile("w+", suffix=".log", prefix=f"{name}-") as log:
        with console.status(f"starting {name} ..."):
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )
            try:
                wait(process, ready, seconds, log.name, name)
            except BaseException:
                process.kill()
                raise
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait(process: subprocess.Popen, url: str, seconds: int, log: str, name: str) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    tail = "\n".join(Path(log).read_text(errors="replace").splitlines()[-15:])
    raise SystemExit(f"{name} did not start:\n{tail}")


def embedded(port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", "--factory", "tokenprune_server.embedded:create_embedded_app"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
    ]


def vllm(port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_path(MODEL))),
        *("--served-model-name", MODEL, "--enforce-eager"),
        # bfloat16 is the faster one only where the processor multiplies it
        *("--dtype", str(pick_dtype("cpu", None)).removeprefix("torch.")),
        *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(CONTEXT)),
    ]


def ask(client: OpenAI, page: str, **tokenprune: object) -> tuple[str, float, float, int, dict[str, str]]:
    """Stream one answer: text, TTFT and total in seconds, prompt tokens, the proxy's headers."""
    begin = time.perf_counter()
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": f"Context:\n{page}\n\nQuestion: {QUESTION}\nAnswer:"}],
        max_tokens=48,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"tokenprune": tokenprune} if tokenprune else None,
    )
    text, first, prompt_tokens = "", None, 0
    for chunk in raw.parse():
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter() - begin
            text += chunk.choices[0].delta.content
            console.print(chunk.choices[0].delta.content, end="", style="dim", markup=False, highlight=False)
        if chunk.usage:
            prompt_tokens = chunk.usage.prompt_tokens
    console.print()
    total = time.perf_counter() - begin
    headers = {k: v for k, v in raw.headers.items() if k.startswith("x-tokenprune-")}
    return text.strip(), first or total, total, prompt_tokens, headers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--vllm", action="store_true", help="a real vLLM server instead of the built-in engine"
    )
    args = parser.parse_args()
    page = (HERE / "uuid.html").read_text(encoding="utf-8")
    counter = get_counter(MODEL)
    page_tokens = counter.count(page)
    starts = counter.starts(page)
    limit = CONTEXT - RESERVED
    cut = page[: int(starts[limit])] if page_tokens > limit else page

    upstream, proxy = free_port(), free_port()
    command = vllm(upstream) if args.vllm else embedded(upstream)
    name = "vLLM" if args.vllm else "the built-in engine"
    # vLLM's worker else polls on a core of its own while the proxy prunes
    env = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "TOKENPRUNE_VLLM_SPIN_SECONDS": "0.01"}
    with ExitStack() as stack:
        stack.enter_context(server(name, command, f"http://127.0.0.1:{upstream}/health", **env))
        serve = [sys.executable, "-m", "tokenprune", "serve", "--upstream", f"http://127.0.0.1:{upstream}"]
        url = f"http://127.0.0.1:{proxy}"
        stack.enter_context(server("the proxy", [*serve, "--port", str(proxy)], f"{url}/readyz", **env))
        direct = OpenAI(base_url=f"http://127.0.0.1:{upstream}/v1", api_key="none", timeout=900)
        pruned = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=900)
        console.print(f"\n[b]Question[/b] {QUESTION}")
        console.print(f"[b]Page[/b]     {page_tokens:,} tokens of HTML (Python documentation, uuid)")
        if cut is not page:
            console.print(
                f"         {MODEL} reads {CONTEXT:,} positions: the direct prompt is cut to its first "
                f"{counter.count(cut):,} tokens; the proxy gets the whole page\n"
            )
        ask_warm(direct, pruned)
        console.print("[b]direct[/b]   ", end="")
        answer_direct, ttft_direct, total_direct, in_direct, _ = ask(direct, cut)
        console.print("[b]pruned[/b]   ", end="")
        answer_pruned, ttft_pruned, total_pruned, in_pruned, headers = ask(pruned, page, max_tokens=BUDGET)

    report = {
        "question": QUESTION,
        "server": "vllm" if args.vllm else "embedded",
        "model": MODEL,
        "ttft_direct_s": round(ttft_direct, 4),
        "ttft_pruned_s": round(ttft_pruned, 4),
        "ttft_ratio": round(ttft_direct / ttft_pruned, 2),
        "total_direct_s": round(total_direct, 4),
        "total_pruned_s": round(total_pruned, 4),
        "tokens_before": int(headers.get("x-tokenprune-tokens-before", page_tokens)),
        "tokens_after": int(headers.get("x-tokenprune-tokens-after", page_tokens)),
        "prompt_tokens_direct": in_direct,
        "prompt_tokens_pruned": in_pruned,
        "prune_ms": float(headers.get("x-tokenprune-ms", "nan")),
        "decision": headers.get("x-tokenprune-decision", ""),
        "answer_direct": answer_direct,
        "answer_pruned": answer_pruned,
    }
    out = Path("build/demo.json")
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    show(report, out)


def ask_warm(direct: OpenAI, pruned: OpenAI) -> None:
    """One short request each, so that neither measurement pays for a first connection."""
    for client in (direct, pruned):
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=1, temperature=0
        )


def show(report: dict, out: Path) -> None:
    table = Table(title=f"One RAG request, {report['server']}, {report['model']}")
    for column in ("", "direct", "pruned"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(
        "prompt tokens", f"{report['prompt_tokens_direct']:,}", f"{report['prompt_tokens_pruned']:,}"
    )
    table.add_row("pruning, ms", "", f"{report['prune_ms']:.0f}")
    table.add_row(
        "TTFT, s (pruning included)", f"{report['ttft_direct_s']:.2f}", f"{report['ttft_pruned_s']:.2f}"
    )
    table.add_row("whole answer, s", f"{report['total_direct_s']:.2f}", f"{report['total_pruned_s']:.2f}")
    Console().print(table)
    Console().print(f"TTFT is [b]{report['ttft_ratio']:.1f}x[/b] shorter. Written to {out}.")


if __name__ == "__main__":
    main()
