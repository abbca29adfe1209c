"""Cutting the context part of a prompt into its passages: tagged, labelled, numbered, or one whole."""

import re
from dataclasses import dataclass
from itertools import islice

from tokenprune.detect import detect_kind

MAX_FRAME_PARAGRAPH = 600  # characters; an instruction is shorter than this
_MAX_TAIL = 600  # characters after the last numbered passage that are taken for instructions

# Inside brackets a title may hold brackets in pairs: "(Title: Wings (1927 film)) The film ..."
_IN_BRACKETS = r"(?:[^\n()]|\([^\n()]{0,200}\)){0,300}?"
_TITLE = (
    r"(?:(?P<open>\()?Title:[ \t]?(?P<title>(?(open)" + _IN_BRACKETS + r"|[^\n]{0,300}?))"
    r"(?(open)\)(?:[ \t]{0,4}(?:\n|\Z)|[:：.]?[ \t]?)|[ \t]{0,4}(?:\n|\Z)))?"
)


@dataclass(frozen=True, slots=True)
class PassageRule:
    """A way to label passages.

    Attributes:
        name: for messages and tests.
        label: matches a label at a line start; groups ``n`` (number) and ``title`` are optional.
        min_count: fewer labels are not believed.
        min_mean: mean passage length in characters below which the labels are thought to be a list.
    """

    name: str
    label: re.Pattern[str]
    min_count: int = 2
    min_mean: int = 0


PASSAGE_RULES: tuple[PassageRule, ...] = (
    PassageRule(
        "bracket-number", re.compile(r"^[ \t]{0,4}\[(?P<n>\d{1,4})\][:.)]?[ \t]{0,4}\n?" + _TITLE, re.M)
    ),
    PassageRule(
        "named-number",
        re.compile(
            r"^[ \t]{0,4}[#*]{0,4}[ \t]?(?:document|doc|passage|source|chunk|snippet|excerpt|result|reference"
            r"|context|article|paragraph|evidence|文档|文檔|段落|資料)"
            r"[ \t]?[\[(#]?(?P<n>\d{1,4})[\])]?[*]{0,2}[ \t]?"
            r"(?:\(Title:[ \t]?(?P<title>" + _IN_BRACKETS + r")\))?[ \t]?[:：.)\-]?[*]{0,2}[ \t]?",
            re.I | re.M,
        ),
        min_count=1,
    ),
    PassageRule(
        "id-content",  # RAGFlow: fields of a chunk, drawn as a tree or not, the text last
        re.compile(
            r"^(?:-{3,}\n\n?)?ID:[ \t]?[^\s:]{1,64}[ \t]*\n"
            r"(?:(?:[├|][─-]{1,3}[ \t]?)?Title:[ \t]?(?P<title>[^\n]{0,2000})\n)?"
            r"(?:(?:[├|][─-]{1,3}[ \t]?)?(?!Content:)[^\W\d][^\n:：]{0,40}[:：][^\n]{0,2000}\n){0,12}"
            r"(?:[└`|][─-]{1,3}[ \t]?)?Content:[ \t]?\n?",
            re.M,
        ),
        min_count=1,
    ),
    PassageRule(
        "title-content",
        re.compile(
            r"^Title:[ \t]?(?P<title>[^\n]{0,300})\n(?:Content|Text|Body|Passage|Snippet|Abstract):[ \t]?\n?",
            re.I | re.M,
        ),
        min_count=1,
    ),
    PassageRule(
        "file-head",
        re.compile(
            r"^(?P<line>-{3,10}|={3,10})[ \t]?(?:(?:file|document|source|path)(?:name)?:[ \t]?)?"
            r"(?P<title>[^\s|=-][^\n|]{0,200}?\.[A-Za-z]\w{0,9})[ \t]?(?P=line)[ \t]*\n",
            re.I | re.M,
        ),
    ),
    PassageRule("number-dot", re.compile(r"^(?P<n>\d{1,3})[.)][ \t]{1,4}", re.M), min_mean=120),
)
_LABELS = tuple(rule.label for rule in PASSAGE_RULES if not rule.min_mean)
PASSAGE_TAG = re.compile(
    r"<(/?)(document_content|documents?|docs?|passages?|contexts?|chunks?|snippets?|excerpts?|search_results?)"
    r"\b([^<>]{0,300})>",
    re.I,
)
# Names that say less: elements of these are passages where several have a number or a name of their own.
_NUMBERED = re.compile(
    r"<(source|item|result|entry|file)\s[^<>]{0,300}?\b(?:id|index|name|path|number)=", re.I
)
_ANY_TAG = re.compile(
    PASSAGE_TAG.pattern.replace("(document_content|", "(source|item|result|entry|file|document_content|", 1),
    re.I,
)
TAG_TITLE = re.compile(r"title=[\"']([^\"'<>]{0,300})[\"']", re.I)
TAG_SOURCE = re.compile(r"<(?:source|title)>([^<>]{1,300})</", re.I)
WRAPPERS = ("document", "doc", "passage", "chunk", "snippet", "excerpt", "search_result")


