"""What leads what in plain text: headings, header rows of tables, parents of indented lines."""

from __future__ import annotations

import re

_HEADING = re.compile(r" {0,3}(#{1,6})\s")
_TABLE_ROW = re.compile(r"\s*\|.*\|\s*$")
_DELIMITER = re.compile(r"\s*\|(?:\s*:?-+:?\s*\|)+\s*$")
_INDENT = re.compile(r"[ \t]*")
_MIN_ROWS = 4  # lines with the same number of separators that make a table of comma-separated values


def heading_levels(units: list[str]) -> list[int]:
    """Return the level of each unit that is a heading in Markdown, 1 to 6; 0 for others."""
    levels: list[int] = []
    at_line_start = True
    for unit in units:
        found = _HEADING.match(unit) if at_line_start else None
        levels.append(len(found[1]) if found else 0)
        at_line_start = unit.endswith("\n")
    return levels


def text_leads(units: list[str]) -> list[int]:
    """Return for each unit an earlier one that should travel with it, -1 for none.

    Args:
        units: consecutive slices of a text, as `sentence_starts` cuts them.
    """
    leads: list[int] = []
    headings: list[tuple[int, int]] = []  # (level, unit)
    indents: list[tuple[int, int]] = []  # (indent, unit) of the lines above, within a paragraph
    header = -1  # first row of the open table
    introduced = -1  # unit that ends with a colon, right before a list
    line_lead = -1  # what leads the line that is being read
    at_line_start = True
    separated = _separated(units)
    for n, (unit, level) in enumerate(zip(units, heading_levels(units), strict=True)):
        line = unit.rstrip("\n")
        indent = len(_INDENT.match(line)[0].expandtabs(4)) if at_line_start else -1  # type: ignore[index]
        above = headings[-1][1] if headings else -1
        if level:
            while headings and headings[-1][0] >= level:
                headings.pop()
            leads.append(headings[-1][1] if headings else -1)
            headings.append((level, n))
            indents, header, introduced = [], -1, -1
        elif at_line_start and (_TABLE_ROW.match(line) or separated[n] >= 0):
            first = separated[n]
            leads.append((first if first != n else above) if first >= 0 else header if header >= 0 else above)
            if header < 0 or _DELIMITER.match(line):
                header = n
        else:
            header = -1
            if at_line_start:
                while indents and indents[-1][0] >= indent:
                    indents.pop()
                line_lead = indents[-1][1] if indents else introduced if introduced >= 0 else above
                indents.append((indent, n))
            leads.append(line_lead)
        if line.strip().endswith((":", "\uff1a")):
            introduced = n
        elif unit.endswith("\n\n"):
            introduced = introduced if introduced == n - 1 and not line.strip() else -1
        if unit.endswith("\n\n") and not line.strip().endswith((":", "\uff1a")):
            indents = []
        at_line_start = unit.endswith("\n")
    return leads


def _separated(units: list[str]) -> list[int]:
    """For lines of a table of comma- or tab-separated values the unit of its first line, else -1."""
    first = [-1] * len(units)
    begin = 0
    for mark in (",", "\t"):
        n = 0
        while n < len(units):
            begin, count = n, units[n].count(mark)
            while n < len(units) and count and units[n].count(mark) == count and units[n].endswith("\n"):
                n += 1
                if units[n - 1].endswith("\n\n"):
                    break
            if n < len(units) and count and units[n].count(mark) == count and n > begin:
                n += not units[n - 1].endswith("\n\n")  # the last line may lack its line end
            if n - begin >= _MIN_ROWS:
                for row in range(begin, n):
                    first[row] = begin
            n = max(n, begin + 1)
    return first
