"""How each workload is made of its excerpts; ``size`` is about the tokens of a prompt, None as it comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from tokenprune.bench.excerpts import Chunk, chunks, filled, generator, rows
from tokenprune.bench.source import Source, Turn, question_turn
from tokenprune.document import Document
from tokenprune.errors import ConfigError
from tokenprune.tokens import get_counter
from tokenprune.training.sets import text_key

Recipe = Callable[[int | None, int], Iterator[Source]]
Row = Mapping[str, Any]

SHORT = "Answer the question with a few words, using the context only."
LABEL = 8  # tokens around a passage: number, "Title:", line ends
FRAME = 40  # tokens of a prompt around its documents, the question included

TURNS = 6  # of a conversation
TURN_PASSAGES = 5  # each turn brings unless a size is asked for
RESULTS = 10  # of one search
NEEDLE_SIZES = (500, 1_000, 2_500, 4_000, 7_500)
NEEDLES_EACH = 6
SHOTS = 12


def _shuffled(found: Sequence[Row], seed: int, name: str) -> list[Row]:
    return [found[i] for i in generator(seed, name).permutation(len(found))]


def _document(chunk: Chunk) -> Document:
    return Document(chunk.text, kind="text", title=chunk.title or None)


# -- Natural Questions ----------------------------------------------------------------------------------


@cache
def _passages() -> dict[int, Chunk]:
    found = rows("nq20-passages")
    counted = chunks([(row["title"], row["text"]) for row in found])
    return {row["id"]: chunk for row, chunk in zip(found, counted, strict=True)}


def _retrieved(item: Row, room: int | None, seed: int, most: int | None = None) -> list[Chunk]:
    """Passages for a question in random order, those that answer it among them.

    Args:
        item: a row of nq20.
        room: tokens for them; None: the 20 of the item.
        seed: of the order.
        most: no more passages than this.
    """
    known, rng = _passages(), generator(seed, "nq20", item["id"])
    gold = [known[n] for n in item["gold"]]
    own = [known[n] for n in item["passages"] if n not in item["gold"]]
    own = [own[i] for i in rng.permutation(len(own))]
    if room is None:
        taken = (gold + own)[:most]
    else:
        answers = [key for answer in item["answers"] if (key := text_key(answer))]
        listed = set(item["passages"])
        others = [c for n, c in known.items() if n not in listed]
        # A distractor that holds the answer would be evidence that nobody counts.
        pool = own + [c for i in rng.permutation(len(others)) if not _holds(c := others[i], answers)]
        taken = filled(gold, pool, room, LABEL)[:most]
    return [taken[i] for i in rng.permutation(len(taken))]


def _holds(chunk: Chunk, answers: Sequence[str]) -> bool:
    key = text_key(chunk.text)
    return any(answer in key for answer in answers)


def rag_nq20(size: int | None, seed: int) -> Iterator[Source]:
    """A question and 20 numbered passages, about 2,500 tokens."""
    for item in _shuffled(rows("nq20-questions"), seed, "rag-nq20"):
        found = _retrieved(item, None if size is None else size - FRAME, seed)
        yield Source(
            id=item["id"],
            question=item["question"],
            turns=(Turn("system", (SHORT,)), question_turn([_document(c) for c in found], item["question"])),
            answers=tuple(item["answers"]),
            evidence=tuple(item["evidence"]),
        )


def chat_long(size: int | None, seed: int) -> Iterator[Source]:
    """Conversations of six turns, each turn a request; ``size`` is that of the last."""
    items = _shuffled(rows("nq20-questions"), seed, "chat-long")
    for begin in range(0, len(items) - TURNS + 1, TURNS):
        group = f"chat-{begin // TURNS + 1}"
        turns: list[Turn] = [Turn("system", (SHORT,))]
        for n, item in enumerate(items[begin : begin + TURNS], 1):
            room = None if size is None else size // TURNS - FRAME
            found = _retrieved(item, room, seed, TURN_PASSAGES if size is None else None)
            turns.append(question_turn([_document(c) for c in found], item["question"]))
            yield Source(
                id=f"{group}-{n}",
                question=item["question"],
                turns=tuple(turns),
                answers=tuple(item["answers"]),
                evidence=tuple(item["evidence"]),
                group=group,
            )
            turns.append(Turn("assistant", (f"{item['answers'][0]}.",)))


# -- pages ------------------------------------------------------------------------------------------------


@cache
def _pages() -> dict[str, Chunk]:
    found = rows("html-pages")
    counted = chunks([(row["title"], row["html"]) for row in found])
    return {row["id"]: chunk for row, chunk in zip(found, counted, strict=True)}


def rag_html(size: int | None, seed: int) -> Iterator[Source]:
    """A question and the page that answers it; with a size, as many other pages as fit."""
    pages = _pages()
    items = _shuffled(rows("html-pages"), seed, "rag-html")
    room = None if size is None else size - FRAME
    fitting = [i for i in items if room is None or pages[i["id"]].tokens <= room]
    if not fitting:
        smallest = min(page.tokens for page in pages.values())
        raise ConfigError(f"rag-html:{size}: the smallest page has {smallest} tokens; ask for more")
    for item in fitting:
        found, rng = [pages[item["id"]]], generator(seed, "rag-html", item["id"])
        if room is not None:
            others = [c for name, c in pages.items() if name != item["id"]]
            found = filled(found, [others[i] for i in rng.permutation(len(others))], room, LABEL)
            found = [found[i] for i in rng.permutation(len(found))]
        titled = len(found) > 1
        documents = [Document(c.text, kind="html", title=c.title if titled else None) for c in found]
        yield Source(
            id=item["id"],
            question=item["question"],
            turns=(Turn("system", (SHORT,)), question_turn(documents, item["question"])),
            answers=tuple(item["answers"]),
            evidence=tuple(item["evidence"]),
        )


# -- agents -----------------------------------------------------------------------------------------------

AGENT = "You are a research agent. Use the tools, then answer from what they returned."
TOOL_NAMES = ("web_search", "list_pages", "read_page")


def _called(number: int, name: str, arguments: Mapping[str, Any]) -> tuple[Turn, str]:
    call = f"call_{number}"
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    fields = {"tool_calls": [{"id": call, "type": "function", "function": function}]}
    return Turn("assistant", (), fields), call


def _returned(call: str, name: str, document: Document | str) -> Turn:
    return Turn("tool", (document,), {"tool_call_id": call, "name": name})


def _results(found: Sequence[Chunk]) -> Document:
    parts = [f"Result {n}: {c.title}\n{c.text}" for n, c in enumerate(found, 1)]
    return Document("\n\n".join(parts), kind="text")


def agent_tools(size: int | None, seed: int) -> Iterator[Source]:
    """Tasks by turns: two searches of ten results each, or a list of pages and one that is read.

    With a size only searches, whose results it fixes.
    """
    searches = _shuffled(rows("nq20-questions"), seed, "agent-tools")
    reads = _shuffled(rows("html-pages"), seed, "agent-tools") if size is None else []
    for n, item in enumerate(searches):
        yield _search_task(item, size, seed)
        if n < len(reads):
            yield _read_task(reads[n], reads)


def _search_task(item: Row, size: int | None, seed: int) -> Source:
    found = _retrieved(item, None if size is None else size - 2 * FRAME, seed, None if size else 2 * RESULTS)
    half = (len(found) + 1) // 2
    question = f"{item['question'].rstrip('?').capitalize()}?"
    turns = [Turn("system", (AGENT,)), Turn("user", (question,))]
    for number, (query, part) in enumerate(
        ((item["question"], found[:half]), (f"{item['question']} facts", found[half:])), 1
    ):
        if part:
            asked, call = _called(number, "web_search", {"query": query, "count": len(part)})
            turns += [asked, _returned(call, "web_search", _results(part))]
    return Source(
        id=f"search-{item['id']}",
        question=question,
        turns=tuple(turns),
        answers=tuple(item["answers"]),
        evidence=tuple(item["evidence"]),
    )


def _read_task(item: Row, pages: Sequence[Row]) -> Source:
    listed, call_list = _called(1, "list_pages", {})
    names = [{"title": page["title"], "id": page["id"]} for page in pages]
    read, call_read = _called(2, "read_page", {"id": item["id"]})
    question = f"{item['question'].rstrip('?')}?"
    return Source(
        id=f"read-{item['id']}",
        question=question,
        turns=(
            Turn("system", (AGENT,)),
            Turn("user", (question,)),
            listed,
            _returned(call_list, "list_pages", json.dumps(names, ensure_ascii=False)),
            read,
            _returned(call_read, "read_page", Document(item["html"], kind="html")),
        ),
        answers=tuple(item["answers"]),
        evidence=tuple(item["evidence"]),
    )


# -- one document, several questions ------------------------------------------------------------------------


@cache
def _sections() -> dict[str, tuple[Chunk, ...]]:
    return {
        row["title"]: chunks([(s["title"], s["text"]) for s in row["sections"]]) for row in rows("articles")
    }


def shared_document(size: int | None, seed: int) -> Iterator[Source]:
    """An article and its questions; a size cuts what no question needs, or adds parts of other articles."""
    known = _sections()
    for row in _shuffled(rows("articles"), seed, "shared-document"):
        rng = generator(seed, "shared-document", row["title"])
        questions = list(row["questions"])
        parts = list(known[row["title"]])
        if size is not None:
            parts = _resized(row, parts, size - 2 * FRAME, rng)
            text = "\n".join(c.text for c in parts)
            questions = [q for q in questions if all(e in text for e in q["evidence"])]
        # Single line ends: what is between two empty lines could be the user's own words.
        text = "\n".join(f"{c.title}\n{c.text}" if c.title else c.text for c in parts)
        document = Document(text, kind="text")
        for q in questions:
            yield Source(
                id=q["id"],
                question=q["question"],
                turns=(Turn("system", (SHORT,)), question_turn([document], q["question"])),
                evidence=tuple(q["evidence"]),
                group=row["title"],
            )


def _resized(row: Row, own: list[Chunk], room: int, rng: Any) -> list[Chunk]:
    """The article's parts in order, then parts of others in random order, as far as they fit."""
    needed = [c for c in own if any(e in c.text for q in row["questions"] for e in q["evidence"])]
    while len(needed) > 1 and sum(c.tokens for c in needed) > room:
        needed.pop()
    others = [c for title, found in _sections().items() if title != row["title"] for c in found]
    pool = [c for c in own if c not in needed] + [others[i] for i in rng.permutation(len(others))]
    taken = filled(needed, pool, room, 1)
    return [c for c in own if c in taken] + [c for c in taken if c not in own]


