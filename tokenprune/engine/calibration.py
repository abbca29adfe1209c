"""What is known of a model: which layer and which heads find the tokens that answer a question.

``tokenprune calibrate MODEL`` finds it out and stores it in the user's cache folder; that of the named models
ships. A model is looked up by the fingerprint of its weights, then by its name. For one that nothing is known
of, a layer at about half of the depth is taken, all heads, and it is said so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakKeyDictionary

from pydantic import Field, TypeAdapter, ValidationError

from tokenprune.engine.fingerprint import fingerprint
from tokenprune.engine.rules import AttentionProbability, DotProduct, Look, Pooled, Relative, ScoreRule
from tokenprune.errors import ConfigError
from tokenprune.models.catalog import cache_root
from tokenprune.validation import faults

if TYPE_CHECKING:
    from tokenprune.engine.decoder import Decoder

log = logging.getLogger("tokenprune")
FALLBACK_SHARE = 0.45  # of the depth; between what is published for Llama-3.1-8B and for Mistral-Nemo
FALLBACK_KERNEL = 21
PUBLISHED_KERNEL = 5
_SHIPPED = ("data", "calibrations")


@dataclass(frozen=True, slots=True)
class Choice:
    """How one method looks at one model.

    Attributes:
        layer: r, whose queries and keys are looked at.
        softmax: Attention probability; False: raw q.k.
        kernel: Scores are averaged over as many neighbours.
        heads: Query heads of the layer that count; None: all.
        around: Attention counts relative to so many tokens about each; None: as it is.
        earlier: Layers before r -> query heads that count as well, each as much as one of r. Heads that
            retrieve stand in many layers, and those of r alone may miss what an earlier one has found.
        kept: Tokens kept -> share of the answers that were among them, on prompts that chose nothing.
        peak: Of the queries the one that looks most at a token counts, not their mean.
    """

    layer: Annotated[int, Field(ge=1)]
    softmax: bool = True
    kernel: int = FALLBACK_KERNEL
    heads: tuple[int, ...] | None = None
    around: int | None = None
    earlier: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    kept: Mapping[int, float] = field(default_factory=dict)
    peak: bool = False

    def __post_init__(self) -> None:
        """Check that there is such a rule.

        Raises:
            ConfigError: A kernel or heads that no rule has, or an earlier layer that is not before r.
        """
        self.rule()
        if not self.softmax and (self.heads is not None or self.around is not None or self.peak):
            raise ConfigError("heads, around and peak are of attention probabilities, not of raw products")
        if self.earlier and self.heads is None:
            raise ConfigError("heads of earlier layers count beside named heads of the layer")
        wrong = [layer for layer in self.earlier if not 0 < layer < self.layer]
        if wrong:
            raise ConfigError(f"an earlier layer lies between 0 and {self.layer}, not at {wrong[0]}")
        self.looks()

    def looks(self) -> tuple[Look, ...]:
        """Return which layers score the tokens, by which rule, and what each layer's word weighs."""
        if self.heads is None:
            return (Look(self.layer, self.rule()),)
        return tuple(Look(n, self._rule(heads), share) for n, heads, share in self.named())

    def named(self) -> list[tuple[int, tuple[int, ...], float]]:
        """Return the layers of named heads in order, each with its heads and what they weigh together."""
        every = {**self.earlier, self.layer: self.heads or ()}
        total = sum(map(len, every.values()))
        return [(n, heads, len(heads) / total) for n, heads in sorted(every.items()) if heads]

    def rule(self) -> ScoreRule:
        """Return how the layer itself scores tokens."""
        return self._rule(self.heads)

    def _rule(self, heads: tuple[int, ...] | None) -> ScoreRule:
        base: ScoreRule = AttentionProbability(heads, self.peak) if self.softmax else DotProduct()
        return Pooled(base if self.around is None else Relative(base, self.around), self.kernel)

    def but(
        self,
        layer: int | None = None,
        softmax: bool | None = None,
        kernel: int | None = None,
        heads: tuple[int, ...] | None = None,
    ) -> Choice:
        """Return this choice with what a caller says; heads, earlier and around belong to their layer.

        Raises:
            ConfigError: There is no such rule.
        """
        wanted = self.layer if layer is None else layer
        soft = (self.softmax or heads is not None) if softmax is None else softmax
        around, earlier = None, {}
        if heads is None and soft and wanted == self.layer:
            heads, around, earlier = self.heads, self.around, dict(self.earlier)
        width = self.kernel if kernel is None else kernel
        asked = Choice(wanted, soft, width, heads, around, earlier, peak=self.peak and soft)
        return self if asked == replace(self, kept={}) else asked


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is known of a model.

    Attributes:
        model: Its name when it was calibrated.
        fingerprint: Of its weights; see :mod:`tokenprune.engine.fingerprint`.
        depth: Its layers.
        question: For the question as the query (``gemfilter-q``).
        published: For the last token as the query and raw q.k (``gemfilter``).
        prompts: What it was found out on, in words.
        choices: The best of each layer for the question as the query, for callers that name a layer; without
            the heads of earlier layers also for ``lazyllm``, which scores in several.
        layers: Per layer: ``layer``, ``cost`` (share of a full prefill), and shares of answers kept, of the
            question with all heads, with the best ones, and of the last token.
    """

    model: str
    fingerprint: str
    depth: int
    question: Choice
    published: Choice
    prompts: str = ""
    choices: tuple[Choice, ...] = ()
    layers: tuple[Mapping[str, float], ...] = ()

    def asked(self, layer: int | None) -> Choice:
        """Return how the question looks at the model in a layer; None: in the one that was chosen."""
        known = (choice for choice in self.choices if choice.layer == layer)
        return self.question if layer is None else next(known, self.question)

    def rules(self) -> dict[int, ScoreRule]:
        """Return layer -> how its tokens are scored, for the question as the query."""
        return {choice.layer: choice.rule() for choice in self.choices}

    def to_json(self) -> str:
        """Return what :func:`parse` reads."""
        return json.dumps(_adapter().dump_python(self, mode="json"), indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class Known:
    """A calibration and where it is from.

    Attributes:
        calibration: What to go by.
        notice: What a user should know of it; empty for one of these very weights.
    """

    calibration: Calibration
    notice: str = ""


_looked_up: WeakKeyDictionary[Decoder, Known] = WeakKeyDictionary()


def known(decoder: Decoder) -> Known:
    """Return what is known of a model, looked up once."""
    if decoder not in _looked_up:
        _looked_up[decoder] = look_up(decoder)
    return _looked_up[decoder]


def go_by(decoder: Decoder, layer: int | None) -> Calibration:
    """Return what is known of a model; where no ``layer`` is said, a notice is logged once in a process."""
    found = known(decoder)
    if layer is None and found.notice:
        _announce(found.notice)
    return found.calibration


def look_up(decoder: Decoder) -> Known:
    """Look for what is known of a model, by its weights, then by its name; never fails for want of it."""
    mark, name = fingerprint(decoder), decoder.name
    every = [found for found in stored() if _fits(found, decoder, mark)]
    for calibration in every:
        if calibration.fingerprint == mark:
            return Known(calibration)
    for calibration in every:
        if calibration.model == name:
            return Known(
                calibration,
                f"{name} has other weights than when it was calibrated; run `tokenprune calibrate {name}`",
            )
    guessed = fallback(decoder.depth, name, mark)
    return Known(
        guessed,
        f"{name or 'this model'} is not calibrated: layer {guessed.question.layer} of {decoder.depth} is a "
        f"guess, and the layer decides what is found; run `tokenprune calibrate {name or 'MODEL'}`, or say "
        "which layer",
    )


def _fits(calibration: Calibration, decoder: Decoder, mark: str) -> bool:
    """Whether a model has the depth and the heads of a calibration; logged where heads of its own lack.

    Args:
        calibration: of some model.
        decoder: the model.
        mark: its fingerprint.
    """
    heads = decoder.weights.heads
    if calibration.depth != decoder.depth:
        return False
    every = (calibration.question, calibration.published, *calibration.choices)
    named = [head for choice in every for _, own, _ in choice.named() for head in own]
    if max(named, default=0) < heads:
        return True
    if decoder.name in (calibration.model, "") or calibration.fingerprint == mark:
        log.warning(
            "the calibration of %s names head %s of a model of %s: it is passed over; remove it or run "
            "`tokenprune calibrate` again",
            calibration.model, max(named), heads,
        )  # fmt: skip
    return False


@lru_cache(maxsize=256)
def _announce(notice: str) -> None:
    log.warning(notice)


def fallback(depth: int, model: str = "", mark: str = "") -> Calibration:
    """Return the guess for a model of ``depth`` layers."""
    layer = max(1, round(FALLBACK_SHARE * depth))
    return Calibration(
        model, mark, depth, Choice(layer, peak=True), Choice(layer, softmax=False, kernel=PUBLISHED_KERNEL)
    )


def folder() -> Path:
    """Return where the user's calibrations are: ``calibrations`` in the cache folder."""
    return cache_root() / "calibrations"


