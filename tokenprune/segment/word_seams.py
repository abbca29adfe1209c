"""Whether two texts that stand side by side read as two words or as parts of one."""

from __future__ import annotations

import re
from unicodedata import category

import numpy as np

from tokenprune.arrays import BoolArray, IntArray

_LAST = re.compile(r"\S{1,40}\Z")
_LETTERS = re.compile(r"[^\W\d_]+")
_CLOSING = ".,;:!?)]}%\u2026\u00bb*"
_OPENING = "([{\u00ab#@$\u20ac\u00a3\u00a5\u20b9"
_CURRENCIES = "$\u20ac\u00a3\u00a5\u20b9"
_SENTENCE_ENDS = ".!?:;,)"
# Of ASCII characters, and of any other one.
_MAY_END, _MAY_BEGIN = (
    np.asarray([*(c.isalnum() or c in signs for c in map(chr, range(128))), True])
    for signs in (_CLOSING, _OPENING)
)
_NAMES_BEGIN = ("Mc", "Mac")  # of which the rest has a capital letter of its own


def _in_word(character: str) -> bool:
    return character.isalnum() or category(character)[0] == "M"


def may_be_parted(last: IntArray, first: IntArray) -> BoolArray:
    """Whether white space between two texts would not look out of place, bool [n].

    It would in front of a comma or behind an opening bracket.

    Args:
        last: int64 [n], the last character of the texts on the left.
        first: int64 [n], the first one of those on the right.
    """
    found: BoolArray = _MAY_END[np.minimum(last, 128)] & _MAY_BEGIN[np.minimum(first, 128)]
    for k in np.flatnonzero(found & ((last > 127) | (first > 127))).tolist():
        a, b = chr(last[k]), chr(first[k])
        found[k] = (_in_word(a) or a in _CLOSING) and (b.isalnum() or b in _OPENING)
    return found


def are_letters(left: str, right: str) -> bool:
    """Whether two texts are single characters, as those that a page sets or moves one by one."""
    return len(left) == len(right) == 1


def reads_apart(left: str, right: str) -> bool:
    """Whether two texts read as two words: by their letters and digits, in doubt as parts of one.

    "Price" and "20" do, "Stock" and "Price" do, "wo" and "rd", "20" and "th", "M" and "odel" do not.
    """
    if are_letters(left, right):
        return False
    a, b = left[-1], right[0]
    m = _LAST.search(left)
    before = m[0] if m else ""
    if a.isdigit():
        return _behind_number(before, right)
    if _in_word(a):
        return _behind_letter(left, before, right)
    if a == "%":
        return b.isalpha()
    return a in _SENTENCE_ENDS and len(before) < len(left) and b.isalnum()  # the end of a phrase


def _behind_number(before: str, right: str) -> bool:
    b = right[0]
    if b.isdigit():
        return True
    if b in _CURRENCIES:
        return right[1:2].isdigit()
    m = _LETTERS.match(right)  # "20th", "5GB", "3D" and "2XL" are read as one
    return m is not None and len(m[0]) > 2


def _behind_letter(left: str, before: str, right: str) -> bool:
    a, b = left[-1], right[0]
    if b.isdigit():
        return len(before) > 2
    if b in _CURRENCIES:
        return right[1:2].isdigit() and not before.isupper()  # "US$20"
    if not (b.isupper() or b.istitle()) or before in _NAMES_BEGIN:
        return False
    if a.isupper():
        return len(left) > 1 and right[1:2].islower()
    return a.islower() and len(left) > 1
