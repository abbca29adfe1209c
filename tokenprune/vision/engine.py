"""A LLaVA-type model in the built-in engine: pictures in, pruned before or inside the model, text out.

One picture or several, or the frames of videos; the decoder, its sampling and its reducers are those of
:mod:`tokenprune.engine`, which sees nothing but a prompt with features in some places. An engine serves one
sequence at a time, callers in their order; :func:`continue_all` reads and continues several prompts in common
passes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprune.engine.engine import Engine, Step
from tokenprune.engine.prompt import Prompt
from tokenprune.engine.reading import Reading, read_prompts, step_together
from tokenprune.engine.sampling import Sampler, SamplingParams
from tokenprune.engine.schedule import Marks, Reducer
from tokenprune.errors import MissingExtraError, ModelError, VisionError
from tokenprune.models.catalog import resolve_model
from tokenprune.tokens import sanitize
from tokenprune.vision.export import is_vision_part
from tokenprune.vision.llm import Inside
from tokenprune.vision.prompts import seeing

if TYPE_CHECKING:
    from PIL.Image import Image

    from tokenprune.engine.decoder import Decoder
    from tokenprune.vision.items import Item
    from tokenprune.vision.methods.base import VisionMethod
    from tokenprune.vision.tokens import Reduced, VisualTokens


@dataclass(frozen=True, eq=False)
class Seen:
    """A prompt with its pictures, ready to be read.

    Attributes:
        prompt: What the engine reads.
        tokens: Images, then videos: all of their visual tokens.
        left: What the method left of each.
    """

    prompt: Prompt
    tokens: list[VisualTokens]
    left: list[Reduced]


class VisionEngine:
    """The engine, the vision encoder and the processor of one checkpoint."""

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        max_model_len: int | None = None,
    ) -> None:
        """Load ``model``; see :class:`tokenprune.engine.engine.Engine`.

        Raises:
            ModelError: It cannot be found or loaded, or is of a class whose pictures are not known here.
            MissingExtraError: torch, transformers or Pillow is not installed.
        """
        try:
            from transformers import AutoImageProcessor
        except ImportError as error:
            raise MissingExtraError("vision", "vision", error.name or "transformers") from error
        from tokenprune.vision.encoder import VisionEncoder

        if is_vision_part(resolve_model(model)):
            raise ModelError(
                f"{model!r} is the vision part of a checkpoint, and a question needs all of it: give the "
                "checkpoint, or what `tokenprune vision export --full` writes of it"
            )
        self.engine = Engine(model, device=device, dtype=dtype, max_model_len=max_model_len)
        try:
            processor = AutoImageProcessor.from_pretrained(resolve_model(model))
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"cannot load the image processor of {model!r}: {error}") from error
        self.encoder = VisionEncoder.of(self.engine.lm.model, processor, model)
        self.image_token = int(self.encoder.config.image_token_id)

    def chat(self, question: str, pictures: int = 1) -> list[int]:
        """Return a user's turn in the model's chat template: so many pictures, then the question.

        Each picture is one placeholder.

        Raises:
            VisionError: The question holds what stands for a picture.
        """
        question = sanitize(question)
        content = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
        tokenizer = self.engine.lm.tokenizer
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        holder = tokenizer.convert_ids_to_tokens(self.image_token)
        if holder in question and ids.count(self.image_token) > pictures:
            raise VisionError(f"the question holds {holder!r}, which stands for a picture here: leave it out")
        return ids

    def see(
        self,
        ids: Sequence[int],
        images: Sequence[Image] = (),
        videos: Sequence[Sequence[Image]] = (),
        *,
        method: VisionMethod | None = None,
        keep: int | float | None = None,
    ) -> Seen:
        """Encode pictures, prune them, and put what is left in the places of a prompt.

        Args:
            ids: Tokens of the prompt, images before videos; one placeholder per picture, or per image and
                video, or per visual token.
            images: RGB pictures.
            videos: Frames of each video.
            method: How tokens are left out before the language model; None: none are.
            keep: For the method, of each image and video: rows or a share.

        Raises:
            VisionError: Pictures and placeholders do not fit, or a picture cannot be prepared.
            BudgetError: ``keep`` leaves nothing, or the method needs one.
        """
        from tokenprune.vision.methods.base import reduce_by

        items = self.encoder.items(images, videos) if images or videos else []
        left = [reduce_by(method, item.tokens, keep) for item in items]
        return Seen(self.prompt(ids, items, left), [item.tokens for item in items], left)

    def prompt(self, ids: Sequence[int], items: Sequence[Item], left: Sequence[Reduced]) -> Prompt:
        """Put what is left of images and videos in the places of a prompt.

        Args:
            ids: As for :meth:`see`.
            items: Images and videos, in the order of the prompt.
            left: What a method left of their tokens.

        Raises:
            VisionError: They and the placeholders do not fit.
        """
        read = [item.read(rest) for item, rest in zip(items, left, strict=True)]
        return seeing(ids, self.image_token, [whole for whole, _ in read], [rest for _, rest in read])

    def generate(
        self,
        seen: Seen | Prompt,
        params: SamplingParams,
        cancel: threading.Event | None = None,
        *,
        inner: Sequence[Reducer] = (),
        marks: Marks | None = None,
    ) -> Iterator[Step]:
        """Read a prompt and continue it; see :meth:`tokenprune.engine.engine.Engine.generate`.

        Args:
            seen: From :meth:`see`.
            params: How to continue it.
            cancel: Set it from any thread to stop.
            inner: Methods inside the language model.
            marks: Where the question stands, as positions of the pruned prompt.
        """
        prompt = seen.prompt if isinstance(seen, Seen) else seen
        strategy = Inside(tuple(inner)) if inner else None
        return self.engine.generate(prompt, params, cancel, strategy=strategy, marks=marks)


def continue_all(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    ends: frozenset[int],
    inner: Sequence[Reducer] = (),
    on_read: Callable[[Reading], None] | None = None,
) -> list[list[int]]:
    """Read prompts in one packed pass, then continue all of them step by step, each until it ends.

    Args:
        decoder: The model.
        prompts: At least one.
        params: How to continue them; ``max_tokens`` must be given. ``stop`` strings are not looked at.
        ends: Tokens that end a sequence.
        inner: Methods inside the language model.
        on_read: Is shown each prompt when all are read, before any is continued.

    Returns:
        The new tokens of each, the one that ended it included.
    """
    reducer = Inside(tuple(inner)) if inner else None
    readings = read_prompts(decoder, prompts, reducer=reducer)
    if on_read is not None:
        for reading in readings:
            on_read(reading)
    samplers = [Sampler(params, decoder.device) for _ in prompts]
    ends = params.stop_token_ids if params.ignore_eos else params.stop_token_ids | ends
    out: list[list[int]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    while True:
        for number in going:
            out[number].append(samplers[number].choose(readings[number].logits))
        going = [n for n in going if out[n][-1] not in ends and len(out[n]) != params.max_tokens]
        if not going:
            return out
        step_together([readings[n] for n in going], [out[n][-1] for n in going])


def rows_per_layer(reading: Reading) -> list[int]:
    """Return how many tokens each layer holds: of a prompt just read, how many went through it."""
    return [len(layer) for layer in reading.sequence.layers]
