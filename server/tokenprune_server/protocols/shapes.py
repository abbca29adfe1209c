"""What a text is by its form: source code and structured text, JSON, worked examples, frame paragraphs.

Cutting lines out of code, data or examples breaks them, and cutting out what the user says breaks the
request. All of it is frame. The rules are conservative (in doubt a text is frame) and take linear time.
"""

import itertools
import json
import re

from tokenprune.detect import detect_kind

_MAX_TALK = 450  # characters of a frame paragraph that only its wording gives away
_MAX_EDGE = 200  # characters of a first or last paragraph that is always frame
_CODE_LINES, _CODE_CHARS = 0.3, 0.15  # shares from which a whole text counts as code ...
_CODE_CHARS_ALONE = 0.35
_MAX_LINE = 2000  # characters; longer lines are prose or data, not code
_CODE_RUN = 3  # ... and consecutive lines of code that are left alone within prose
_MAX_FAILED_JSON = 16  # each costs a scan to the end of the text
_MIN_JSON = 40  # characters; "[1]" is a label, not data
_EXAMPLES = 2  # answered pairs that make a prompt few-shot

_CODE_LINE = re.compile(
    r"[ \t]*(?:"
    r"(?:async |export |default )?(?:def|class|function|const|let|var|fn|func|impl|interface|struct|enum"
    r"|namespace|package|typedef|public|private|protected|static)[ \t]{1,4}[\w*&<]"
    r"|import[ \t]{1,4}[\w{*\"']|from[ \t]{1,4}[\w.]{1,80}[ \t]{1,4}import\b|using[ \t]{1,4}[\w.:]{1,80};"
    r"|return\b[^.!?]{0,200}$|#include\b|#define\b|#!|@[\w.]{1,80}(?:\(|$)"
    r"|(?:if|for|while|switch|elif|with|except|catch)\b.{0,200}[:{]$|(?:else|try|finally|do)[ \t]?[:{]$"
    r"|//|/\*|\*/|<\?|<%"
    r"|[+\-]{1,3}[^\s+\-]|@@ "  # diffs
    r"|[\w.\"'\[\]$]{1,80}[ \t]{0,8}(?:[-+*/|&:]?=|=>|->)[ \t]{0,8}\S"  # assignments
    r"|[\w.]{1,80}\([^()]{0,200}\)[;,]?$"  # calls, and "key: value"
    r"|(?:-[ \t]{1,4})?[\"']?[\w./-]{1,40}[\"']?[ \t]{0,4}:(?:$|[ \t]{1,8}[^\s].{0,79}(?<![.!?])$)"
    r"|-[ \t]{1,4}[\w./:@\"'{}$-]{1,120}$"  # YAML lists
    r"|\[?\d{4}[-/]\d\d[-/]\d\d[T ,]|\[?\d\d:\d\d:\d\d|\[?(?:INFO|WARN|WARNING|ERROR|DEBUG|TRACE|FATAL)\b"
    r"|Traceback \(most recent|File \"|at [\w.$<>]{1,120}\(|[\w.]{0,80}(?:Error|Exception)(?:: |$)"
    r"|\|.{0,400}\|$"  # tables
    r"|(?:[^,\t;|\n]{0,120}[,\t;|](?=\S)){2}"  # CSV
    r"|(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|FROM|WHERE|JOIN|VALUES|RUN|COPY|ENV)"
    r"[ \t]{1,4}[\w*\"`(/]"
    r"|(?:select|insert into|update|delete from|(?:left |inner |outer )?join|group by|order by|having)"
    r"[ \t]{1,4}[\w*\"`(.,]{1,80}(?:[ \t]|,|;|$)(?!.{0,300}[.!?]$)"
    r"|(?:from|where|and|or)[ \t]{1,4}[\w\"`.]{1,80}[ \t]{0,4}"
    r"(?:[=<>!;]|\b(?:in|is|like|as)\b|[a-z]\d?[;,]?$)"
    r")",
)
_CODE_END = re.compile(r"(?:[{};]|\)[,:;]|[(\[]|^[ \t]*\],?)$")
_INDENTED = re.compile(r"[ \t]{2,}\S|\t\S")
_PROSE = re.compile(r"[ \t]*(?:[-*•][ \t]{1,4}|\d{1,3}[.)][ \t]{1,4})?[^\W\d_]")
_CODE_SIGN = re.compile(r"[={}\[\]#<>\\|]|\)\.|\(\)|__")
_ABOUT_MARKUP = re.compile(
    r"\b(?:html|css|javascript|js|style ?sheets?|markup|source code|scripts?|dom|selectors?|xpath|refactor\w*"
    r"|debug\w*|buttons?|on ?click|href|action url|[\w-]{1,80}\.(?:html?|css|js|php|vue|jsx|tsx|svelte))\b"
    r"|<[a-z]|\b(?:fix|bug|class|attribute|id|tag|element)\b[^.?!\n]{0,60}\b(?:page|form|tag|element|attribute|class)\b",
    re.I,
)
_LISTED_LINES = 3  # and a third of all
_PATCH = re.compile(r"^@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@", re.M)
# Of a view with numbers, a search, or what a browser shows to an agent.
_NUMBERED_LINE = re.compile(
    r"^(?:[ \t]*\d{1,6}(?:\t|[ ]{0,2}[→│])|[\w-]*[./][\w./-]{0,200}:\d{1,6}:|[ \t]*\*?\[\d{1,6}\][ \t]*<)",
    re.M,
)
_COMMENT = re.compile(r"[ \t]{0,40}(?:#|//|/\*|--|<!--|\"\"\"|''')")

