"""Question sets with labelled sentences: loading, and splits that share no document, passage or question.

The sets are those of a data folder (environment variable TOKENPRUNE_DATA), ``sentqa/NAME/NAME.jsonl.gz`` and
``retrieval/NAME/NAME.jsonl.gz``; none of them is part of the package. The split is by document: the key that
is hashed is the set's own ``group``, a Wikipedia article, a web site, a transcript, a biomedical paper. An
item of hotpotqa joins paragraphs of ten articles under one key, and a retrieval list joins passages of many
documents and is keyed by its query, so two folds can still hold the same passage, and several sets quote the
same Wikipedia text: :func:`split` takes such train and validation items out.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from tokenprune.errors import ConfigError, UnknownNameError
from tokenprune.segment.sentences import sentence_starts

Fold = Literal["train", "validation", "test"]
_NOT_A_LETTER = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class SetInfo:
    """What a set is and under which terms.

    Args:
        folder: ``sentqa`` (labelled sentences) or ``retrieval`` (lists of passages with relevance).
        licence: as its source states it.
        publishable: whether a model derived from it may be published.
    """

    folder: Literal["sentqa", "retrieval"]
    licence: str
    publishable: bool = True


SETS: dict[str, SetInfo] = {
    "evinf": SetInfo("sentqa", "MIT annotations; articles under their own CC licences, some NC", False),
    "hotpotqa": SetInfo("sentqa", "CC BY-SA 4.0"),
    "medquad": SetInfo("sentqa", "CC BY 4.0"),
    "nq_litm": SetInfo("sentqa", "MIT; text Wikipedia, CC BY-SA 3.0"),
    "nq_swap": SetInfo("sentqa", "MIT; text Wikipedia, CC BY-SA 3.0"),
    "policyqa": SetInfo("sentqa", "MIT"),
    "qed": SetInfo("sentqa", "text Wikipedia, CC BY-SA 3.0"),
    "qmsum": SetInfo("sentqa", "MIT"),
    "selqa": SetInfo("sentqa", "Apache-2.0; text Wikipedia, CC BY-SA 3.0"),
    "squad_rl": SetInfo("sentqa", "CC BY-SA 4.0"),
    "nq20": SetInfo("retrieval", "MIT; text Wikipedia, CC BY-SA 3.0"),
    "pubmedqa10": SetInfo("retrieval", "MIT"),
    "squad10": SetInfo("retrieval", "CC BY-SA 4.0"),
}
SENTENCE_SETS = tuple(name for name, info in SETS.items() if info.folder == "sentqa")
RETRIEVAL_SETS = tuple(name for name, info in SETS.items() if info.folder == "retrieval")


@dataclass(frozen=True)
class Passage:
    """A passage as its sentences, in document order, without the white space around them.

    Args:
        title: may be empty.
        sentences: none is empty.
        labels: 1 for each sentence that the question needs, else 0. Of a retrieval list and of medquad
            (``label_type`` says so) they are labels of the whole passage, repeated.
    """

    title: str
    sentences: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def text(self) -> str:
        """The sentences joined by spaces."""
        return " ".join(self.sentences)

    @property
    def relevant(self) -> bool:
        """Whether any sentence is needed."""
        return any(self.labels)


@dataclass(frozen=True)
class Item:
    """A question with its passages.

    Args:
        id: unique in its set; nq20 and nq_litm share ids, and so do squad10 and squad_rl.
        set_name: a key of :data:`SETS`.
        question: as asked.
        passages: at least one; for qmsum one, the whole transcript, whose sentences are turns.
        source: the origin as the set names it.
        group: the document that the split goes by.
        label_type: ``gold_*`` by people, ``silver_*`` derived from an answer span, ``passage_relevance``.
        answers: short answers; may be empty.
        occurrences: how often the answer occurs in the passages, where the labels came from its
            occurrences; above 1 some labels are wrong.
    """

    id: str
    set_name: str
    question: str
    passages: tuple[Passage, ...]
    source: str
    group: str
    label_type: str
    answers: tuple[str, ...] = ()
    occurrences: int = 1


@dataclass(frozen=True)
class Split:
    """Items by fold, and how many each set lost because they share text with a later fold.

    Args:
        lost: (set name, fold, why) -> count; why is ``question``, ``evidence`` (the item went) or
            ``passages`` (the item stayed and that many of its passages without a positive went).
    """

    train: list[Item]
    validation: list[Item]
    test: list[Item]
    lost: Counter[tuple[str, Fold, str]]


def data_folder(path: Path | str | None = None) -> Path:
    """Return the data folder: ``path``, else TOKENPRUNE_DATA.

    Raises:
        ConfigError: Neither names a folder that holds ``sentqa``.
    """
    named = path or os.environ.get("TOKENPRUNE_DATA")
    if not named or not (Path(named) / "sentqa").is_dir():
        raise ConfigError(f"no data folder with 'sentqa' at {str(named or '')!r}: set TOKENPRUNE_DATA to one")
    return Path(named)


def trainable(names: Iterable[str]) -> list[str]:
    """Return ``names`` when a model trained on all of them may be published.

    Raises:
        UnknownNameError: A name is not a set.
        ConfigError: A set may be used for evaluation only.
    """
    found = list(names)
    for name in found:
        info = _info(name)
        if not info.publishable:
            raise ConfigError(
                f"set {name!r} is for evaluation only ({info.licence}): leave it out of training"
            )
    return found


def load(name: str, data: Path | str | None = None) -> list[Item]:
    """Load a set, in the order of its file.

    Args:
        name: a key of :data:`SETS`.
        data: the data folder; TOKENPRUNE_DATA when None.

    Raises:
        UnknownNameError: There is no such set.
        ConfigError: The folder or a file is missing, or a line is not what the set's schema says.
    """
    info = _info(name)
    folder = data_folder(data) / info.folder / name
    try:
        if name == "qmsum":
            return list(_transcripts(folder))
        found = rows(folder / f"{name}.jsonl.gz")
        return (
            [_sentence_item(name, row) for row in found] if info.folder == "sentqa" else _lists(name, found)
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"cannot read set {name!r} in {folder}: {type(error).__name__}: {error}") from error


def load_file(path: Path, name: str) -> list[Item]:
    """Load a file in the schema of the sentence sets, plain or ``.gz``, as the set ``name``.

    Rows marked as dropped (see :mod:`tokenprune.training.silver`) are left out.

    Raises:
        ConfigError: The file is missing, or a line is not what the schema says.
    """
    try:
        return [_sentence_item(name, row) for row in rows(path) if not row.get("dropped")]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path} is not in the schema: {type(error).__name__}: {error}") from error


def unlabelled(row: dict[str, Any]) -> Item:
    """Read a question and passages, cut into sentences where they are not; all labels are 0.

    Raises:
        ConfigError: Something is missing, or of a wrong type.
    """
    try:
        passages = []
        for passage in row["passages"]:
            sentences = passage["sentences"] if "sentences" in passage else cut(passage["text"])
            passages.append(_passage(passage.get("title") or "", sentences, (0,) * len(sentences)))
        name, question = str(row["id"]), str(row["question"] if "question" in row else row["query"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "a line must be {id, question, passages: [{title, sentences or text}]}; this one has no or a "
            f"wrong {error}: {json.dumps(row)[:200]}"
        ) from error
    if not any(p.sentences for p in passages):
        raise ConfigError(f"item {name!r} has no sentences")
    return Item(
        name,
        "",
        question,
        tuple(passages),
        str(row.get("source", "")),
        str(row.get("group", name)),
        "none",
        tuple(row.get("answers", ())),
    )


def cut(text: str) -> tuple[str, ...]:
    """Cut a text into sentences without the white space around and the line ends inside them."""
    slices = (text[a:b] for a, b in pairwise([*sentence_starts(text), len(text)]))
    return tuple(" ".join(s.split()) for s in slices if s.strip())


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file, plain or ``.gz``.

    Raises:
        ConfigError: The file cannot be read, or a line is no JSON object.
    """
    number = 0
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ConfigError(f"{path}, line {number}: not a JSON object")
                    yield row
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ConfigError(f"{path}, at line {number}: {error}") from error