# -- a needle -----------------------------------------------------------------------------------------------

_PLACES = (
    "north harbour, old mill, east gate, river station, hill observatory, south depot, glass house, west pier"
)
_THINGS = (
    ("The door code of the {} is {}.", "What is the door code of the {}?"),
    ("The night guard of the {} has the extension {}.", "Which extension has the night guard of the {}?"),
    ("The spare key of the {} hangs on hook {}.", "On which hook does the spare key of the {} hang?"),
    ("The meter of the {} showed {} last winter.", "What did the meter of the {} show last winter?"),
)  # fmt: skip


def needle(size: int | None, seed: int) -> Iterator[Source]:
    """One invented sentence in paragraphs of an encyclopedia; the lengths take turns."""
    hay = chunks([("", p) for row in rows("haystack") for p in row["paragraphs"]])
    places = _PLACES.split(", ")
    sizes = NEEDLE_SIZES if size is None else (size,)
    for n in range(NEEDLES_EACH * len(NEEDLE_SIZES)):
        tokens = sizes[n % len(sizes)]
        rng = generator(seed, "needle", str(n))
        place = places[int(rng.integers(len(places)))]
        said, asked = _THINGS[int(rng.integers(len(_THINGS)))]
        code = str(rng.integers(10_000, 99_999))
        fact, question = said.format(place, code), asked.format(place)
        begin = int(rng.integers(len(hay)))
        pool = [*hay[begin:], *hay[:begin]]
        room = tokens - FRAME - get_counter().count(fact)
        paragraphs = [c.text for c in filled([], pool, room, 1)]
        at = int(rng.integers(len(paragraphs) + 1))
        text = "\n".join([*paragraphs[:at], fact, *paragraphs[at:]])
        yield Source(
            id=f"needle-{tokens}-{n + 1}",
            question=question,
            turns=(Turn("system", (SHORT,)), question_turn([Document(text, kind="text")], question)),
            answers=(code,),
            evidence=(fact,),
        )


