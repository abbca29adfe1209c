"""The markup of a page around the texts of its units, for scorers that read more than words."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune.arrays import IntArray


@dataclass(frozen=True)
class Markup:
    """Elements, inline elements and spans of text, as columns.

    Elements are those of the cleaned page, also those whose tags are not in the output. A span is a stretch
    of text with the same elements around it, within one unit; a line is what stands between two block edges
    or line breaks, and holds one span or several.

    Attributes:
        tag: name of each element; parents come first.
        parent: element around each element, -1 at the top.
        attributes: source of each element's attributes, "" for none.
        inline_tag: name of each inline element that is not in the output (``a``, ``span``, ...).
        inline_parent: the inline element around it, -1 for none.
        inline_attributes: source of its attributes.
        span_unit: int64 [s], unit of each span, ascending.
        span_line: int64 [s], line of each span, ascending from 0.
        span_node: int64 [s], block element around each span, -1 at the top.
        span_inline: int64 [s], innermost inline element around each span, -1 for none.
        span_text: its text, escaped as in the output.
    """

    tag: list[str]
    parent: list[int]
    attributes: list[str]
    inline_tag: list[str]
    inline_parent: list[int]
    inline_attributes: list[str]
    span_unit: IntArray
    span_line: IntArray
    span_node: IntArray
    span_inline: IntArray
    span_text: list[str]