def fold_of(item: Item) -> Fold:
    """Return the fold of an item by the hash of its set and document: a tenth test, a tenth validation."""
    digest = hashlib.sha1(f"{item.set_name}:{item.group}".encode(), usedforsecurity=False).hexdigest()
    folds: dict[int, Fold] = {0: "test", 1: "validation"}
    return folds.get(int(digest, 16) % 10, "train")


def split(items: Iterable[Item]) -> Split:
    """Split items of all the sets that count; give it every set together, for it compares them all.

    Test items stay as they are. A validation item that shares its question, or a passage with a positive
    label, with any test item goes, and a train item that shares them with any validation or test item; their
    other passages that occur in a later fold go and the rest of the item stays. Texts are compared by letters
    and digits alone, without case, so tokenised and plain copies of the same passage are one.
    """
    folds: dict[Fold, list[Item]] = {"train": [], "validation": [], "test": []}
    for item in items:
        folds[fold_of(item)].append(item)
    keys = _Keys()
    lost: Counter[tuple[str, Fold, str]] = Counter()
    keys.add(folds["test"])
    validation = [kept for item in folds["validation"] if (kept := keys.rest(item, "validation", lost))]
    keys.add(validation)
    train = [kept for item in folds["train"] if (kept := keys.rest(item, "train", lost))]
    return Split(train, validation, folds["test"], lost)


