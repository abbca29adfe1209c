"""Recognising the usual RAG templates that put passages and question into one string.

The rules are data: tables of named, linear-time patterns. `recognise` says where the passages are and what
the question is. Everything else (instructions, labels, numbers, the question, answer cues) is the frame and
stays byte for byte. A passage of which nothing is kept leaves together with its label; the labels of the
others keep their numbers, so that citations stay right.
"""

import re
from collections import deque
from dataclasses import dataclass

from tokenprune.detect import detect_kind
from tokenprune_server.protocols.passages import (
    MAX_FRAME_PARAGRAPH,
    Passage,
    begins_passage,
    paragraph_after,
    split_passages,
    stands_between,
)
from tokenprune_server.protocols.shapes import IMPERATIVE, is_comment, is_edge, is_frame

_MAX_QUESTION = 4000  # characters from a question mark to the end of the prompt; more is not a question
_MAX_PARAGRAPH_QUESTION = 1000  # for a question that only its place and form give away
_HEAD = 3000  # how far from the start "Context:" may stand
_MIN_CONTEXT = 200  # characters; less is not worth calling a passage
_PLAIN_RULES = ("last-paragraph", "first-paragraph", "question-first")

_MARK = r"^[ \t]{0,8}[#*>_ ]{0,6}"
_COLON = r"[ \t]?[*_]{0,3}[ \t]?[:：][*_]{0,3}"
QUESTION_MARK = re.compile(
    _MARK + r"(?:(?:user|my|the|original|current|input)[ \t])?"
    r"(?:question|query|frage|pregunta|问题|問題|質問)" + _COLON,
    re.I | re.M,
)
INLINE_QUESTION = re.compile(r"(?<=[ \t.!?])(?:Question|Query)[:：]")
CONTEXT_MARK = re.compile(
    _MARK + r"(?:(?:retrieved|relevant|supporting|reference|background|given)[ \t])?"
    r"(?:context|contexts|context information|documents?|passages?|sources|search results|results|references?"
    r"|background|knowledge|information|evidence|excerpts|kontext|contexte?|contexto|上下文|文档|文檔|資料|参考情報)"
    + _COLON,
    re.I | re.M,
)
ANSWER_CUE = re.compile(
    r"[#*_ \t]{0,6}(?:(?:the|your|my|short|final|helpful|brief|detailed|refined)[ \t]){0,2}"
    r"(?:answer|response|reply|assistant|a|antwort|respuesta|回答|答案)[ \t]?[*_]{0,3}[ \t]?[:：]?[*_]{0,3}",
    re.I,
)
LEAD_IN = re.compile(IMPERATIVE.pattern + r"[^\n:：]{0,300}[:：][ \t]", re.I)
ASKS = re.compile(
    r"[\s\"'(*_]{0,20}(?:what|who|whom|whose|when|where|why|how|which|is|are|was|were|do|does|did|can|could|should"
    r"|will|would|has|have|explain|list|describe|tell|find|give|name|state|identify|define|show|extract"
    r"|was|wer|wie|wo|wann|warum|qué|quién|cómo|quel|quelle|comment|pourquoi)\b",
    re.I,
)
ANSWERED = re.compile(
    r"^[#*_ \t]{0,6}(?:answer|a|antwort|respuesta|回答|答案)[ \t]?[*_]{0,3}[:：][*_]{0,3}"
    r"[ \t]{0,8}(?P<text>[^\s*_][^\n]*)",
    re.I | re.M,
)
# The refine prompt of LlamaIndex: the question comes before an answer that more context shall improve.
REFINE = re.compile(
    r"^The (?:original )?(?:query|question) is as follows:[ \t]{0,4}(?P<question>\S[^\n]*)\n"
    r"We have provided an existing answer:",
    re.I | re.M,
)
SHORT_MARK = re.compile(r"^Q[:：][ \t]{0,8}", re.M)
SHORT_CUE = re.compile(r"\n[ \t]{0,8}A[:：]\s{0,20}\Z")
SAYS_CONTEXT = re.compile(
    r"\b(?:following|below|given|provided|retrieved|these)\b[^.?!\n]{0,60}"
    r"\b(?:context|passages?|documents?|sources?|search results|excerpts?)\b",
    re.I,
)
QUESTION_END = re.compile(r"[?？][\s\"'”’)*_]{0,20}\Z")
QUESTION_TAGS = ("question", "query", "user_question", "user_query")

