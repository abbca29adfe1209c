"""What a method that is named in a line leaves of one picture or video, and what the model answers then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tokenprune.errors import ConfigError
from tokenprune.vision.methods.base import (
    VisionMethod,
    inner_method,
    method_spec,
    more_than_asked,
    reduce_by,
    vision_method,
    vision_method_info,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenprune.vision.encoder import VisionEncoder
    from tokenprune.vision.engine import VisionEngine
    from tokenprune.vision.items import Item
    from tokenprune.vision.tokens import Reduced, VisualTokens

_ANSWER = 48  # tokens


@dataclass(frozen=True)
class Chosen:
    """A method and its budget.

    Attributes:
        text: as it was named, see `method_spec`.
        method: before the language model; None for one inside it.
        inner: inside the language model; None for one before it.
        keep: for ``method``.
    """

    text: str
    method: VisionMethod | None
    inner: Any
    keep: int | float | None

    @classmethod
    def of(cls, text: str, keep: int | float | None) -> Chosen:
        """Build it; a method inside the language model takes ``keep`` as its option of this name.

        Raises:
            UnknownNameError: no such method.
            BudgetError: a budget that means nothing.
            ConfigError: options it does not have, or not written as they are to be.
        """
        name, own = method_spec(text)
        options: dict[str, Any] = dict(own)
        info = vision_method_info(name)
        if info.where == "before":
            return cls(text, vision_method(name, **options), None, keep)
        if any(option.startswith("keep=") for option in info.options):
            options.setdefault("keep", keep)
        return cls(text, None, inner_method(name, **options), None)

    def note(self, before: int, after: int) -> str:
        """Say what numbers do not (why more tokens stay than asked for, say); "" for nothing."""
        if self.method is not None:
            return more_than_asked(self.method.name, self.keep, before, after)
        return getattr(self.inner, "note", "") if after < before else ""


@dataclass(frozen=True)
class Looking:
    """One picture or video in a model; with a question, in its language model too.

    Attributes:
        encoder: what encoded it.
        item: all of its visual tokens.
        pictures: how many pictures it has.
        question: what the model is asked; "" for nothing.
        engine: the model that is asked; None where nothing is.
    """

    encoder: VisionEncoder
    item: Item
    pictures: int = 1
    question: str = ""
    engine: VisionEngine | None = None

    @property
    def tokens(self) -> VisualTokens:
        """All visual tokens, without LLaVA-OneVision's newlines."""
        return self.item.tokens

    @classmethod
    def at(cls, model: str, pictures: Sequence[Image], *, video: bool, question: str) -> Looking:
        """Load ``model`` (its vision part only without a question) and encode.

        Raises:
            ModelError: it cannot be loaded; for a question the whole checkpoint is needed.
        """
        engine: VisionEngine | None = None
        if question:
            from tokenprune.vision.engine import VisionEngine

            engine = VisionEngine(model)
            encoder = engine.encoder
        else:
            from tokenprune.vision.encoder import load_vision_encoder

            encoder = load_vision_encoder(model)
        encoded = encoder.items([], [pictures]) if video else encoder.items(pictures)
        return cls(encoder, encoded[0], len(pictures), question, engine)

    def look(self, chosen: Chosen) -> tuple[Reduced, str]:
        """Return what a method leaves, and the answer to the question ("" without one).

        Of a method inside the language model, what is left is what its last layer sees.

        Raises:
            ConfigError: a method inside the language model, and no question.
            BudgetError: as the method says.
        """
        left = reduce_by(chosen.method, self.tokens, chosen.keep)
        if self.engine is None:
            if chosen.inner is not None:
                raise ConfigError(f"{chosen.text!r} works inside the language model: give a question")
            return left, ""
        return self._ask(self.engine, chosen, left)

    def _ask(self, engine: VisionEngine, chosen: Chosen, left: Reduced) -> tuple[Reduced, str]:
        import torch

        from tokenprune.engine.reading import Reading
        from tokenprune.engine.sampling import SamplingParams
        from tokenprune.vision.llm import Inside
        from tokenprune.vision.merge import select

        # To a model that knows videos, one stands in one place; to others its frames are so many pictures.
        ids = engine.chat(self.question, 1 if self.encoder.frames_differ else self.pictures)
        prompt = engine.prompt(ids, [self.item], [left])
        inner = () if chosen.inner is None else (chosen.inner,)
        if inner:
            reading = engine.engine.prefill(prompt, strategy=Inside(inner))
            last = cast(Reading, reading).sequence.layers[-1].positions
            seen = torch.isin(torch.tensor(prompt.visual, device=last.device), last)
            places = seen.nonzero().squeeze(1).to(left.keep.device)
            left = select(self.tokens, self.item.tokens_read(places))
        greedy = SamplingParams(max_tokens=_ANSWER, temperature=0)
        steps = engine.generate(prompt, greedy, inner=inner)
        return left, "".join(step.text_delta for step in steps).strip()
