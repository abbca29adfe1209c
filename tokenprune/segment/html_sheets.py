"""Rules of a page's own style elements that hide whole elements.

Text under ``.x{display:none}`` is as unseen as under an inline style. Only what is sure is read: simple
selectors (a tag, a class, an id, or these put together) outside ``@media`` and the like, no descendants and
no states. A name that a rule of another kind shows again, on wide screens or in an open menu say, hides
nothing. Linked style sheets, scripts and the rest of the cascade are not read.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

from tokenprune.segment.css import important
from tokenprune.segment.entities import unescape
from tokenprune.segment.html_hidden import DISPLAY, Look, hides
from tokenprune.segment.html_tags import attributes

_MOST = 200_000  # characters of style sheets that are read
_MOST_RULES = 500
_MOST_KNOWN = 4096  # start tags whose rules are kept
_NOISE = re.compile(r"/\*.*?(?:\*/|\Z)|\"[^\"\n]*+\"|'[^'\n]*+'|<!--|-->", re.S)
_PART = re.compile(r"([^{}]*+)([{}]|\Z)")
_SIMPLE = re.compile(r"([a-zA-Z][\w-]*+)?((?:[.#][\w-]++)*+)")
_NAME = re.compile(r"[.#]?[a-zA-Z_-][\w-]*+")
_WORD = re.compile(r"[\w-]+")
_WHOLE_PAGE = frozenset(("html", "head", "body"))


class Rule(NamedTuple):
    """A simple selector: tag, "" for any, and the classes and ids, with their sign, that it asks for."""

    tag: str
    names: frozenset[str]


class Sheet:
    """Rules that hide, and the simple ones that show, in the order of the page."""

    def __init__(self, rules: dict[Rule, str], firm: Collection[Rule] = ()) -> None:
        self.rules = rules  # "" where a rule shows, else why it hides
        self.firm = frozenset(firm)  # those that are important
        hiding = [rule for rule, reason in rules.items() if reason]
        self.tags = {rule.tag for rule in hiding if not rule.names}
        self._names = {name[1:] for rule in hiding for name in rule.names}
        self._known: dict[tuple[str, str], Rule | None] = {}

    def __bool__(self) -> bool:
        return bool(self.tags or self._names)

    def concerns(self, source: str) -> bool:
        """Whether a rule may hide an element with these attributes, as they are written."""
        return bool(self.tags) or not self._names.isdisjoint(_WORD.findall(source))

    def match(self, tag: str, source: str) -> Rule | None:
        """Return the rule that hides an element, None for none."""
        if tag in _WHOLE_PAGE:
            return None
        key = tag, source
        rule = self._known.get(key, self)  # the sheet itself stands for "not known yet"
        if isinstance(rule, Sheet):
            rule = self._match(tag, attributes(source))
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = rule
        return rule

    def _match(self, tag: str, found: dict[str, str]) -> Rule | None:
        names = {f".{name}" for name in unescape(found.get("class", "")).split()}
        names.add("#" + unescape(found.get("id", "")))
        mine = [rule for rule in self.rules if rule.tag in ("", tag) and rule.names <= names]
        if not mine:
            return None
        strong = max(
            reversed(mine),
            key=lambda r: (r in self.firm, sum(n[0] == "#" for n in r.names), len(r.names), r.tag != ""),
        )
        style = found.get("style", "")
        gives_way = hides(style) is None or (strong in self.firm and not _is_firm(style))
        return strong if self.rules[strong] and gives_way else None

    def look(self, rule: Rule, said: Look | None) -> Look:
        """Add what a rule says to what an element's own attributes say."""
        said = said or Look()
        if self.rules[rule] == DISPLAY:
            return said._replace(reason=said.reason or DISPLAY)
        return said._replace(visible=False)

    def without(self, gone: set[Rule]) -> Sheet:
        """Return the sheet without some of its rules."""
        return Sheet({rule: reason for rule, reason in self.rules.items() if rule not in gone}, self.firm)


def is_for_screens(source: str) -> bool:
    """Whether a style element with these attributes is a style sheet that people see the page with."""
    found = attributes(source)
    return (
        found.get("media", "").strip().lower() in ("", "all", "screen")
        and found.get("type", "text/css").strip().lower() == "text/css"
    )


@lru_cache(maxsize=32)  # the pages of a site share theirs
def read_sheet(css: str) -> Sheet:
    """Read the style sheets of a page; linear in their length, of which no more than a bound is read."""
    css = css[:_MOST]
    low = css.lower()
    if "visibility" not in low and ("display" not in low or "none" not in low) and "\\" not in css:
        return Sheet({})
    rules: dict[Rule, str] = {}
    shown: set[str] = set()
    shown_firmly: set[str] = set()
    firm: set[Rule] = set()
    depth, outermost, selectors = 0, 0, ""  # `outermost`: how deep the outermost at-rule stands
    for m in _PART.finditer(_NOISE.sub("", css)):
        if m[2] == "{":
            depth += 1
            selectors = m[1].rpartition(";")[2].strip()
            if selectors.startswith("@") and not outermost:
                outermost = depth
        elif m[2] == "}":
            says = hides(m[1]) if selectors else None
            firmly = says is not None and _is_firm(m[1])
            for selector in selectors.split(",") if says is not None else ():
                simple = _SIMPLE.fullmatch(selector.strip())
                rule = Rule("", frozenset())
                if simple is not None and depth == 1 and not outermost:
                    rule = Rule((simple[1] or "").lower(), frozenset(re.findall(r"[.#][\w-]+", simple[2])))
                    if firmly:
                        firm.add(rule)
                    elif rule in firm:
                        continue
                    rules.pop(rule, None)
                    rules[rule] = str(says)
                if not says and len(rule.names) + bool(rule.tag) != 1:
                    shown.update(names := _NAME.findall(selector))
                    shown_firmly.update(names if firmly else ())
            if depth <= outermost:
                outermost = 0
            depth, selectors = max(0, depth - 1), ""
    sure = [
        rule
        for rule, reason in rules.items()
        if not reason or (shown_firmly if rule in firm else shown).isdisjoint(rule.names or {rule.tag})
    ]
    return Sheet({rule: rules[rule] for rule in sure[-_MOST_RULES:]}, firm)


def _is_firm(style: str) -> bool:
    """Whether what a style says of being seen is important: that wins over inline styles and later rules."""
    return not important(style).isdisjoint(("display", "visibility"))
