"""A page as a path-writing model reads it: its blocks numbered, and the path to each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tokenprune.arrays import BoolArray
from tokenprune.segment.html_tags import is_inline, read_tag
from tokenprune.units import Units


@dataclass
class _Node:
    """An element around units, or a unit: one step of a path."""

    name: str
    parent: int
    step: str = ""
    text: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outline:
    """Pages with numbered tags and the path to each kept unit.

    Attributes:
        text: the pages; ``<p2>`` is the second of several ``<p>`` beside each other, bare text stands in a
            ``<text>`` of its own, a page of several in ``<html1>``, ``<html2>``, ...
        paths: per document, path of each kept unit, such as ``<ul><li3>``.
    """

    text: str
    paths: list[list[str]]


def outline(documents: Sequence[Units], keeps: Sequence[BoolArray]) -> Outline:
    """Number the blocks of documents, HtmlRAG (arXiv 2411.02959), section 3.4.

    Args:
        documents: segmented pages (text without markup is read as ``<text>`` blocks).
        keeps: bool [n] per document, the units that are shown.
    """
    text: list[str] = []
    paths: list[list[str]] = []
    shown = sum(bool(k.any()) for k in keeps)
    number = 0
    for units, keep in zip(documents, keeps, strict=True):
        if not keep.any():
            paths.append([])
            continue
        number += 1
        page, below = _page(units, keep)
        root = f"<html{number}>" if shown > 1 else ""
        text.append(f"{root}\n{page}" if root else page)
        paths.append([root + path for path in below])
    return Outline("\n".join(text), paths)


def _page(units: Units, keep: BoolArray) -> tuple[str, list[str]]:
    """Text of one page and the paths of its kept units."""
    pieces = units.pieces
    written = pieces.text if pieces.brief is None else pieces.brief
    nodes: list[_Node] = []
    of_unit: dict[int, int] = {}
    of_wrapper: dict[int, int] = {}  # -1 for one without tags of its own
    order: list[tuple[int, str]] = []  # (node that opens here, "") or (-1, text)
    for p in np.flatnonzero(units.piece_mask(keep)).tolist():
        owner, piece = int(pieces.owner[p]), written[p]
        name, closing = read_tag(piece) if pieces.tag is not None and pieces.tag[p] else ("", False)
        if owner < 0:
            wrapper = -1 - owner
            if name and not closing and wrapper not in of_wrapper:
                of_wrapper[wrapper] = len(nodes)
                nodes.append(_Node(name, _around(units, wrapper, of_wrapper)))
                order.append((of_wrapper[wrapper], ""))
                continue
        elif owner not in of_unit:
            block = bool(name) and not closing and not is_inline(name) and name != "br"
            if not piece or piece.isspace():
                order.append((-1, piece))
                continue
            of_unit[owner] = len(nodes)
            around = int(units.wrapper[owner])
            parent = of_wrapper.get(around, -1) if around >= 0 else -1
            if around >= 0 and around not in of_wrapper:
                parent = _around(units, around, of_wrapper)
            nodes.append(_Node(name if block else "text", parent))
            order.append((of_unit[owner], ""))
            if block:
                continue
        order.append((-1, piece))
    _number(nodes)
    page = "".join(nodes[node].step if node >= 0 else piece for node, piece in order)
    return page, [_path(nodes, of_unit[u]) if u in of_unit else "" for u in np.flatnonzero(keep).tolist()]


def _around(units: Units, wrapper: int, of_wrapper: dict[int, int]) -> int:
    """The nearest element with tags around a wrapper, or -1."""
    at = int(units.wrapper_parent[wrapper])
    while at >= 0 and at not in of_wrapper:
        at = int(units.wrapper_parent[at])
    return of_wrapper[at] if at >= 0 else -1


def _number(nodes: list[_Node]) -> None:
    same = Counter((node.parent, node.name) for node in nodes)
    seen: Counter[tuple[int, str]] = Counter()
    for node in nodes:
        key = (node.parent, node.name)
        seen[key] += 1
        node.step = f"<{node.name}{seen[key]}>" if same[key] > 1 else f"<{node.name}>"


def _path(nodes: list[_Node], at: int) -> str:
    steps: list[str] = []
    while at >= 0:
        steps.append(nodes[at].step)
        at = nodes[at].parent
    return "".join(reversed(steps))
