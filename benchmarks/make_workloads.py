"""Make the excerpts of tokenprune/data/workloads from the data folder (TOKENPRUNE_DATA).

Only sets that may be published are read. Of the sets that the shipped labeler was trained on (nq20, selqa)
only items of the test fold are taken; it was trained on none of the others. Run it again and the same bytes
come out:

    TOKENPRUNE_DATA=/path/to/data python benchmarks/make_workloads.py
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup

from tokenprune.tokens import get_counter
from tokenprune.training.sets import Item, data_folder, fold_of, load, rows, text_key

OUT = Path(__file__).parents[1] / "tokenprune" / "data" / "workloads"
QUESTIONS = 48  # of nq20, 20 passages each
PAGES = {"wikitables": 14, "docs": 10}
PAGE_TOKENS = (2_800, 7_000)  # with the question it must fit a context of 8,192
ARTICLES = 12  # of selqa, at least MIN_QUESTIONS questions each
MIN_QUESTIONS = 4
HAYSTACK_TOKENS = 45_000
PROBLEMS = 160
MAX_EVIDENCE = 6


def order(name: str) -> str:
    """A fixed order that has nothing to do with the order of the source."""
    return hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()


def fold(text: str) -> str:
    return " ".join(text.split())


def write(name: str, found: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in found]
    packed = gzip.compress(("\n".join(lines) + "\n").encode(), compresslevel=9, mtime=0)
    (OUT / f"{name}.jsonl.gz").write_bytes(packed)
    print(f"{name}: {len(lines)} rows, {len(packed) / 1e3:.0f} KB")


def answer_sentences(item: Item) -> list[str]:
    """Sentences of relevant passages that hold an answer, compared by letters and digits."""
    answers = [key for answer in item.answers if (key := text_key(answer))]
    return [
        s
        for p in item.passages
        if p.relevant
        for s in p.sentences
        if any(answer in text_key(s) for answer in answers)
    ]


def nq20(data: Path) -> None:
    numbers: dict[tuple[str, str], int] = {}
    questions = []
    for item in sorted(load("nq20", data), key=lambda i: order(i.id)):
        evidence = answer_sentences(item)
        if fold_of(item) != "test" or not evidence or len(questions) == QUESTIONS:
            continue
        ids = [numbers.setdefault((p.title, p.text), len(numbers)) for p in item.passages]
        questions.append(
            {
                "id": item.id,
                "question": item.question,
                "answers": list(item.answers),
                "evidence": evidence,
                "gold": [n for n, p in zip(ids, item.passages, strict=True) if p.relevant],
                "passages": ids,
            }
        )
    write("nq20-questions", questions)
    write("nq20-passages", ({"id": n, "title": t, "text": x} for (t, x), n in numbers.items()))


def html(data: Path) -> None:
    count = get_counter().count
    made: list[dict[str, Any]] = []
    for name, wanted in PAGES.items():
        folder = data / "html" / name
        pages = {row["page_id"]: row for row in rows(folder / "pages.jsonl.gz")}
        taken: set[str] = set()
        for row in sorted(rows(folder / "questions.jsonl.gz"), key=lambda r: order(r["id"])):
            page = pages[row["page_id"]]
            if len(taken) == wanted or row["page_id"] in taken:
                continue
            if name == "docs" and not row["source"].startswith("python"):  # the others are under the GPL
                continue
            text = fold(BeautifulSoup(page["html"], "lxml").get_text(""))
            evidence = [e for e in map(fold, row["key_sentences"]) if e in text][:MAX_EVIDENCE]
            if name == "wikitables":
                # A short answer that stands all over the page would survive anything.
                evidence = [e for e in evidence if len(e) > 4 and text.count(e) <= 2]
            whole = len(evidence) == min(len(row["key_sentences"]), MAX_EVIDENCE)
            if not whole or not PAGE_TOKENS[0] <= count(page["html"]) <= PAGE_TOKENS[1]:
                continue
            taken.add(row["page_id"])
            made.append(
                {
                    "id": row["id"],
                    "source": f"{name}: {row['page_id']}",
                    "url": page.get("url", ""),
                    "title": page["title"],
                    "question": row["question"],
                    "answers": row.get("answers", evidence[:1]),
                    "evidence": evidence,
                    "html": page["html"],
                }
            )
    write("html-pages", made)


def articles(data: Path) -> None:
    """Articles of SelQA: the sections that questions were asked about, with the questions."""
    groups: dict[str, list[Item]] = {}
    for item in load("selqa", data):
        if fold_of(item) == "test":
            groups.setdefault(item.group, []).append(item)
    made = []
    for title, items in sorted(groups.items(), key=lambda pair: order(pair[0])):
        asked = [i for i in items if all(len(e) > 20 for e in _gold(i)) and _gold(i)]
        if len(asked) < MIN_QUESTIONS or len(made) == ARTICLES:
            continue
        sections: dict[str, str] = {}
        for item in items:
            for passage in item.passages:
                sections.setdefault(fold(passage.text), passage.title.rpartition(" / ")[2])
        made.append(
            {
                "title": title,
                "sections": [{"title": t, "text": x} for x, t in sections.items()],
                "questions": [{"id": i.id, "question": i.question, "evidence": _gold(i)} for i in asked[:6]],
            }
        )
    write("articles", made)


def _gold(item: Item) -> list[str]:
    sentences = ((s, y) for p in item.passages for s, y in zip(p.sentences, p.labels, strict=True))
    return [fold(s) for s, y in sentences if y]


def haystack(data: Path) -> None:
    """Paragraphs of WikiText-2 as people write them; what holds an unknown word is left out."""
    count, tokens = get_counter().count, 0
    made = []
    for row in sorted(rows(data / "lm" / "wikitext2" / "wikitext2.jsonl.gz"), key=lambda r: order(r["id"])):
        if "<unk>" in row["title"] or tokens >= HAYSTACK_TOKENS:
            continue
        paragraphs = [p for p in _paragraphs(row["text"]) if len(p) > 300][:12]
        tokens += sum(map(count, paragraphs))
        made.append({"title": untokenised(row["title"]), "paragraphs": paragraphs})
    write("haystack", made)


def _paragraphs(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if not line.startswith("= "):
            kept = [s for s in re.split(r"(?<=[.!?]) (?=[A-Z])", line) if "<unk>" not in s]
            yield fold(untokenised(" ".join(kept)))


def untokenised(text: str) -> str:
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r" ([,.;:!?%)\]]|'s\b|n't\b|'(?:ll|re|ve|d|m)\b)", r"\1", text)
    text = re.sub(r"([(\[$£]) ", r"\1", text)
    text = re.sub(r"\" ([^\"]*?) ?\"", r'"\1"', text)
    return re.sub(r"(\w) – (\d)", r"\1–\2", text)


def problems(data: Path) -> None:
    found = sorted(rows(data / "gsm8k" / "gsm8k.jsonl.gz"), key=lambda r: order(r["id"]))[:PROBLEMS]
    write("gsm8k", ({k: r[k] for k in ("id", "question", "solution", "answer")} for r in found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=None)
    data = data_folder(parser.parse_args().data)
    OUT.mkdir(parents=True, exist_ok=True)
    for part in (nq20, html, articles, haystack, problems):
        part(data)


if __name__ == "__main__":
    main()
