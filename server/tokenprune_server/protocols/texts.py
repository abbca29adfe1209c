"""From one string to document spans: templates, code fences, JSON."""

import json
import re
from dataclasses import dataclass, replace

from tokenprune.document import detect_kind
from tokenprune_server.protocols.base import Path, Rules, Span, estimate_tokens
from tokenprune_server.protocols.templates import recognise

_FENCE = re.compile(r"^[ \t]{0,3}(`{3,}|~{3,})", re.M)
_JSON_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"(?=(\s{0,64}:)?)', re.S)
_MIN_PROSE = 200  # characters between two code fences that are worth a document of their own

# Tasks that need the whole text: there is no part of it that matters less.
_WHOLE_TEXT = re.compile(
    r"\s{0,100}(?:please\s{1,10})?(?:(?:can|could|would) you\s{1,10}(?:please\s{1,10})?)?"
    r"(?:summari[sz]e|translate|rewrite|rephrase|paraphrase|proofread|convert|reformat|shorten|condense|repeat)\b",
    re.I,
)
_QUERY_CHARS = 2000  # a query is a question, not a document: scorers read no more than this


@dataclass(frozen=True, slots=True)
class Reading:
    """How one string reads: its document spans, and its question (as text) if it holds one."""

    spans: tuple[Span, ...] = ()
    question: str | None = None
    short: bool = False
    whole: bool = False


def read_text(text: str, path: Path, rules: Rules) -> Reading:
    """Passages and question of a template, or the whole of a long text as one document."""
    if estimate_tokens(text) < rules.min_tokens:
        return Reading(short=True)
    template = recognise(text)
    if template is None:
        return Reading(spans=document_spans(text, 0, len(text), path, rules), whole=True)
    passages = template.passages
    if estimate_tokens("".join(text[p.start : p.end] for p in passages)) < rules.min_tokens:
        return Reading(question=template.question, short=True)
    spans: list[Span] = []
    for passage in passages:
        found = document_spans(text, passage.start, passage.end, path, rules, passage.title)
        if len(found) == 1 and found[0].text == text[passage.start : passage.end].strip():
            found = (replace(found[0], drop=passage.drop),)
        spans += found
    return Reading(spans=tuple(spans), question=template.question)


def document_spans(
    text: str, start: int, end: int, path: Path, rules: Rules, title: str | None = None
) -> tuple[Span, ...]:
    """The range as documents: trimmed of blanks, without code fences unless the rules allow them."""
    chunk = text[start:end]
    kind = detect_kind(chunk)
    ranges = [(start, end)]
    if kind == "text" and not rules.prune_code_fences and ("```" in chunk or "~~~" in chunk):
        ranges = [(start + a, start + b) for a, b in outside_fences(chunk) if b - a >= _MIN_PROSE]
    spans = []
    for a, b in ranges:
        inner = text[a:b]
        a, b = b - len(inner.lstrip()), a + len(inner.rstrip())
        if a < b:
            spans.append(Span(path, a, b, text[a:b], kind, title))
    return tuple(spans)


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


def is_json(text: str) -> bool:
    """Whether the text is a JSON object or array: something that a program depends on."""
    head = text.lstrip()[:1]
    if head not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def json_spans(text: str, path: Path, rules: Rules) -> tuple[Span, ...]:
    """Long string values (never keys) of a JSON text as documents; every other byte of it is frame."""
    spans: list[Span] = []
    for match in _JSON_STRING.finditer(text):
        if match.group(2) is not None or estimate_tokens(match.group(1)) < rules.min_tokens:
            continue
        value = json.loads(match.group(0), strict=False)
        # Inner JSON (a schema, arguments of a call) is as untouchable as the outer one.
        if not is_json(value) and (rules.prune_code_fences or "```" not in value):
            spans.append(Span(path, match.start(), match.end(), value, detect_kind(value), quoted=True))
    return tuple(spans)


def as_query(text: str | None) -> str | None:
    """The text as a query: None when blank or when the task needs the whole text."""
    if text is None or not text.strip() or _WHOLE_TEXT.match(text):
        return None
    return text.strip()[-_QUERY_CHARS:]
