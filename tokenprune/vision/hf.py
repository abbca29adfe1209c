"""Pruning in plain transformers: ``with visual_pruning(model, "visionzip", 0.25): model.generate(...)``.

The model's code is not touched: while the context is open, ``generate`` and ``forward`` of this one object
first encode the pictures, let the method reduce them, take the placeholders of what was dropped out of the
prompt, and then run as ever, with embeddings in place of pixel values. Positions close up, padding is made
anew, on the left. On exit, by whatever way, the object is as before.

Lengths, logits processors, stopping criteria and streamers count and see the whole prompt.

Methods inside the language model need its layers to hold different tokens, which transformers' caches and
masks do not foresee: for these ``generate`` hands over to :mod:`tokenprune.engine`, which reads the same
weights. It is greedy or samples; whatever else is asked for is refused (:mod:`tokenprune.vision.generation`).
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenprune.engine.prompt import Prompt
from tokenprune.engine.weights import SEEING_FAMILIES
from tokenprune.errors import ConfigError, ModelError, VisionError
from tokenprune.vision.generation import for_embeddings, for_engine
from tokenprune.vision.items import has_pictures, items_of, take_items
from tokenprune.vision.methods.base import (
    VisionMethod,
    inner_method,
    method_spec,
    reduce_by,
    vision_method,
    vision_method_info,
)
from tokenprune.vision.prompts import seeing, staying
from tokenprune.vision.tokens import Reduced, VisualTokens, parse_keep

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig

    from tokenprune.engine.schedule import Reducer

_NO_LABEL = -100


@dataclass(eq=False)
class Pruning:
    """What is done while the context is open, and what was done last.

    Attributes:
        method: Prunes before the language model; None: nothing does.
        keep: For the method, of each image: rows or a share.
        inner: Methods inside the language model.
        frames: Consecutive pictures that are a video together; 1: each is an image.
        seen: Of the last call: all visual tokens of each image (or video), without the newlines of
            LLaVA-OneVision; empty when it had none.
        left: Of the last call: what the method left of them, before the language model; without one that is
            everything, whatever methods inside leave later.
        layers: Of the last call, with methods inside: for each prompt of the batch the tokens that each layer
            read, text included. Their differences are what left inside.
    """

    method: VisionMethod | None
    keep: int | float | None
    inner: tuple[Reducer, ...] = ()
    frames: int = 1
    seen: list[VisualTokens] = field(default_factory=list)
    left: list[Reduced] = field(default_factory=list)
    layers: list[list[int]] = field(default_factory=list)

    def forget(self) -> None:
        """Begin a call: nothing is known of it."""
        self.seen, self.left, self.layers = [], [], []


@contextmanager
def visual_pruning(
    model: Any,
    method: str | VisionMethod | None,
    keep: int | float | str | None = None,
    *,
    inner: str | Reducer | Sequence[str | Reducer] = (),
    frames: int = 1,
) -> Iterator[Pruning]:
    """Prune the pictures of whatever ``model`` generates or computes while the context is open.

    ``generate`` returns token ids as without pruning: the whole prompt as it was given, then the new tokens.
    ``forward`` returns outputs of the shrunken prompt; labels shrink with it. Not for several threads at a
    time.

    Args:
        model: A loaded LlavaForConditionalGeneration or LlavaOnevisionForConditionalGeneration; see
            :mod:`tokenprune.vision.onevision` for the latter's pictures, views and videos.
        method: A method or its name, options behind it or not, as in ``fopru:strategy=row``; one inside the
            language model may be named here too, with ``keep``.
        keep: Rows of each image, or a share, see :func:`tokenprune.vision.tokens.parse_keep`; None for
            methods that tell themselves, and those inside that have a share of their own. LLaVA-OneVision's
            newlines come on top. A method inside counts the visual tokens of all pictures together, newlines
            as any other.
        inner: Methods inside the language model, or their names.
        frames: Consecutive pictures that are a video together.

    Yields:
        What is done, and what was done last.

    Raises:
        ModelError: A model whose prompts cannot shrink, with a vision tower that is neither CLIP nor SigLIP,
            or none that is loaded.
        ConfigError: The model is in such a context already, ``frames`` is below 1, or a method is none.
        BudgetError: ``keep`` means nothing.
        UnknownNameError: No such method.
    """
    _check_model(model)
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise ConfigError(f"frames must be 1 or more, not {frames!r}")
    keep = parse_keep(keep)
    named = (inner,) if isinstance(inner, str) or not isinstance(inner, Sequence) else tuple(inner)
    reducers = tuple(_reducer(one) for one in named)
    if isinstance(method, str) and vision_method_info(method_spec(method)[0]).where == "inside":
        options = {} if keep is None else {"keep": keep}
        reducers, method, keep = (inner_method(method, **options), *reducers), None, None
    chosen = vision_method(method) if isinstance(method, str) else method
    if not (chosen is None or isinstance(chosen, VisionMethod)):
        raise ConfigError(f"method must be a name, a VisionMethod or None, not {method!r}")
    pruning = Pruning(chosen, keep, reducers, frames)
    own = vars(model)
    if isinstance(getattr(own.get("generate"), "pruning", None), Pruning):
        raise ConfigError("this model is pruning already: leave the other context first")
    before = {name: own[name] for name in ("generate", "forward") if name in own}
    call = _Calls(model, pruning)
    try:
        model.generate, model.forward = call.patched(call.generate), call.patched(call.forward)
        yield pruning
    finally:
        for name in ("generate", "forward"):
            own.pop(name, None)
        own.update(before)


def _reducer(inner: Any) -> Any:
    built = inner_method(inner) if isinstance(inner, str) else inner
    if not callable(getattr(built, "acts_after", None)):
        raise ConfigError(f"inner must name methods inside the language model, or be such, not {inner!r}")
    return built


def _check_model(model: Any) -> None:
    kind = type(model).__name__
    if kind in SEEING_FAMILIES:
        from tokenprune.vision.tower import check_tower

        return check_tower(model.config)
    known = " and ".join(SEEING_FAMILIES)
    if not callable(getattr(model, "forward", None)):
        raise ModelError(
            f"{model if isinstance(model, str) else kind!r} is no loaded model: give one, as "
            f"{SEEING_FAMILIES[0]}.from_pretrained returns it, not its name"
        )
    if "image_grid_thw" in inspect.signature(model.forward).parameters:
        raise ModelError(
            f"a {kind} is not supported: from the picture's size (image_grid_thw) it computes how many "
            "placeholders there must be and which row and column each has (M-RoPE), so a prompt with fewer "
            f"is refused or misread; {known} take any number"
        )
    raise ModelError(f"a {kind} is not supported; {known} are")


class _Calls:
    """The two methods of a model while it prunes."""

    def __init__(self, model: Any, pruning: Pruning) -> None:
        self.model, self.pruning = model, pruning
        self._generate, self._forward, self._generating = model.generate, model.forward, False
        self._pad = int(
            _first(model.generation_config.pad_token_id, model.config.get_text_config().pad_token_id, 0)
        )

    def patched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return what takes the place of one of the two; transformers looks at the signature, which stays."""

        @functools.wraps(self._generate if call == self.generate else self._forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            return call(*args, **kwargs)

        run.pruning = self.pruning  # type: ignore[attr-defined]  # marks it as ours
        return run

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        **options: Any,
    ) -> Any:
        import torch

        self.pruning.forget()
        if not has_pictures(self.model, options):
            return self._running(inputs, generation_config, **options)
        with torch.no_grad():
            ids, _, prompts = self._prompts(inputs, options)
        if self.pruning.inner:
            return self._by_engine(ids, prompts, generation_config, options)
        new = _Padded(self.model, prompts, self._pad)
        read = new.embeddings.shape[1]
        config, options = for_embeddings(self.model, generation_config, options, ids.shape[1], read)
        return self._running(
            ids.to(new.embeddings.device),
            config,
            attention_mask=new.mask,
            inputs_embeds=new.embeddings,
            **options,
        )

    def _running(self, *args: Any, **options: Any) -> Any:
        """Let transformers generate; the steps it makes are none of the caller's."""
        self._generating = True
        try:
            return self._generate(*args, **options)
        finally:
            self._generating = False

    def forward(self, input_ids: torch.Tensor | None = None, *args: Any, **options: Any) -> Any:
        import torch

        if self._generating:
            return self._forward(input_ids, *args, **options)
        self.pruning.forget()
        if args and args[0] is not None:
            options["pixel_values"], args = args[0], args[1:]
        if not has_pictures(self.model, options):
            return self._forward(input_ids, *args, **options)
        if args:
            raise ConfigError("while pruning, give arguments behind pixel_values by name")
        if self.pruning.inner:
            raise ConfigError("methods inside the language model run in generate, not in forward")
        if options.get("position_ids") is not None or options.get("past_key_values") is not None:
            raise ConfigError("pictures are pruned at the start of a prompt, without positions of the caller")
        labels = options.pop("labels", None)
        with torch.no_grad():
            _, mask, prompts = self._prompts(input_ids, options)
        new = _Padded(self.model, prompts, self._pad)
        if labels is not None:
            options["labels"] = new.shrunk(labels, mask, _NO_LABEL)
        return self._forward(inputs_embeds=new.embeddings, attention_mask=new.mask, **options)

    def _prompts(
        self, inputs: torch.Tensor | None, options: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, list[_Row]]:
        """Take the prompt out of ``options``; return ids and mask as given, and a pruned prompt per row."""
        import torch

        ids = options.pop("input_ids", None)
        ids = inputs if ids is None else ids
        if ids is None or options.get("inputs_embeds") is not None:
            raise ConfigError("pictures are pruned by their placeholders: give input_ids, not inputs_embeds")
        mask = options.pop("attention_mask", None)
        mask = torch.ones_like(ids) if mask is None else mask
        if mask.shape != ids.shape:
            raise ConfigError(f"attention_mask must have the shape of input_ids, {list(ids.shape)}")
        items = take_items(self.model, options, self.pruning.frames)
        how, keep = self.pruning.method, self.pruning.keep
        left = [reduce_by(how, item.tokens, keep) for item in items]
        self.pruning.seen, self.pruning.left = [item.tokens for item in items], left
        image_token, rows = int(self.model.config.image_token_id), []
        waiting: dict[int, deque[int]] = {image_token: deque()}
        for number, item in enumerate(items):
            waiting.setdefault(item.holder, deque()).append(number)
        for row, own in zip(ids, mask, strict=True):
            tokens = row[own.bool()].tolist()
            read = [items[n].read(left[n]) for n in items_of(tokens, items, waiting)]
            # What is read in the place of a placeholder does not depend on which of them it is.
            tokens = [image_token if token in waiting else token for token in tokens]
            seen, after = [whole for whole, _ in read], [rest for _, rest in read]
            prompt = seeing(tokens, image_token, seen, after)
            rows.append(_Row(prompt, staying(tokens, image_token, after).tolist()))
        if missed := sum(map(len, waiting.values())):
            raise VisionError(
                f"the batch has placeholders for {len(items) - missed} of {len(items)} images and videos"
            )
        return ids, mask, rows

    def _by_engine(
        self,
        ids: torch.Tensor,
        rows: list[_Row],
        config: GenerationConfig | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        import torch

        from tokenprune.engine.decoder import Decoder
        from tokenprune.vision.engine import continue_all, rows_per_layer

        params, ends, pad = for_engine(self.model, config, options, ids.shape[1])
        new = continue_all(
            Decoder(self.model),
            [row.prompt for row in rows],
            params,
            ends,
            self.pruning.inner,
            on_read=lambda reading: self.pruning.layers.append(rows_per_layer(reading)),
        )
        fill = self._pad if pad is None else int(pad)
        size = max(map(len, new))
        padded = [tokens + [fill] * (size - len(tokens)) for tokens in new]
        return torch.cat([ids, torch.tensor(padded, device=ids.device)], 1)


@dataclass(frozen=True, eq=False)
class _Row:
    """One prompt of a batch.

    Attributes:
        prompt: What is left of it.
        stays: Which of its tokens, padding not counted, these are.
    """

    prompt: Prompt
    stays: list[int]


class _Padded:
    """Pruned prompts as a batch, padded on the left: ids and mask [b, n], embeddings [b, n, hidden]."""

    def __init__(self, model: Any, rows: Sequence[_Row], pad: int) -> None:
        import torch

        self.rows = rows
        size = max(len(row.prompt) for row in rows)
        device = model.get_input_embeddings().weight.device
        blank = [size - len(row.prompt) for row in rows]
        self.ids = torch.tensor(
            [[pad] * n + list(row.prompt.ids) for n, row in zip(blank, rows, strict=True)], device=device
        )
        self.mask = torch.tensor([[0] * n + [1] * (size - n) for n in blank], dtype=torch.long, device=device)
        self.embeddings = model.get_input_embeddings()(self.ids)
        for number, (row, n) in enumerate(zip(rows, blank, strict=True)):
            if row.prompt.features is not None:
                at = torch.tensor(row.prompt.visual, device=device) + n
                features = row.prompt.features.to(device, self.embeddings.dtype)
                self.embeddings = self.embeddings.index_put((torch.tensor(number), at), features)

    def shrunk(self, whole: torch.Tensor, mask: torch.Tensor, blank: int) -> torch.Tensor:
        """Return values of the tokens of the whole prompts, [b, n before], for what is left of them."""
        out = whole.new_full(tuple(self.ids.shape), blank)
        for row, values, own, new in zip(self.rows, whole, mask.bool(), out, strict=True):
            new[len(new) - len(row.stays) :] = values[own][row.stays]
        return out


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