DASHES = re.compile(r"^[-=*]{5,}[ \t]{0,8}$", re.M)

# Prompts that were put through a chat template already: only the last user turn may hold passages.
TURNS = (
    ("<|im_start|>user\n", "<|im_end|>"),
    ("<|start_header_id|>user<|end_header_id|>", "<|eot_id|>"),
    ("<start_of_turn>user\n", "<end_of_turn>"),
    ("[INST]", "[/INST]"),
)
# They begin with a token of their template; a text that quotes one in its middle is no such prompt.
_RENDERED = re.compile(r"\s{0,40}(?:<\|[\w ]{1,40}\|>|<s>|<bos>|<start_of_turn>|\[INST\])")


@dataclass(frozen=True, slots=True)
class Template:
    """A recognised prompt: its passages in order, the question, and the names of the rules that matched.

    ``marked`` says that the prompt itself shows where the passages are (tags, labels, "Context:"); they are
    not just the paragraphs around a question.
    """

    passages: tuple[Passage, ...]
    question: str | None
    question_rule: str
    passage_rule: str
    marked: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    text: str
    start: int  # of the frame piece that holds the question
    end: int
    rule: str
    first: bool


def recognise(text: str) -> Template | None:
    """Passages and question of a prompt in one string, or None when it follows no known template."""
    for opening, closing in TURNS if _RENDERED.match(text) else ():
        at = text.rfind(opening)
        if at >= 0:
            start = at + len(opening)
            end = text.find(closing, start)
            return _recognise(text, start, len(text) if end < 0 else end) or Template(
                (), None, "turns", "none"
            )
    return _recognise(text, 0, len(text))


def _recognise(text: str, start: int, end: int) -> Template | None:
    question = _find_question(text, start, end)
    if question is None:
        return None
    if question.first:
        start = question.end
    else:
        end = question.start
    outer = text[: min(end, _HEAD)]
    start, end, marked = _trim_frame(text, start, end, whole=question.rule in _PLAIN_RULES)
    if end - start < _MIN_CONTEXT:
        return None
    rule, passages = split_passages(text, start, end)
    marked = marked or rule not in ("whole", "number-dot") or question.rule in ("tag", "refine")
    marked = marked or SAYS_CONTEXT.search(outer[:start]) is not None
    return Template(passages, question.text, question.rule, rule, marked)


def _find_question(text: str, start: int, end: int) -> _Question | None:
    return (
        _tagged_question(text, start, end)
        or _refine_question(text, start, end)
        or _short_question(text, start, end)
        or _marked_question(text, start, end)
        or _inline_question(text, start, end)
        or _paragraph_question(text, start, end)
    )


def _tagged_question(text: str, start: int, end: int) -> _Question | None:
    for tag in QUESTION_TAGS:
        close = text.rfind(f"</{tag}>", start, end)
        opening = text.rfind(f"<{tag}>", start, close) if close >= 0 else -1
        if opening >= 0:
            after = close + len(tag) + 3
            question = text[opening + len(tag) + 2 : close].strip()
            if question and len(question) <= _MAX_QUESTION:
                first = opening - start < end - after
                return _Question(question, opening, after, "tag", first)
    return None


def _refine_question(text: str, start: int, end: int) -> _Question | None:
    found = REFINE.search(text, start, min(end, start + _HEAD))
    rule = DASHES.search(text, found.end(), end) if found is not None else None
    if found is None or rule is None or len(found["question"]) > _MAX_QUESTION:
        return None
    return _Question(found["question"].strip(), start, rule.start(), "refine", True)