_TALK = re.compile(
    r"\b(?:answer(?:s|ed|ing)?|respon[ds]e?(?:s|ing)?|reply|replies|repl(?:ied|ying)|output|json|step by step"
    r"|the question|you|your|yourself|let's|i|i'm|i've|my|me|please|do not|don't|make sure|must be"
    r"|(?:be)?antworte\w*|répond(?:s|ez|re)|respond[ae]n?|conteste?a?|rispond(?:i|ete)|отвечай\w*|ответь\w*)\b"
    r"|回答|回答して|답변",
    re.I,
)
IMPERATIVE = re.compile(
    r"[#*_>\- \t]{0,6}(?:"
    r"use|using|answer|answers|given|based|according|you are|you will|you must|you should|please"
    r"|provide|write|respond|reply|if you|if the|if no|do not|don't|never|always|note|instructions?"
    r"|remember|cite|mention|only|read|below|the following|here (?:is|are)|refer|considering"
    r"|with the help|keep|let's|let us|think|return|output|make sure|ensure"
    r"|be (?:sure|brief|concise|careful)|speak|talk|explain|format|act as|pretend|include|avoid|limit"
    r"|quote|say|state|give|list|name|choose|pick|select|show|tell|describe|consider|follow|finally"
    r"|first|take|imagine|start|begin|end|add|put|check|summari[sz]e|translate"
    r"|your (?:answer|task|job|role)|the answer|task|role|style|tone|format|language|important"
    r"|reminder|rules?|constraints?)\b",
    re.I,
)

_PAIRS = tuple(
    (name, re.compile(rf"^[ \t]{{0,8}}(?:{asks})[ \t]?\d{{0,3}}[:：.)]", re.I | re.M), re.compile(
        rf"^[ \t]{{0,8}}(?:{answers})[ \t]?\d{{0,3}}[:：.)][ \t]{{0,8}}\S", re.I | re.M
    ))
    for name, asks, answers in (
        ("question", "question|query", "answer|a|output|label|response"),
        ("q", "q", "a|answer"),
        ("input", "input|text|review|sentence|tweet|example|english|premise|problem|instruction",
         "output|label|sentiment|answer|class|category|french|german|spanish|translation|solution|response"),
        ("user", "user|human|customer|student", "assistant|ai|bot|agent|teacher"),
    )
)  # fmt: skip