def text_key(text: str) -> str:
    """Return letters and digits of a text without case: equal for tokenised and plain copies of a text."""
    return _NOT_A_LETTER.sub("", text.casefold())


class _Keys:
    """Questions and passages seen in later folds."""

    def __init__(self) -> None:
        self.questions: set[str] = set()
        self.passages: set[bytes] = set()
        self._digests: dict[tuple[str, ...], bytes] = {}  # transcripts recur with every question on them

    def _digest(self, passage: Passage) -> bytes:
        if passage.sentences not in self._digests:
            key = text_key(passage.text).encode()
            self._digests[passage.sentences] = hashlib.sha1(key, usedforsecurity=False).digest()
        return self._digests[passage.sentences]

    def add(self, items: Iterable[Item]) -> None:
        for item in items:
            self.questions.add(text_key(item.question))
            self.passages.update(map(self._digest, item.passages))

    def rest(self, item: Item, fold: Fold, lost: Counter[tuple[str, Fold, str]]) -> Item | None:
        """Return what of the item is not shared, None when it goes whole; count what went."""
        if text_key(item.question) in self.questions:
            lost[item.set_name, fold, "question"] += 1
            return None
        left = tuple(p for p in item.passages if self._digest(p) not in self.passages)
        gone = len(item.passages) - len(left)
        if not gone:
            return item
        if not left or sum(p.relevant for p in left) < sum(p.relevant for p in item.passages):
            lost[item.set_name, fold, "evidence"] += 1
            return None
        lost[item.set_name, fold, "passages"] += gone
        return replace(item, passages=left)


def _info(name: str) -> SetInfo:
    if name not in SETS:
        raise UnknownNameError("set", name, list(SETS))
    return SETS[name]


def _sentence_item(name: str, row: dict[str, Any]) -> Item:
    return Item(
        id=row["id"],
        set_name=name,
        question=row["question"],
        passages=tuple(_passage(p["title"], p["sentences"], p["labels"]) for p in row["passages"]),
        source=row["source"],
        group=row["group"],
        label_type=row["label_type"],
        answers=tuple(row["answers"]),
        occurrences=row.get("n_occurrences", 1),
    )


def _passage(title: str, sentences: Sequence[str], labels: Sequence[int]) -> Passage:
    pairs = [(s.strip(), int(label)) for s, label in zip(sentences, labels, strict=True) if s.strip()]
    return Passage(title, tuple(s for s, _ in pairs), tuple(label for _, label in pairs))


def _transcripts(folder: Path) -> Iterator[Item]:
    turns = {row["doc_id"]: tuple(row["turns"]) for row in rows(folder / "documents.jsonl.gz")}
    for row in rows(folder / "questions.jsonl.gz"):
        document = turns[row["doc_id"]]
        labels = [0] * len(document)
        for first, last in row["labels_runs"]:
            labels[first : last + 1] = [1] * (last + 1 - first)
        passage = Passage("", document, tuple(labels))
        yield replace(_sentence_item("qmsum", row | {"passages": []}), passages=(passage,))


def _lists(name: str, found: Iterable[dict[str, Any]]) -> list[Item]:
    known: dict[str, tuple[str, ...]] = {}  # a passage stands in many lists

    def passage(row: dict[str, Any]) -> Passage:
        text = row["text"]
        sentences = known[text] if text in known else known.setdefault(text, cut(text))
        return Passage(row["title"], sentences, (int(row["relevance"]),) * len(sentences))

    return [
        Item(
            id=row["id"],
            set_name=name,
            question=row["query"],
            passages=tuple(map(passage, row["passages"])),
            source=row["source"],
            group=row["id"],
            label_type="passage_relevance",
            answers=tuple(row["answers"]),
        )
        for row in found
    ]
