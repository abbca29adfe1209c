"""Silver labels from any OpenAI-compatible server (Provence, arXiv 2501.16214, section 3.2).

    python -m tokenprune.training.silver --upstream http://localhost:8000 --model NAME --in FILE --out FILE

FILE is JSONL, plain or ``.gz``, one ``{"id", "question", "passages": [{"title", "sentences" or "text"}]}``
a line; sets of the data folder have this form. OUT gets one line per item as it comes, in the schema that
:func:`tokenprune.training.sets.load_file` reads; items whose answer cites nothing are marked as dropped. A
run that was stopped goes on where it was.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprune.errors import ConfigError, MissingExtraError, ModelError, TokenPruneError
from tokenprune.models.progress import reporting
from tokenprune.training import citations
from tokenprune.training.sets import Item, rows, unlabelled

if TYPE_CHECKING:
    import httpx

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # statuses that another attempt may not meet
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Upstream:
    """A server and how it is asked.

    Args:
        url: with or without ``/v1``.
        model: name under which the model is served.
        api_key: sent as a bearer token.
        concurrency: requests under way at once.
        max_tokens: of an answer.
        timeout_s: seconds that one request may take.
        attempts: for one item, when the server is overloaded, fails or cannot be reached.
        first_wait_s: seconds before the second attempt; doubles each time, up to a minute, unless the server
            says ``retry-after``.
    """

    url: str
    model: str
    api_key: str | None = None
    concurrency: int = 8
    max_tokens: int = 256
    timeout_s: float = 300.0
    attempts: int = 6
    first_wait_s: float = 1.0


@dataclass(frozen=True)
class _Answer:
    item: Item
    text: str
    whole: bool  # not ended by the limit of tokens: what it would have cited is unknown


def label(
    items: Iterable[Item],
    out: Path,
    upstream: Upstream,
    advance: Callable[[], None] = lambda: None,
) -> Counter[str]:
    """Ask for the labels of items and append them to ``out``; items that stand there are not asked again.

    Args:
        items: passages with sentences; their labels do not count. The same id twice is asked once, but for
            one whose answer was cut by fewer tokens than it may have now.
        out: JSONL; made when absent. A last line that a killed run cut is taken off.
        upstream: whom to ask.
        advance: called for each item when it is done, or was before.

    Returns:
        How many items ``answered``, ``no answer``, ``uncited`` and ``cut`` (by ``max_tokens``; both are
        dropped) are in the file by the end, and how many of them were ``asked`` now.

    Raises:
        ModelError: The server cannot be reached or refuses; what came before is in ``out``.
        ConfigError: ``out`` has lines of another model, or is no such file.
    """
    if upstream.concurrency < 1 or upstream.attempts < 1:
        raise ConfigError("concurrency and attempts must be 1 or more")
    done = _resume(out, upstream)
    counts = Counter(done.values())
    out.parent.mkdir(parents=True, exist_ok=True)

    def wanted() -> Iterator[Item]:
        seen = set(done)
        for item in items:
            if item.id in seen:
                advance()
                continue
            seen.add(item.id)
            yield item

    with out.open("a", encoding="utf-8") as file:

        def write(answer: _Answer) -> None:
            row = _row(answer, upstream)
            file.write(json.dumps(row) + "\n")
            file.flush()
            counts[row["kind"]] += 1
            counts["asked"] += 1
            advance()

        asyncio.run(_ask_all(wanted(), upstream, write))
    return counts


async def _ask_all(items: Iterator[Item], upstream: Upstream, write: Callable[[_Answer], None]) -> None:
    """Workers take the next item each; the first error ends them all."""
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError("silver labels", "models", "httpx") from error
    root = upstream.url.rstrip("/").removesuffix("/v1")
    headers = {"x-tokenprune-enabled": "false"}  # a proxy of ours on the way must not prune the sentences
    if upstream.api_key:
        headers["authorization"] = f"Bearer {upstream.api_key}"
    try:
        client = httpx.AsyncClient(base_url=root, headers=headers, timeout=upstream.timeout_s)
    except (httpx.InvalidURL, ValueError) as error:
        raise ModelError(f"{upstream.url!r} is not the URL of a server: {error}") from error

    async def work() -> None:
        for item in items:
            write(await _ask(client, item, upstream))

    async with client:
        workers = [asyncio.create_task(work()) for _ in range(upstream.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _ask(client: httpx.AsyncClient, item: Item, upstream: Upstream) -> _Answer:
    import httpx

    body = {
        "model": upstream.model,
        "messages": [{"role": "user", "content": citations.prompt(item.question, item.passages)}],
        "temperature": 0,
        "max_tokens": upstream.max_tokens,
    }
    failure = ""
    for attempt in range(upstream.attempts):
        wait = min(_LONGEST_WAIT_S, upstream.first_wait_s * 2**attempt)
        try:
            response = await client.post("/v1/chat/completions", json=body)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise ModelError(f"{upstream.url!r} is not the URL of a server: {error}") from error
        except httpx.HTTPError as error:
            failure = f"cannot be reached ({type(error).__name__}: {error})"
        else:
            if response.status_code == 200:
                return _answer(response, upstream, item)
            failure = f"answers {response.status_code}: {response.text[:300]}"
            if response.status_code not in _PASSING:
                break
            with suppress(KeyError, ValueError):  # a date instead of seconds is not worth reading
                wait = min(_LONGEST_WAIT_S, max(0.0, float(response.headers["retry-after"])))
        if attempt + 1 < upstream.attempts:
            await asyncio.sleep(wait)
    raise ModelError(f"item {item.id!r}: {upstream.url} {failure}; run again to go on from here")


def _answer(response: httpx.Response, upstream: Upstream, item: Item) -> _Answer:
    try:
        choice = response.json()["choices"][0]
        text = choice["message"]["content"]
        if text is None or isinstance(text, str):
            return _Answer(item, text or "", choice.get("finish_reason") != "length")
    except (ValueError, LookupError, TypeError):
        pass
    raise ModelError(
        f"item {item.id!r}: {upstream.url} answers 200 without a chat completion: {response.text[:300]}"
    )


def _row(answer: _Answer, upstream: Upstream) -> dict[str, Any]:
    item = answer.item
    reading = citations.read(answer.text, item.passages)
    kind = reading.kind if answer.whole else "cut"
    row: dict[str, Any] = {"id": item.id, "model": upstream.model, "kind": kind, "raw": answer.text}
    if kind == "uncited":
        return row | {"dropped": True}
    if kind == "cut":
        return row | {"dropped": True, "max_tokens": upstream.max_tokens}
    return row | {
        "source": item.source,
        "question": item.question,
        "passages": [
            {"title": p.title, "sentences": p.sentences, "labels": p.labels} for p in reading.passages
        ],
        "answers": [reading.answer] if reading.kind == "answered" else [],
        "label_type": "silver_llm",
        "answerable": reading.kind == "answered",
        "group": item.group,
    }


def _resume(out: Path, upstream: Upstream) -> dict[str, str]:
    """Return id -> kind of what need not be asked again, and take off a line that a killed run cut."""
    if not out.exists():
        return {}
    with out.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)
    done: dict[str, str] = {}
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            row = json.loads(line)
            name, kind, labeller, most = row["id"], row["kind"], row["model"], row.get("max_tokens", 0)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{out}, line {number}, is not a silver label: give another --out") from error
        if labeller != upstream.model:
            raise ConfigError(
                f"{out} holds labels of model {labeller!r}, not {upstream.model!r}: give another --out"
            )
        if kind != "cut" or most >= upstream.max_tokens:
            done[name] = kind
    return done


def main(
    upstream: Annotated[str, typer.Option(help="URL of an OpenAI-compatible server.")],
    model: Annotated[str, typer.Option(help="Name under which it serves the model.")],
    source: Annotated[Path, typer.Option("--in", help="JSONL of questions and passages, plain or .gz.")],
    out: Annotated[Path, typer.Option(help="JSONL of labels; goes on where it ends.")],
    limit: Annotated[int | None, typer.Option(help="Label only so many items, from the first.")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests under way at once.")] = 8,
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds one request may take.")] = 300.0,
    attempts: Annotated[int, typer.Option(help="For an item, when the server is busy or fails.")] = 6,
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable that holds the key.")
    ] = "OPENAI_API_KEY",
) -> None:
    """Label the sentences of passages with a language model's citations.

    Example: python -m tokenprune.training.silver --upstream http://localhost:8000 --model M --in a.jsonl.gz
    --out labels.jsonl
    """
    try:
        items = [unlabelled(row) for row in rows(source)][:limit]
        settings = Upstream(
            upstream, model, os.environ.get(api_key_env), concurrency, max_tokens, timeout, attempts
        )
        with reporting("silver labels") as reporter:
            reporter.stage("items", len(items))
            counts = label(items, out, settings, lambda: reporter.advance(1))
    except TokenPruneError as error:
        typer.echo(f"tokenprune: {error}", err=True)
        raise typer.Exit(1) from error
    labelled = counts["answered"] + counts["no answer"]
    typer.echo(
        f"{out}: {labelled} labelled ({counts['no answer']} without an answer), {counts['uncited']} dropped, "
        f"because the answer cites nothing, {counts['cut']}, because it was not finished within "
        f"{max_tokens} tokens; {counts['asked']} asked now"
    )


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