def _short_question(text: str, start: int, end: int) -> _Question | None:
    """``Q: ...`` and an open ``A:`` as the very end."""
    cue = SHORT_CUE.search(text[start:end][-_MAX_QUESTION:])
    mark = _last_match(SHORT_MARK, text, max(start, end - _MAX_QUESTION), end) if cue is not None else None
    if mark is None or mark.start() - start < _MIN_CONTEXT:
        return None
    question = _first_paragraph(_without_cue(text[mark.end() : end]))
    return _Question(question, mark.start(), end, "short-marks", False) if question else None


def _is_answered(tail: str) -> bool:
    """Whether the text after a question mark holds its answer, as in a list of questions and answers."""
    answered = ANSWERED.search(tail)
    return answered is not None and not IMPERATIVE.match(answered["text"])


def _marked_question(text: str, start: int, end: int) -> _Question | None:
    first = QUESTION_MARK.search(text, start, end)
    if first is None:
        return None
    last = _last_match(QUESTION_MARK, text, first.end(), end) or first
    context = CONTEXT_MARK.search(text, start, min(end, start + _HEAD))
    tail = text[last.end() : end]
    answered = _is_answered(tail[:_MAX_QUESTION])
    closes = len(tail) <= _MAX_QUESTION and last.start() - start >= _MIN_CONTEXT and not answered
    cued = closes and last is not first and _without_cue(tail) != tail.rstrip()
    if context and first.start() < context.start() <= first.end() + _MAX_QUESTION and not cued:
        question = text[first.end() : context.start()].strip()
        if question:
            return _Question(question, first.start(), context.start(), "question-context", True)
    if closes:
        question = _first_paragraph(_without_cue(tail))
        if question:
            return _Question(question, last.start(), end, "context-question", False)
    if first.start() - start <= MAX_FRAME_PARAGRAPH and not (answered and last is first):
        at, until = paragraph_after(text, first.end(), end)
        if _is_answered(text[first.end() : until]):
            return None
        if text[at:until].strip() and until - at <= _MAX_PARAGRAPH_QUESTION:
            return _Question(text[at:until].strip(), first.start(), until, "question-first", True)
    return None


def _last_match(pattern: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text, start, end), maxlen=1)), None)


def _inline_question(text: str, start: int, end: int) -> _Question | None:
    last = _last_match(INLINE_QUESTION, text, start, end)
    if last is None or last.start() - start < _MIN_CONTEXT or end - last.end() > _MAX_QUESTION:
        return None
    if _is_answered(text[last.end() : end]):
        return None
    question = _first_paragraph(_without_cue(text[last.end() : end]))
    return _Question(question, last.start(), end, "inline-question", False) if question else None


def _paragraph_question(text: str, start: int, end: int) -> _Question | None:
    """A short last or first paragraph that asks, beside a long text or an HTML page."""
    body = text[start:end]
    stop = len(body.rstrip())
    cut = body.rfind("\n\n", 0, stop)
    if cut >= 0 and ANSWER_CUE.fullmatch(body[cut:stop].strip()):
        stop = len(body[:cut].rstrip())
        cut = body.rfind("\n\n", 0, stop)
    if detect_kind(body) == "html":
        cut = max(cut, body.rfind(">", 0, stop) + 1)
    last = body[cut:stop] if cut > 0 else ""
    if asks(last):
        return _Question(last.strip(), start + cut, end, "last-paragraph", False)
    begin = len(body) - len(body.lstrip())
    cut = body.find("\n\n", begin)
    if detect_kind(body) == "html":
        tag = body.find("<")
        cut = tag if cut < 0 else min(cut, tag)
    head = body[begin:cut] if cut > 0 else ""
    if asks(head):
        return _Question(head.strip(), start, start + cut, "first-paragraph", True)
    return None


def asks(paragraph: str) -> bool:
    """Whether a short paragraph is a question by its form."""
    paragraph = paragraph.strip()
    if not 3 <= len(paragraph) <= _MAX_PARAGRAPH_QUESTION or "<" in paragraph[:1] or is_comment(paragraph):
        return False
    return QUESTION_END.search(paragraph[-40:]) is not None or ASKS.match(paragraph) is not None