# -- worked examples ----------------------------------------------------------------------------------------


def few_shot(size: int | None, seed: int) -> Iterator[Source]:
    """Worked problems of a primary school and a new one."""
    found = rows("gsm8k")
    shown = [f"Question: {row['question']}\nAnswer: {row['solution']}" for row in found]
    counted = chunks([("", text) for text in shown])
    picked = generator(seed, "few-shot").permutation(len(found))
    for n in picked[: len(found) // 5]:
        row = found[n]
        rng = generator(seed, "few-shot", row["id"])
        others = [counted[i] for i in rng.permutation(len(found)) if i != n]
        room = None if size is None else size - FRAME - get_counter().count(row["question"])
        examples = others[:SHOTS] if room is None else filled([], others, room, 2)
        pieces: list[str | Document] = []
        for example in examples:
            pieces += [Document(example.text, kind="examples"), "\n\n"]
        yield Source(
            id=row["id"],
            question=row["question"],
            turns=(
                Turn("system", ("Solve the problem step by step. End with #### and the number.",)),
                Turn("user", (*pieces, f"Question: {row['question']}\nAnswer:")),
            ),
            answers=(row["answer"],),
            max_tokens=256,
        )


RECIPES: dict[str, Recipe] = {
    "rag-nq20": rag_nq20,
    "rag-html": rag_html,
    "chat-long": chat_long,
    "agent-tools": agent_tools,
    "shared-document": shared_document,
    "needle": needle,
    "few-shot": few_shot,
}
