"""Inline Markdown: what must be escaped so that text reads as text (CommonMark 0.31, section 6; GFM tables).

Escapes cost tokens, so a sign is escaped only where it could mean something: an asterisk that could close an
emphasis after one that could open it, a bracket before a parenthesis, a dash that begins a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape
from itertools import pairwise
from string import punctuation
from unicodedata import category

# What a part of a line is: words; words in a link's text; words in a code span; markup; a line break.
LITERAL, LINKED, CODE, MARK, BREAK = range(5)

_MASK = "\0"  # stands for markup and code where text is looked at; cleaned text holds no NUL
_SPECIAL = re.compile(r"[\\`*_~\[\]<&!|]")
_SIGN = re.compile(r"\\|`|\*+|_+|~+|\[|\]|<|&|!|\|")
# What would begin another block at the start of a line; the group "at" is the sign to escape.
_LINE = re.compile(
    r"(?P<at>#)#{0,5}(?:[ \t]|$)|(?P<sign>[-+*])(?:[ \t]|$)|[0-9]{1,9}(?P<dot>[.)])(?:[ \t]|$)|(?P<other>>"
    r"|~~~|=++[ \t]*+$|(?P<rule>[*_])(?:[ \t]*+(?P=rule)){2,}+[ \t]*+$|[-:|][-:| \t]*+$)",
    re.M,
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,40});")
_BACKTICKS = re.compile("`+")
_TAG_START = re.compile(r"[a-zA-Z/!?]")
_UNSAFE_IN_DESTINATION = re.compile(r"[\x00-\x20\x7f<>`]+")
_PUNCTUATION = frozenset(punctuation)
_LABEL = 1001  # the longest label of a link definition, with its brackets


def escape(
    texts: Sequence[str], kinds: Sequence[int], *, block: bool, cell: bool, heading: bool
) -> list[str]:
    """Return the parts of a paragraph, heading or cell with backslashes where they are needed.

    Args:
        texts: the parts; a BREAK is one line end.
        kinds: LITERAL, LINKED, CODE, MARK or BREAK of each part.
        block: whether the start of a line could begin another block.
        cell: whether a pipe ends the text.
        heading: whether number signs at the end would be taken for markup.
    """
    out = list(texts)
    joined = "".join(texts)
    if not any(kinds):
        masked = joined
    else:
        masked = "".join(map(_masked, texts, kinds))
        if cell and "|" in joined:
            out = [
                t.replace("|", "\\|") if k in (CODE, MARK) else t for t, k in zip(texts, kinds, strict=True)
            ]
    at = _signs(masked, joined, texts, kinds, block=block, cell=cell) if _SPECIAL.search(masked) else []
    if block:
        start = 0
        while True:
            m = _LINE.match(masked, start)
            if m:
                first = max(m.start("at"), m.start("sign"), m.start("dot"), m.start("other"))
                at.append(first)
                if masked[first] in "*_~":  # what is left of the run could pair with another
                    run = _SIGN.match(masked, first)
                    at += range(first, run.end() if run else first)
            elif masked.startswith("[", start) and masked.find("]:", start, start + _LABEL) > 0:
                at.append(start)
            start = masked.find("\n", start) + 1
            if not start:
                break
    if heading and masked.endswith("#"):
        before = masked.rstrip("#")
        if not before or before[-1] in " \t":
            at.append(len(before))
    return _insert(out, texts, kinds, sorted(set(at))) if at else out


def _masked(text: str, kind: int) -> str:
    if kind not in (CODE, MARK) or text == " ":
        return text
    return "".join(" " if c == " " and kind == MARK else _MASK for c in text)


def _insert(out: list[str], texts: Sequence[str], kinds: Sequence[int], at: list[int]) -> list[str]:
    begin = n = 0
    for k, text in enumerate(texts):
        end = begin + len(text)
        if n < len(at) and at[n] < end:
            edges = [0]
            while n < len(at) and at[n] < end:
                edges.append(at[n] - begin)
                n += 1
            if kinds[k] in (LITERAL, LINKED):
                out[k] = "\\".join(text[a:b] for a, b in pairwise([*edges, len(text)]))
        begin = end
    return out


def _signs(
    masked: str, joined: str, texts: Sequence[str], kinds: Sequence[int], *, block: bool, cell: bool
) -> list[int]:
    """Offsets of the signs in a line that would read as markup."""
    at: list[int] = []
    linked = _linked(texts, kinds) if LINKED in kinds else None
    last_end = joined.rfind(">")
    struck = "~~" in (t for t, k in zip(texts, kinds, strict=True) if k == MARK)
    opened = {"*": False, "_": False, "~": struck}
    bracket = False
    for m in _SIGN.finditer(masked):
        p, q, sign = m.start(), m.end(), m[0][0]
        after = masked[q : q + 1]
        if sign in "*_~":
            before = masked[p - 1] if p else " "
            opens, closes = _flanks(sign, before, after or " ")
            if (closes and opened[sign]) or (sign == "~" and struck):
                at += range(p, q)
            elif opens:
                opened[sign] = True
        elif sign == "\\":
            if after in _PUNCTUATION or after == _MASK or after == "\n":
                at.append(p)
        elif sign == "`":
            at.append(p)
        elif sign == "[" or sign == "]":
            if (linked is not None and linked[p]) or (sign == "]" and bracket and after == "("):
                at.append(p)
            bracket = bracket or sign == "["
        elif sign == "<":
            line_start = block and (not p or masked[p - 1] == "\n")
            if _TAG_START.match(after) and (line_start or last_end > p):
                at.append(p)
        elif sign == "&":
            if _ENTITY.match(masked, p):
                at.append(p)
        elif sign == "!":
            if after == _MASK and joined[q] == "[":
                at.append(p)
        elif cell:
            at.append(p)
    return at


def _linked(texts: Sequence[str], kinds: Sequence[int]) -> list[bool]:
    out: list[bool] = []
    for text, kind in zip(texts, kinds, strict=True):
        out += [kind == LINKED] * len(text)
    return out


def _flanks(sign: str, before: str, after: str) -> tuple[bool, bool]:
    """Whether a run of delimiters could open and close (CommonMark, section 6.2).

    Versions differ on what punctuation is; where they do, the answer is yes.
    """
    space_before, space_after = before.isspace(), after.isspace()
    other_before, other_after = not before.isalnum(), not after.isalnum()  # space or maybe punctuation
    left = not space_after and (not _surely_punctuation(after) or other_before)
    right = not space_before and (not _surely_punctuation(before) or other_after)
    if sign == "_":
        return left and (not right or other_before), right and (not left or other_after)
    return left, right


def _surely_punctuation(character: str) -> bool:
    return character in _PUNCTUATION or category(character)[0] == "P"


def code_marks(content: str) -> tuple[str, str]:
    """Return what opens and closes a code span around a text that is not blank."""
    lengths = {len(run) for run in _BACKTICKS.findall(content)} if "`" in content else ()
    n = 1
    while n in lengths:
        n += 1
    # A parser takes a space off both ends where both have one.
    edges = content[0] == "`" or content[-1] == "`" or content[0] == content[-1] == " "
    pad = " " if edges else ""
    return "`" * n + pad, pad + "`" * n


def fence_of(content: str) -> str:
    """Return a fence longer than every run of backticks in a code block."""
    longest = max(map(len, _BACKTICKS.findall(content)), default=0) if "```" in content else 0
    return "`" * max(3, longest + 1)


def destination(value: str) -> str:
    """Return an attribute's value as the destination of a link or image, without spaces and brackets."""
    value = unescape(value).strip()
    value = _UNSAFE_IN_DESTINATION.sub(_percent, value).replace("\\", "%5C")
    value = _ENTITY.sub(lambda m: "\\" + m[0], value)
    depth = 0
    for character in value:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
    return value if not depth else value.replace("(", "\\(").replace(")", "\\)")


def _percent(m: re.Match[str]) -> str:
    # A line end in an address means nothing, as in browsers.
    return "".join("" if c in "\t\n\r" else f"%{ord(c):02X}" for c in m[0])
