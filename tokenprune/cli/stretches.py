"""Results of pruning as stretches of text that are kept or dropped, ready to be shown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tokenprune.cli import one_document as one
from tokenprune.document import Document
from tokenprune.errors import ConfigError
from tokenprune.receipt import PruneResult
from tokenprune.validation import faults


class _Unit(BaseModel):
    start: int
    end: int
    kept: bool
    score: float | None = None
    reason: str = ""


class _Receipt(BaseModel):
    document_id: str
    tokens_before: int
    tokens_after: int
    units: list[_Unit]


class _Result(BaseModel):
    receipts: list[_Receipt]
    originals: dict[str, str] = {}


class _Results(BaseModel):
    results: list[_Result]


@dataclass(frozen=True)
class Stretch:
    """A run of text that is kept or dropped.

    Attributes:
        text: as in the original.
        kept: whether it is.
        score: of its unit; None where nothing was scored, or units were joined.
    """

    text: str
    kept: bool
    score: float | None = None


@dataclass(frozen=True)
class Shown:
    """One document to show.

    Attributes:
        name: its id.
        legend: tokens before and after, units, reasons of what was dropped.
        stretches: its whole text.
    """

    name: str
    legend: str
    stretches: tuple[Stretch, ...]


def shown(given: Mapping[str, Any], *, by_unit: bool = False) -> list[Shown]:
    """Read a result with its originals.

    Args:
        given: what `PruneResult.to_dict` returns, and ``originals``; or several of these as ``results``.
        by_unit: a stretch per unit; else neighbours of one fate are joined.

    Raises:
        ConfigError: it is no such mapping, an original is missing, or a receipt is of another text.
    """
    try:
        results = _Results.model_validate(given if "results" in given else {"results": [given]}).results
    except ValidationError as error:
        raise ConfigError(
            f"not what `tokenprune prune --format json` or /v1/receipts/ID gives: {faults(error)}"
        ) from None
    found = []
    for result in results:
        for receipt in result.receipts:
            name = receipt.document_id
            if name not in result.originals:
                raise ConfigError(f"the receipt does not hold the text of {name!r}: give its FILE as well")
            text = result.originals[name]
            edges = [0, *(unit.end for unit in receipt.units)]
            if edges[-1] != len(text) or edges[:-1] != [unit.start for unit in receipt.units]:
                raise ConfigError(
                    f"the receipt of {name!r} is of another text: it covers {edges[-1]} characters without "
                    f"gaps, and the text has {len(text)}"
                )
            every = [Stretch(text[u.start : u.end], u.kept, u.score) for u in receipt.units]
            stretches = every if by_unit else list(_joined(every))
            legend = _legend(receipt.tokens_before, receipt.tokens_after, receipt.units)
            found.append(Shown(name, legend, tuple(stretches)))
    return found


def _legend(before: int, after: int, units: Sequence[_Unit]) -> str:
    share = f" ({after / before:.0%})" if before else ""
    kept = sum(unit.kept for unit in units)
    why = Counter(unit.reason for unit in units if not unit.kept)
    reasons = "".join(f", {reason or 'dropped'} {count}" for reason, count in why.most_common())
    return f"{before} -> {after} tokens{share}; {kept} of {len(units)} units kept{reasons}"


def _joined(every: Sequence[Stretch]) -> Iterator[Stretch]:
    for kept, group in groupby(every, key=lambda stretch: stretch.kept):
        yield Stretch("".join(stretch.text for stretch in group), kept)


def from_result(result: PruneResult) -> dict[str, Any]:
    """Put the originals beside a result."""
    return {**result.to_dict(), "originals": {name: d.text for name, d in result.originals.items()}}


def from_file(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigError: the file holds none.
    """
    try:
        given = json.loads(one.read(str(path)))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ConfigError(f"{path} holds no JSON object")
    return given


def with_original(given: Mapping[str, Any], data: bytes, kind: Any) -> dict[str, Any]:
    """Put the bytes of a file beside the receipt of the one document that was pruned.

    Raises:
        ConfigError: there are several receipts, or none.
    """
    receipts = given.get("receipts")
    if not isinstance(receipts, list) or len(receipts) != 1:
        raise ConfigError("with a FILE, --receipt must hold the receipt of one document")
    name = receipts[0].get("document_id") if isinstance(receipts[0], dict) else None
    return {**given, "originals": {str(name): Document.from_bytes(data, kind=kind).text}}