# Tasks that need the whole text: there is no part of it that matters less.
_TEXT = r"(?:text|documents?|articles?|context|passages?|pages?|story|book|report|paper|above|it|this)"
_WHOLE_TEXT = re.compile(
    r"\A\s{0,100}(?:please\s{1,10})?(?:(?:can|could|would) you\s{1,10}(?:please\s{1,10})?)?"
    r"(?:convert|repeat)\b"
    r"|\b(?:summari[sz]e|translate|rewrite|re-write|rephrase|paraphrase|proof-?read|reformat|shorten|condense|quiz"
    r"|flashcards?|enumerate|tl;?dr|synopsis|overview|gist|takeaways?)\b"
    r"|\b(?:summary|translation|outline|abstract|transcript) of\b"
    r"|\b(?:write|give|make|create|produce|provide|need|want)\b[^.?!\n]{0,30}\b(?:summary|translation|outline)\b"
    r"|\b(?:main|key|central|principal|most important|overall|general)\s{1,4}"
    r"(?:points?|ideas?|topics?|themes?|arguments?|messages?|findings|facts|conclusions?)\b"
    r"|\b(?:list|name|find|extract|count|mention|give(?: me)?|show(?: me)?|what are)\s{1,4}"
    r"(?:all|every|each)\b"
    r"|\bhow (?:many|often)\b[^.?!\n]{0,120}\b(?:mentioned|listed|named|described|in total|altogether|overall"
    rf"|appears?|occurs?|in (?:the|this) {_TEXT})\b"
    rf"|\b(?:any|anything|something|everything|nothing|all)\b[^.?!\n]{{0,60}}\b(?:the|this) {_TEXT}\b"
    rf"|\b(?:correct|check|fix|improve|edit|review)\b[^.?!\n]{{0,40}}\b(?:grammar|spelling|typos?|mistakes"
    rf"|(?:the|this) {_TEXT})\b"
    rf"|\bwhat\b[^.?!\n]{{0,20}}\b(?:the|this) {_TEXT}\b[^.?!\n]{{0,20}}\babout\b",
    re.I,
)


# "How do I translate a string?" asks for a fact, not for a translation.
_HOW_TO = re.compile(
    r"\bhow\s{1,4}(?:do|does|did|can|could|should|would|to|is|are)\b(?:[ ,]{1,3}\w{1,30}){0,3}?\s{1,4}"
    r"(?:summari[sz]e|translate|rewrite|rephrase|paraphrase|proof-?read|reformat|shorten|condense|enumerate)\b",
    re.I,
)


def needs_whole_text(question: str | None) -> bool:
    """Whether a question is about all of the text: a summary, a translation, a count, every mention."""
    return question is not None and _WHOLE_TEXT.search(_HOW_TO.sub(" ", question[-4000:])) is not None


def asks_about_markup(question: str | None) -> bool:
    """Whether a question is about the code of a page: then none of its tags and scripts says nothing."""
    return question is not None and _ABOUT_MARKUP.search(question) is not None


def is_listing(text: str) -> bool:
    """Whether a text is a patch, or lines of files with their numbers: each line is needed for the others."""
    numbered = sum(1 for _ in _NUMBERED_LINE.finditer(text))
    return _PATCH.search(text) is not None or numbered >= max(_LISTED_LINES, text.count("\n") / 3)


def is_comment(text: str) -> bool:
    """Whether a line or paragraph is a comment in some programming language."""
    return _COMMENT.match(text) is not None and not text.lstrip().startswith("##")


def is_frame(paragraph: str) -> bool:
    """Whether a short paragraph at the edge of the passages tells the model something.

    It commands, speaks about answering, or speaks of the reader or the writer.
    """
    paragraph = paragraph.strip()
    if len(paragraph) > _MAX_TALK or detect_kind(paragraph) == "html":
        return False
    return IMPERATIVE.match(paragraph) is not None or _TALK.search(paragraph) is not None