def _without_cue(tail: str) -> str:
    """The text without a last line like "Helpful Answer:"."""
    tail = tail.rstrip()
    cut = tail.rfind("\n") + 1
    if len(tail) - cut <= 80 and ANSWER_CUE.fullmatch(tail[cut:].strip()):
        return tail[:cut].rstrip()
    inline = max(tail.rfind(" Answer:"), tail.rfind(" Helpful Answer:"))
    return tail[:inline].rstrip() if inline >= 0 and len(tail) - inline <= 16 else tail


def _first_paragraph(text: str) -> str:
    text = text.strip()
    cut = text.find("\n\n")
    return text if cut < 0 else text[:cut].rstrip()


def _trim_frame(text: str, start: int, end: int, *, whole: bool) -> tuple[int, int, bool]:
    """Take instructions, "Context:", dashed rules and answer cues off both ends of the context.

    Args:
        text: the prompt.
        start: where the context begins at the earliest.
        end: where it ends at the latest.
        whole: nothing marks the context, so that its first and last paragraph may be the user's words.

    Returns:
        Start and end of the context, and whether something marks it.
    """
    at_start, at_end = not text[:start].strip(), not text[end:].strip()
    mark = CONTEXT_MARK.search(text, start, min(end, start + _HEAD))
    if mark is not None:
        start = mark.end()
    rule = DASHES.search(text, start, min(end, start + MAX_FRAME_PARAGRAPH))
    if rule is not None and stands_between(text, start, rule.start(), end):
        rule = None  # it parts passages
    if rule is not None:
        start = rule.end()
        closing = _last_match(DASHES, text, max(start, end - _HEAD), end)
        if closing is not None and closing.start() - start >= _MIN_CONTEXT:
            end = closing.start()
    at, until = paragraph_after(text, start, end)
    intro = text.find("\n", at, until)
    if intro >= 0 and text[at:intro].rstrip().endswith((":", "：")) and is_frame(text[at:intro]):
        start = intro
    marked = mark is not None or rule is not None or start == intro
    if not marked and at_start:
        at, until = paragraph_after(text, start, end)
        if until < end and is_edge(text[at:until]) and not begins_passage(text, at, until):
            start = until
    start = _trim_start(text, start, end)
    end = start + len(_without_cue(text[start:end]))
    cut = text.rfind("\n\n", start, end)
    if whole and at_end and cut >= 0 and end - cut <= MAX_FRAME_PARAGRAPH and is_edge(text[cut:end]):
        end = start + len(text[start:cut].rstrip())
    end = _trim_end(text, start, end)
    return start, max(start, end), marked


def _trim_start(text: str, start: int, end: int) -> int:
    for _ in range(5):
        at, until = paragraph_after(text, start, end)
        if until == end or until - at > MAX_FRAME_PARAGRAPH or begins_passage(text, at, until):
            break
        if not _is_instruction(text, at, until):
            break
        start = until
    for _ in range(4):
        at, until = paragraph_after(text, start, end)
        line = text.find("\n", at, until)
        if line < 0 or line - at > 300 or not IMPERATIVE.match(text, at, line) or text[line - 1] not in ".:!":
            break
        start = line
    at, _ = paragraph_after(text, start, end)
    lead = LEAD_IN.match(text, at, end)
    return lead.end() if lead else start


def _trim_end(text: str, start: int, end: int) -> int:
    for _ in range(5):
        cut = text.rfind("\n\n", start, end)
        if cut < 0 or end - cut > MAX_FRAME_PARAGRAPH or not _is_instruction(text, cut + 2, end):
            break
        end = start + len(text[start:cut].rstrip())
    for _ in range(4):
        last_line = text.rfind("\n", start, end) + 1
        if last_line <= start or end - last_line > 300 or not IMPERATIVE.match(text, last_line, end):
            break
        end = start + len(text[start:last_line].rstrip())
    last_line = text.rfind("\n", start, end) + 1
    return last_line if last_line > start and DASHES.match(text, last_line, end) else end


def _is_instruction(text: str, start: int, end: int) -> bool:
    return IMPERATIVE.match(text, start, end) is not None or is_frame(text[start:end])