def store(calibration: Calibration, path: Path | None = None) -> Path:
    """Write a calibration, by default to where :func:`look_up` finds it, and return the file.

    Raises:
        ConfigError: The file cannot be written.
    """
    target = folder() / f"{calibration.fingerprint}.json" if path is None else path
    with _partial(target) as partial:
        partial.write_text(calibration.to_json(), encoding="utf-8")
        partial.replace(target)
    return target


def check_writable(path: Path | None = None) -> None:
    """Find out whether `store` can write there, before what takes minutes.

    Raises:
        ConfigError: It cannot.
    """
    with _partial(folder() / "some.json" if path is None else path) as partial:
        partial.touch()


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Give a file beside ``target`` that is gone afterwards; ConfigError where none can be written."""
    advice = "give --out a file that can be written"
    if target.is_dir():
        raise ConfigError(f"cannot write {target}: it is a folder; {advice}")
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error}; {advice}") from error


def stored() -> list[Calibration]:
    """Return the user's calibrations and those that ship; the user's come first, damaged ones are logged."""
    found = []
    for path in sorted(folder().glob("*.json")):
        try:
            found.append(read(path))
        except ConfigError as error:
            log.warning("%s", error)
    return found + shipped()


def shipped() -> list[Calibration]:
    """Return the calibrations that ship."""
    entries = resources.files("tokenprune").joinpath(*_SHIPPED).iterdir()
    return [
        parse(entry.read_text(encoding="utf-8"), entry.name)
        for entry in entries
        if entry.name.endswith(".json")
    ]


def read(path: Path) -> Calibration:
    """Read a file that ``tokenprune calibrate`` wrote.

    Raises:
        ConfigError: There is none, or it is damaged.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the calibration {path}: {error}") from error


def parse(text: str, name: str) -> Calibration:
    """Read a calibration from JSON; ``name`` is for messages.

    Raises:
        ConfigError: It is none.
    """
    try:
        found: Calibration = _adapter().validate_json(text)
    except (ValidationError, ConfigError) as error:
        why = faults(error) if isinstance(error, ValidationError) else error
        raise ConfigError(
            f"{name} is no calibration ({why}); remove it or run `tokenprune calibrate` again"
        ) from None
    for choice in (found.question, found.published, *found.choices):
        if choice.layer >= found.depth:
            raise ConfigError(f"{name}: layer {choice.layer} of a model of {found.depth} layers")
    return found


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Calibration)