def is_edge(paragraph: str) -> bool:
    """Whether the first or last paragraph of a message may be what the user says rather than a passage."""
    paragraph = paragraph.strip()
    return not paragraph.startswith("<") and (len(paragraph) <= _MAX_EDGE or is_frame(paragraph))


def is_few_shot(text: str) -> bool:
    """Whether the text shows by example: two or more questions, each with its answer."""
    return any(_answered(text, asks, answers) >= _EXAMPLES for _, asks, answers in _PAIRS)


def _answered(text: str, asks: re.Pattern[str], answers: re.Pattern[str]) -> int:
    """Question labels that are followed by an answer label with text before the next question label."""
    marks = sorted(
        [(m.start(), False) for m in asks.finditer(text)]
        + [(m.start(), True) for m in answers.finditer(text)]
    )
    return sum(not before and after for (_, before), (_, after) in itertools.pairwise(marks))


def is_json(text: str) -> bool:
    """Whether the text is a JSON object or array, or lines of them: something that a program depends on."""
    text = text.strip()
    if text[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return _is_json_lines(text)
    return True


def _is_json_lines(text: str) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2 or not all(line.lstrip()[:1] in ("{", "[") for line in lines):
        return False
    try:
        for line in lines:
            json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


_JSON_START = re.compile(r"(?:^|(?<=[:：]))[ \t]{0,40}(?=[{\[])", re.M)


def json_ranges(text: str) -> list[tuple[int, int]]:
    """The JSON objects and arrays inside a text: at line starts and behind labels like ``Result:``."""
    decoder = json.JSONDecoder()
    ranges: list[tuple[int, int]] = []
    at = failed = 0
    while (start := _JSON_START.search(text, at)) is not None:
        begin = at = start.end()
        try:
            _, end = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError):
            failed += 1
            if failed == _MAX_FAILED_JSON:
                # Many brackets that are no JSON: labels such as "[1]" parse, so this is broken data or code.
                return [*ranges, (begin, len(text))]
            at += 1
            continue
        if end - begin >= _MIN_JSON:
            ranges.append((begin, end))
        at = end
    return ranges


def code_ranges(text: str) -> list[tuple[int, int]]:
    """The parts of a text that are source code or structured text; all of it when much of it is."""
    lines = text.split("\n")
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    common = min(indents, default=0)
    total = code = total_chars = code_chars = 0
    ranges: list[tuple[int, int]] = []
    at = run = run_start = run_end = 0
    for line in lines:
        begin, at = at, at + len(line) + 1
        shown = line[common:].rstrip()
        if not shown or (is_comment(shown) and not shown[0].isspace()):
            continue  # neutral: neither ends a run nor makes one
        total, total_chars = total + 1, total_chars + len(shown)
        if _is_code_line(shown):
            code, code_chars = code + 1, code_chars + len(shown)
            if run == 0:
                run_start = begin
            run, run_end = run + 1, begin + len(line)
            continue
        if run >= _CODE_RUN:
            ranges.append((run_start, run_end))
        run = 0
    if run >= _CODE_RUN:
        ranges.append((run_start, run_end))
    if code < _CODE_RUN and code_chars < _MAX_LINE:
        return []
    chars = code_chars / max(1, total_chars)
    if chars >= _CODE_CHARS_ALONE or (chars >= _CODE_CHARS and code / total >= _CODE_LINES):
        return [(0, len(text))]
    return ranges


def _is_code_line(line: str) -> bool:
    if len(line) > _MAX_LINE:
        # Data on one line, such as the repr of a list of dictionaries.
        return line.lstrip()[0] in "{[(" and line[-1] in "}])"
    words = line.count(" ", len(line) - len(line.lstrip()))
    if words >= 5 and line[-1] in ".!?:;,\"')]" and _PROSE.match(line) and _CODE_SIGN.search(line) is None:
        return False
    if _CODE_LINE.match(line) is not None or _CODE_END.search(line) is not None:
        return True
    return _INDENTED.match(line) is not None and not (words >= 5 and _PROSE.match(line))
