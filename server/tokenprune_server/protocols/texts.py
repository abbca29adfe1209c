"""From one string to document spans: templates, code fences, JSON."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tokenprune.detect import detect_kind
from tokenprune_server.protocols.base import Path, Rules, Span, estimate_tokens
from tokenprune_server.protocols.shapes import (
    asks_about_markup,
    code_ranges,
    is_few_shot,
    is_json,
    is_listing,
    json_ranges,
    needs_whole_text,
)
from tokenprune_server.protocols.templates import CONTEXT_MARK, Template, recognise

_TAG = re.compile(r"<[!?/a-zA-Z][^<>@]*>")  # not "<ann@example.org>"
_FENCE = re.compile(r"^[ \t]{0,3}(`{3,}|~{3,})", re.M)
_JSON_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"(?=(\s{0,64}:)?)', re.S)
_MIN_PROSE = 200  # characters between two code fences that are worth a document of their own

_QUERY_CHARS = 2000  # a query is a question, not a document: scorers read no more than this


@dataclass(frozen=True, slots=True)
class Reading:
    """How one string reads.

    Attributes:
        spans: its documents.
        question: its question, when it holds one.
        short: it is too short to be looked at.
        marked: its passages are marked as such (tags, labels, "Context:") or are HTML.
        whole: the documents are all of the text: nothing says what in it is a document.
        few_shot: it is a list of worked examples.
    """

    spans: tuple[Span, ...] = ()
    question: str | None = None
    short: bool = False
    marked: bool = False
    whole: bool = False
    few_shot: bool = False


def read_text(text: str, path: Path, rules: Rules, *, examples: bool = True) -> Reading:
    """Passages and question of a template, or the whole of a long text as one document.

    With ``examples``, a text of answered questions is no document: it shows the model what to do.
    """
    if estimate_tokens(text) < rules.min_part_tokens:
        return Reading(short=True)
    template = recognise(text)
    if examples and is_few_shot(text) and not _examples_are_passages(template, text):
        return Reading(few_shot=True, question=template.question if template is not None else None)
    if template is None:
        label = CONTEXT_MARK.match(text)
        spans = document_spans(text, label.end() if label is not None else 0, len(text), path, rules)
        return Reading(spans, marked=any(span.kind == "html" for span in spans), whole=True)
    found: list[Span] = []
    for passage in template.passages:
        mine = document_spans(text, passage.start, passage.end, path, rules, passage.title)
        if len(mine) == 1 and mine[0].text == text[passage.start : passage.end].strip():
            mine = (replace(mine[0], drop=passage.drop),)
        found += mine
    marked = template.marked or any(span.kind == "html" for span in found)
    return Reading(tuple(found), template.question, marked=marked)


def _examples_are_passages(template: Template | None, text: str) -> bool:
    """Whether the answered questions of a text are all inside marked passages."""
    if template is None or not template.marked or not template.passages:
        return False
    frame, at = [], 0
    for passage in template.passages:
        frame.append(text[at : passage.start])
        at = passage.end
    # The same labels inside and outside: the passages are the examples.
    outside = "".join(frame) + text[at:]
    return template.passage_rule != "whole" and not is_few_shot(outside)


def document_spans(
    text: str, start: int, end: int, path: Path, rules: Rules, title: str | None = None
) -> tuple[Span, ...]:
    """The range as documents: trimmed, without code, data and code fences unless the rules allow them."""
    chunk = text[start:end]
    kind = detect_kind(chunk)
    ranges = [(start, end)]
    if kind == "html":
        # What stands before and after a page is not of the page.
        first, last = _TAG.search(chunk), chunk.rfind(">")
        if first is not None:
            ranges = [(start + first.start(), start + last + 1)]
    else:
        ranges = [(start + a, start + b) for a, b in _prose(chunk, rules)]
    spans = []
    for a, b in ranges:
        inner = text[a:b]
        a, b = b - len(inner.lstrip()), a + len(inner.rstrip())
        if a < b:
            spans.append(Span(path, a, b, text[a:b], kind, title))
    return tuple(spans)


def _prose(text: str, rules: Rules) -> list[tuple[int, int]]:
    """The ranges of a text that are neither data nor (unless asked) code."""
    if is_json(text) or is_listing(text):
        return []
    ranges = _without(text, [(0, len(text))], json_ranges)
    if not rules.prune_code_fences:
        if "```" in text or "~~~" in text:
            ranges = _common(ranges, outside_fences(text))
        ranges = _without(text, ranges, code_ranges)
    if ranges == [(0, len(text))]:
        return ranges
    return [(a, b) for a, b in ranges if b - a >= _MIN_PROSE]


def _common(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What two lists of ranges have in common, in one pass; the ranges of each ascend and do not overlap."""
    found: list[tuple[int, int]] = []
    i = j = 0
    while i < len(some) and j < len(others):
        start, end = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if start < end:
            found.append((start, end))
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return found


