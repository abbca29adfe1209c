"""Images and videos among the arguments of a transformers model, encoded as the model itself encodes them.

LLaVA-OneVision packs the tiles of a picture into lines; they are one line of tokens here, without grid and
attention. Of its videos, each frame's patches are pooled two by two, and so are here the attention they get
and their keys; behind the last frame comes a row of its own (the "newline"), which stays whatever leaves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.errors import ConfigError, VisionError
from tokenprune.vision.tokens import Reduced, VisualTokens

if TYPE_CHECKING:
    import torch

PIXELS = ("pixel_values", "pixel_values_videos")
_LLAVA = "LlavaForConditionalGeneration"


@dataclass(frozen=True, eq=False)
class Item:
    """An image or a video.

    Attributes:
        tokens: its visual tokens, of which some may leave.
        holder: id of its placeholders.
        newline: float [d], a row behind them that always stays; None: there is none.
    """

    tokens: VisualTokens
    holder: int
    newline: torch.Tensor | None = None

    def __len__(self) -> int:
        """How many placeholders it has."""
        return len(self.tokens) + (self.newline is not None)

    def read(self, left: Reduced) -> tuple[VisualTokens, Reduced]:
        """Return all that a model reads of it, and what of that is left, from what is left of its tokens."""
        if self.newline is None:
            return self.tokens, left
        import torch

        whole, end = self.tokens, self.newline[None].to(self.tokens.features)
        frames, rows, cols = whole.grid

        def followed(values: torch.Tensor, last: int) -> torch.Tensor:
            return torch.cat([values, values.new_tensor([last])])

        place = (followed(whole.frame, frames - 1), followed(whole.row, rows), followed(whole.col, 0))
        tokens = VisualTokens(torch.cat([whole.features, end]), *place, (frames, rows + 1, cols))
        keep, into = followed(left.keep, len(whole)), followed(left.into, len(left))
        return tokens, Reduced(torch.cat([left.features, end.to(left.features)]), keep, into)


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
    pixels, videos = (options.pop(name, None) for name in PIXELS)
    sizes, several = options.pop("image_sizes", None), options.pop("batch_num_images", None)
    options.pop("image_sizes_videos", None)  # transformers itself does not read them
    items: list[Item] = []
    if pixels is not None:
        packed = model.get_image_features(pixels, sizes, batch_num_images=several, return_dict=True)
        holder = int(model.config.image_token_id)
        items += [Item(VisualTokens.from_grid(one, (1, 1, len(one))), holder) for one in packed.pooler_output]
    return items if videos is None else items + _onevision_videos(model, videos)


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

    if len(pixels) % frames:
        raise VisionError(f"{len(pixels)} pictures are not a number of videos of {frames} frames")
    inner = model.model
    place = next(inner.vision_tower.parameters())
    pixels = pixels.to(place.device, place.dtype)
    found = read_features(inner.vision_tower, inner.multi_modal_projector, model.config, pixels)
    holder = int(model.config.image_token_id)
    return [Item(tokens, holder) for tokens in found.tokens([frames] * (len(pixels) // frames))]


def _onevision_videos(model: Any, videos: torch.Tensor) -> list[Item]:
    """Encode videos, float [videos, frames, channels, height, width]."""
    from tokenprune.vision.tower import Features, read_features

    if videos.ndim != 5:
        raise VisionError(
            f"pixel_values_videos must be [videos, frames, channels, height, width], not {list(videos.shape)}"
        )
    inner = model.model
    place = next(inner.vision_tower.parameters())
    pixels = videos.flatten(0, 1).to(place.device, place.dtype)
    found = read_features(inner.vision_tower, inner.multi_modal_projector, model.config, pixels)

    def pooled(values: torch.Tensor) -> torch.Tensor:
        return inner.apply_pooling(values)

    grid = (-(-found.grid[0] // 2), -(-found.grid[1] // 2))
    cls = None if found.cls is None else pooled(found.cls[..., None])[..., 0]
    received, keys = pooled(found.received[..., None])[..., 0], pooled(found.keys)
    small = Features(pooled(found.features), received, cls, keys, found.heads, grid)
    holder = int(model.config.video_token_id)
    each = small.tokens([videos.shape[1]] * len(videos))
    return [Item(tokens, holder, inner.image_newline) for tokens in each]
