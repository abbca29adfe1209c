"""Images and videos as a model reads them, and those among the arguments of a transformers model."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.errors import ConfigError, VisionError
from tokenprune.vision.methods.base import everything
from tokenprune.vision.tokens import Reduced, VisualTokens

if TYPE_CHECKING:
    import torch

PIXELS = ("pixel_values", "pixel_values_videos")
_LLAVA = "LlavaForConditionalGeneration"


@dataclass(frozen=True, eq=False)
class Item:
    """An image or a video.

    The model ends lines of its tokens with a row that is no token of the picture: its "newline". It stays as
    long as anything of its line does, so that no budget counts it; an end of nothing would say nothing.

    Attributes:
        tokens: its visual tokens, of which some may leave.
        holder: id of its placeholders.
        newline: float [d], what stands behind each line; None: there are no lines.
        lines: first token of each line, and the one behind its last; ascending. Several may be the same.
    """

    tokens: VisualTokens
    holder: int
    newline: torch.Tensor | None = None
    lines: Sequence[tuple[int, int]] = ()

    def __len__(self) -> int:
        """How many placeholders it has."""
        return len(self.tokens) + len(self.lines)

    def whole(self) -> VisualTokens:
        """Return all that a model reads of it."""
        return self.read(everything(self.tokens))[0]

    def tokens_read(self, places: torch.Tensor) -> torch.Tensor:
        """Return which tokens stand at places of all that is read, int64, ascending, newlines left out."""
        import torch

        ends = torch.tensor([behind for _, behind in self.lines], device=places.device, dtype=torch.long)
        ends = ends + torch.arange(len(ends), device=places.device)  # where newlines stand
        places = places[~torch.isin(places, ends)]
        return places - torch.searchsorted(ends, places)

    def read(self, left: Reduced) -> tuple[VisualTokens, Reduced]:
        """Return all that a model reads of it, and what of that is left, from what is left of its tokens."""
        if self.newline is None or not self.lines:
            return self.tokens, left
        import torch

        whole, device = self.tokens, left.keep.device
        first, behind = torch.tensor(self.lines, device=device).T.contiguous()
        # Places among all that is read, in the order: tokens, then newlines.
        places = torch.arange(len(whole), device=device)
        places = places + torch.searchsorted(behind, places, right=True)
        places = torch.cat([places, behind + torch.arange(len(behind), device=device)])
        order = places.argsort()

        def followed(values: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
            return torch.cat([values, ends.to(values)])[order]

        last, count = behind - 1, len(self.lines)
        newlines = self.newline.expand(count, -1)
        tokens = VisualTokens(
            followed(whole.features, newlines),
            followed(whole.frame, whole.frame[last]),
            followed(whole.row, whole.row[last]),
            followed(whole.col, whole.col[last] + 1),
            (whole.grid[0], whole.grid[1], whole.grid[2] + int(torch.bincount(behind).max())),
        )
        ended = (torch.searchsorted(left.keep, behind) > torch.searchsorted(left.keep, first)).nonzero()[:, 0]
        kept = torch.cat([left.keep, len(whole) + ended])
        by_place = places[kept].argsort()
        row_of = by_place.argsort()  # of what was kept, tokens first
        into = torch.where(left.into < 0, -1, row_of[left.into.clamp(min=0)])
        ends = torch.full((count,), -1, device=device)
        ends[ended] = row_of[len(left) :]
        features = torch.cat([left.features, newlines[ended].to(left.features)])[by_place]
        return tokens, Reduced(features, places[kept][by_place], followed(into, ends))


def film(frames: Sequence[Item]) -> Item:
    """Put frames together that were encoded one by one, to what the model makes of all of them.

    Raises:
        VisionError: frames with different grids, or a picture in several views.
    """
    import torch

    tokens, first = [frame.tokens for frame in frames], frames[0]
    if any(own.views or own.grid != first.tokens.grid for own in tokens):
        raise VisionError("the frames of a video must have the same number of patches")

    def together(name: str) -> torch.Tensor | None:
        values = [getattr(own, name) for own in tokens]
        return None if values[0] is None else torch.cat(values)

    whole = VisualTokens.from_grid(
        torch.cat([own.features for own in tokens]),
        (len(frames), *first.tokens.grid[1:]),
        received=together("received"),
        cls_attention=together("cls"),
        keys=together("keys"),
        heads=first.tokens.heads,
    )
    lines = [(0, len(whole))] if first.lines else []
    return Item(whole, first.holder, first.newline, lines)


def has_pictures(model: Any, options: dict[str, Any]) -> bool:
    """Tell whether there is something to prune.

    Raises:
        ConfigError: videos for a model that takes none.
    """
    if type(model).__name__ == _LLAVA and options.get("pixel_values_videos") is not None:
        raise ConfigError("this model takes no pixel_values_videos: give the frames of a video as pictures")
    return any(options.get(name) is not None for name in PIXELS)


def take_items(model: Any, options: dict[str, Any], frames: int) -> list[Item]:
    """Take the pictures out of ``options`` and encode them: images in their order, then videos in theirs.

    Args:
        model: a LlavaForConditionalGeneration or LlavaOnevisionForConditionalGeneration.
        options: of ``generate`` or ``forward``.
        frames: consecutive pictures that are a video together, for the former.

    Raises:
        ConfigError: options that cannot hold while pruning.
        VisionError: pictures that are not a number of videos.
    """
    for name in ("vision_feature_layer", "vision_feature_select_strategy", "vision_aspect_ratio"):
        if options.pop(name, None) is not None:
            raise ConfigError(f"{name} is that of the model's config while pruning; leave it out")
    if type(model).__name__ == _LLAVA:
        options.pop("image_sizes", None)
        return _llava(model, options.pop("pixel_values"), frames)
    if frames != 1:
        raise ConfigError(
            "frames of a video are put together for LlavaForConditionalGeneration only: give "
            "LLaVA-OneVision its videos as pixel_values_videos"
        )
    from tokenprune.vision.onevision import pictures, videos

    pixels, films = (options.pop(name, None) for name in PIXELS)
    sizes, several = options.pop("image_sizes", None), options.pop("batch_num_images", None)
    options.pop("image_sizes_videos", None)  # transformers itself does not read them
    images = [] if pixels is None else pictures(model.model, model.config, pixels, sizes, several)
    return images if films is None else images + videos(model.model, model.config, films)


def items_of(ids: Sequence[int], items: Sequence[Item], waiting: dict[int, deque[int]]) -> list[int]:
    """Return the numbers of the items whose placeholders a prompt has, in their order.

    Args:
        ids: of the prompt, one placeholder per visual token.
        items: of the batch.
        waiting: by placeholder, the numbers of those that no prompt had so far; found ones are taken out.

    Raises:
        VisionError: placeholders that are not those of whole images and videos.
    """
    found: list[int] = []
    left, holder = 0, -1
    for token in ids:
        if token not in waiting:
            continue
        if not left or token != holder:
            if left or not waiting[token]:
                raise VisionError(_PARTS)
            found.append(waiting[token].popleft())
            left, holder = len(items[found[-1]]), token
        left -= 1
    if left:
        raise VisionError(_PARTS)
    return found


_PARTS = "the placeholders of a row of the batch are not those of whole pictures"


def _llava(model: Any, pixels: torch.Tensor, frames: int) -> list[Item]:
    from tokenprune.vision.tower import read_features

    if pixels.ndim != 4:
        raise VisionError(
            f"pixel_values must be [pictures, channels, height, width], not {list(pixels.shape)}"
        )
    if len(pixels) % frames:
        raise VisionError(f"{len(pixels)} pictures are not a number of videos of {frames} frames")
    inner = model.model
    place = next(inner.vision_tower.parameters())
    pixels = pixels.to(place.device, place.dtype)
    found = read_features(inner.vision_tower, inner.multi_modal_projector, model.config, pixels)
    holder = int(model.config.image_token_id)
    return [Item(tokens, holder) for tokens in found.tokens([frames] * (len(pixels) // frames))]