@dataclass(frozen=True, slots=True)
class Passage:
    """Characters start..end are prunable; ``drop`` goes when nothing of them is kept (None: just they)."""

    start: int
    end: int
    title: str | None = None
    drop: tuple[int, int] | None = None


def paragraph_after(text: str, start: int, end: int) -> tuple[int, int]:
    """Start and end of the first paragraph in ``text[start:end]``, blank space before it skipped."""
    while start < end and text[start] in " \t\r\n":
        start += 1
    cut = text.find("\n\n", start, end)
    return start, end if cut < 0 else cut


def begins_passage(text: str, start: int, end: int) -> bool:
    """Whether ``text[start:end]`` begins with a passage's label or tag; numbers of a list do not count."""
    head = text[start:end].lstrip()
    return PASSAGE_TAG.match(head) is not None or any(label.match(head) for label in _LABELS)


def stands_between(text: str, start: int, at: int, end: int) -> bool:
    """Whether passages with labels of one kind are on both sides of ``at`` in ``text[start:end]``."""
    return any(label.search(text, start, at) and label.search(text, at, end) for label in _LABELS)


def split_passages(text: str, start: int, end: int) -> tuple[str, tuple[Passage, ...]]:
    """The name of the rule that fits and the passages of the context ``text[start:end]``."""
    tagged = _tagged(text, start, end)
    if tagged:
        return "tags", tagged
    if detect_kind(text[start:end]) == "text":
        for rule in PASSAGE_RULES:
            passages = _labelled(rule, text, start, end)
            if passages:
                return rule.name, passages
    return "whole", (Passage(start, end),)


def _tagged(text: str, start: int, end: int) -> tuple[Passage, ...]:
    """Contents of the innermost passage elements; one alone in its element takes that along when dropped."""
    passages: list[Passage] = []
    opened: list[tuple[re.Match[str], int]] = []  # open elements, and how many passages came before each
    numbered = list(islice(_NUMBERED.finditer(text, start, end), 2))
    for tag in (_ANY_TAG if len(numbered) > 1 else PASSAGE_TAG).finditer(text, start, end):
        if not tag.group(1):
            if not tag.group(3).rstrip().endswith("/"):
                opened.append((tag, len(passages)))
            continue
        if not opened or opened[-1][0].group(2).lower() != tag.group(2).lower():
            opened.clear()
            continue
        opening, before = opened.pop()
        element = (opening.start(), tag.end())
        if len(passages) == before:
            title = TAG_TITLE.search(opening.group(3))
            passages.append(Passage(opening.end(), tag.start(), title.group(1) if title else None, element))
        elif len(passages) == before + 1 and tag.group(2).lower() in WRAPPERS:
            inner = passages[before]
            source = TAG_SOURCE.search(text, opening.end(), min(inner.start, opening.end() + 400))
            title_of = inner.title or (source.group(1).strip() if source else None)
            passages[before] = Passage(inner.start, inner.end, title_of, element)
    return tuple(passages)


def _labelled(rule: PassageRule, text: str, start: int, end: int) -> tuple[Passage, ...]:
    # The first label may follow "Context:" on its line; cut out, the context begins at a line start.
    start = end - len(text[start:end].lstrip())
    context = text[start:end]
    labels: list[re.Match[str]] = []
    expected: int | None = None
    numbered = "n" in rule.label.groupindex
    for label in rule.label.finditer(context):
        if numbered:
            number = int(label.group("n"))
            # Numbers that do not follow on belong to a list or a reference inside a passage.
            if number != expected and (expected is not None or number > 1):
                continue
            expected = number + 1
        labels.append(label)
    if len(labels) < rule.min_count or labels[0].start() > MAX_FRAME_PARAGRAPH:
        return ()
    stops = [label.start() for label in labels[1:]] + [_last_stop(context, labels[-1].end())]
    if sum(stops) - sum(label.end() for label in labels) < rule.min_mean * len(labels):
        return ()
    titled = "title" in rule.label.groupindex
    return tuple(
        Passage(
            start + label.end(),
            start + stop,
            (label.group("title") or "").strip() or None if titled else None,
            (start + label.start(), start + stop),
        )
        for label, stop in zip(labels, stops, strict=True)
    )


def _last_stop(context: str, start: int) -> int:
    """Where the last labelled passage ends: nothing marks it, and instructions may follow its blank line."""
    at, cut = paragraph_after(context, start, len(context))
    return cut if at < cut and len(context) - cut <= _MAX_TAIL else len(context)
