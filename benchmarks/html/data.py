"""Pages and questions. The folder is given by --data or the environment variable TOKENPRUNE_DATA."""

from __future__ import annotations

import gzip
import json
import random
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import bs4

SETS = ("docs", "docs-no-heading", "wikitables")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Question:
    id: str
    page_id: str
    question: str
    html: str = field(repr=False)
    key_sentences: tuple[str, ...]
    gold_rows: tuple[str, ...]
    answer: str


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@lru_cache(maxsize=4)
def pages(folder: Path, group: str) -> dict[str, str]:
    return {row["page_id"]: row["html"] for row in read_jsonl(folder / "html" / group / "pages.jsonl.gz")}


def questions(folder: Path, name: str, sample: int, seed: int) -> list[Question]:
    """Return ``sample`` questions of a set in an order fixed by the seed; smaller samples are its beginning.

    In ``docs-no-heading`` every heading and link whose text is the question is gone from the page, so that
    the answer must be found by its own words. Only FAQ questions are headings word for word.
    """
    group = "wikitables" if name == "wikitables" else "docs"
    rows = read_jsonl(folder / "html" / group / "questions.jsonl.gz")
    random.Random(seed).shuffle(rows)
    found: list[Question] = []
    for row in rows:
        if len(found) >= sample:
            break
        html = pages(folder, group)[row["page_id"]]
        if name == "docs-no-heading":
            if row["question_style"] != "faq_heading":
                continue
            html, deleted = without_heading(html, row["question"])
            if not deleted:
                continue
        answers = row.get("answers")
        found.append(
            Question(
                id=row["id"],
                page_id=row["page_id"],
                question=row["question"],
                html=html,
                key_sentences=tuple(row["key_sentences"]),
                gold_rows=tuple(row.get("gold_rows") or ()),
                answer=", ".join(answers) if answers else row["answer_text"],
            )
        )
    return found


_HEADING = re.compile(r"^(?:h[1-6]|dt|title|a)$")


def without_heading(html: str, question: str) -> tuple[str, int]:
    """Delete headings and links whose text ends with the question; return the page and how many went."""
    soup = bs4.BeautifulSoup(html, "html.parser")
    wanted = _letters(question)
    deleted = 0
    for element in soup.find_all(_HEADING):
        if not element.decomposed and wanted and _letters(element.get_text("")).endswith(wanted):
            element.decompose()
            deleted += 1
    return str(soup), deleted


def _letters(text: str) -> str:
    return re.sub(r"\W+", "", text.lower())


def boilerplate(folder: Path, sample: int, seed: int) -> list[dict[str, Any]]:
    rows = read_jsonl(folder / "html" / "boilerplate" / "boilerplate.jsonl.gz")
    random.Random(seed).shuffle(rows)
    return rows[:sample]


def speed_pages(folder: Path | None, count: int) -> list[tuple[str, str]]:
    """Return (name, page) of ``count`` pages spread evenly over the sizes there are, the largest included.

    Without the data folder: the page in examples/ and generated ones, so that a fresh clone can measure.
    """
    if folder is None:
        from benchmarks.html.scaling import GENERATORS

        example = (ROOT / "examples" / "uuid.html").read_text(encoding="utf-8")
        made = [(f"ordinary-{kb}KB", GENERATORS["ordinary"](kb * 1000)) for kb in (10, 100, 300)]
        return [("examples/uuid.html", example), *made][:count]
    found = [
        *pages(folder, "docs").items(),
        *pages(folder, "wikitables").items(),
        *((row["id"], row["html"]) for row in boilerplate(folder, 10**6, 0)),
    ]
    found.sort(key=lambda item: (len(item[1]), item[0]))
    # Pages below the first tenth are a few hundred bytes; the clock would measure the call.
    found = found[len(found) // 10 :]
    if count >= len(found):
        return found
    picks = [round(i * (len(found) - 1) / max(1, count - 1)) for i in range(count)]
    return [found[i] for i in picks]