def _without(
    text: str, ranges: list[tuple[int, int]], find: Callable[[str], list[tuple[int, int]]]
) -> list[tuple[int, int]]:
    """The ranges without what ``find`` gives for the text of each."""
    left: list[tuple[int, int]] = []
    for start, end in ranges:
        at = start
        for a, b in find(text[start:end]):
            left.append((at, start + a))
            at = start + b
        left.append((at, end))
    return [(a, b) for a, b in left if a < b]


def outside_fences(text: str) -> list[tuple[int, int]]:
    """The ranges between fenced code blocks; an unclosed fence runs to the end, as in CommonMark."""
    ranges: list[tuple[int, int]] = []
    at = 0
    fence: str | None = None
    for match in _FENCE.finditer(text):
        mark = match.group(1)
        if fence is None:
            ranges.append((at, match.start()))
            fence = mark
        elif mark[0] == fence[0] and len(mark) >= len(fence):
            fence = None
            line_end = text.find("\n", match.end())
            at = len(text) if line_end < 0 else line_end + 1
    if fence is None:
        ranges.append((at, len(text)))
    return ranges


_LABELLED_JSON = re.compile(r"[^\n\"{}\[\]]{1,80}[:：]\s{0,8}(?=[{\[])")


def is_data(text: str) -> bool:
    """Whether the text is JSON, perhaps behind a short label such as ``Result:``."""
    text = text.strip()
    label = _LABELLED_JSON.match(text)
    return is_json(text) or (label is not None and is_json(text[label.end() :]))


def json_spans(text: str, path: Path, rules: Rules) -> tuple[Span, ...]:
    """Long string values (never keys) of a JSON text as documents; every other byte of it is frame."""
    spans: list[Span] = []
    for match in _JSON_STRING.finditer(text):
        if match.group(2) is not None or estimate_tokens(match.group(1)) < rules.min_tokens:
            continue
        value = json.loads(match.group(0), strict=False)
        # Inner JSON (a schema, arguments of a call) is as untouchable as the outer one.
        kind = detect_kind(value)
        # Nor is code: a value is pruned only where all of it is prose.
        if kind == "html" or _prose(value, rules) == [(0, len(value))]:
            spans.append(Span(path, match.start(), match.end(), value, kind, quoted=True))
    return tuple(spans)


def without_code(spans: Sequence[Span], query: str | None) -> tuple[Span, ...]:
    """Those of some documents that a question may prune: a page is code where its code is asked about."""
    if not asks_about_markup(query):
        return tuple(spans)
    return tuple(span for span in spans if span.kind != "html")


def query_of(question: str | None, rules: Rules) -> tuple[str | None, bool]:
    """The query, and whether there is none because the question needs the whole text.

    The request's own query wins over the question that was found.
    """
    if rules.query is not None:
        return rules.query.strip() or None, False
    if question is None or not question.strip():
        return None, False
    if needs_whole_text(question):
        return None, True
    return question.strip()[-_QUERY_CHARS:], False
