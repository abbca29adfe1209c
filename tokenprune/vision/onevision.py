"""Pictures and videos of LLaVA-OneVision, packed as the model packs them, with their grid and attention.

A picture goes through the tower as a whole and, alone in its prompt, also in tiles, which the model puts
together into one large grid, without the rows or columns that were padding; a grid of very many patches is
made smaller by interpolation. The attention that patches get and their keys go the same way here, by the
model's own code. So such a picture has two views, and the attention of a patch is a share of that in its own
tile. Behind each row of the large grid the model reads its "newline"; behind a picture without tiles, one.

Of a video each frame's patches are pooled two by two, and so are the attention and the keys. Behind the last
frame comes one newline.

What is called ``inner`` here is a LlavaOnevisionModel, or what holds all of one but its language model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenprune.errors import VisionError
from tokenprune.vision.items import Item
from tokenprune.vision.tokens import VisualTokens

if TYPE_CHECKING:
    import torch

    from tokenprune.vision.tower import Features


_BATCH = 16  # tiles that go through the tower together


def pictures(
    inner: Any,
    config: Any,
    pixels: torch.Tensor,
    sizes: torch.Tensor | None,
    several: torch.Tensor | None = None,
    attention_layer: int | None = None,
) -> list[Item]:
    """Encode pictures.

    Args:
        inner: see the module.
        config: a LlavaOnevisionConfig.
        pixels: float [pictures, tiles, channels, height, width], the whole picture as the first tile, filled
            up to the same number of tiles; or [tiles of all pictures, channels, height, width].
        sizes: ``image_sizes``, int [pictures, 2], height and width of the pictures as they came.
        several: ``batch_num_images``, int [prompts], pictures of each prompt; None: each has one.
        attention_layer: see `tokenprune.vision.tower.read_features`.

    Raises:
        VisionError: arguments that do not belong together.
    """
    import torch

    counts = _tiles(config, pixels, sizes, several)
    if pixels.ndim == 5:
        pixels = torch.cat([own[:count] for own, count in zip(pixels, counts, strict=True)])
    found = _encoded(inner, config, pixels, attention_layer)
    seen = [found.received[..., None], found.keys]
    if found.cls is not None:
        seen.append(found.cls[..., None])

    def packed(values: torch.Tensor, newline: torch.Tensor | None) -> list[torch.Tensor]:
        ratio = config.vision_aspect_ratio
        split = values.split(counts)
        out: list[torch.Tensor] = inner.pack_image_features(split, sizes, newline, ratio)[0]
        return out

    read, seen_of = packed(found.features, inner.image_newline), packed(torch.cat(seen, -1), None)
    return [
        _picture(features, own, found, int(config.image_token_id), inner.image_newline)
        for features, own in zip(read, seen_of, strict=True)
    ]


def _picture(
    features: torch.Tensor, seen: torch.Tensor, found: Features, holder: int, newline: torch.Tensor
) -> Item:
    """Put a picture together.

    Args:
        features: float [n + lines, d], with the newlines.
        seen: float32 [n, 1 + k (+ 1)], attention received, keys, and the attention of CLS if there is one.
        found: what the tower made of all pictures.
        holder: id of the placeholders.
        newline: float [d].
    """
    import torch

    base = found.grid[0] * found.grid[1]
    rest, ends = len(seen) - base, len(features) - len(seen)
    views = [found.grid]
    # Of the tiles of a picture that is next to a line all is padding, but for the ends of empty rows.
    lines = [(0, base)] * ends
    if rest:
        cols = rest // ends
        views.append((ends, cols))
        lines = [(base + row * cols, base + (row + 1) * cols) for row in range(ends)]
    stays = torch.ones(len(features), dtype=torch.bool, device=features.device)
    for number, (_, behind) in enumerate(lines):
        stays[behind + number] = False
    tokens = VisualTokens.from_grid(
        features[stays],
        views,
        received=seen[:, 0],
        cls_attention=None if found.cls is None else seen[:, -1],
        keys=seen[:, 1 : 1 + found.keys.shape[-1]],
        heads=found.heads,
    )
    return Item(tokens, holder, newline, lines)


def videos(inner: Any, config: Any, pixels: torch.Tensor, attention_layer: int | None = None) -> list[Item]:
    """Encode videos, float [videos, frames, channels, height, width]; for the rest see `pictures`.

    Raises:
        VisionError: another shape.
    """
    from tokenprune.vision.tower import Features

    if pixels.ndim != 5:
        raise VisionError(
            f"pixel_values_videos must be [videos, frames, channels, height, width], not {list(pixels.shape)}"
        )
    found = _encoded(inner, config, pixels.flatten(0, 1), attention_layer)

    def pooled(values: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = inner.apply_pooling(values)
        return out

    grid = (-(-found.grid[0] // 2), -(-found.grid[1] // 2))
    cls = None if found.cls is None else pooled(found.cls[..., None])[..., 0]
    received, keys = pooled(found.received[..., None])[..., 0], pooled(found.keys)
    small = Features(pooled(found.features), received, cls, keys, found.heads, grid)
    holder = int(config.video_token_id)
    each = small.tokens([pixels.shape[1]] * len(pixels))
    return [Item(tokens, holder, inner.image_newline, [(0, len(tokens))]) for tokens in each]


def large_grid(config: Any, size: tuple[int, int], tiles: torch.Tensor) -> torch.Tensor:
    """Put the tiles of a picture together as the model puts their patches.

    Args:
        config: a LlavaOnevisionConfig.
        size: height and width of the picture as it came.
        tiles: float [tiles, channels, rows * patch, columns * patch], all but the whole picture.

    Returns:
        float [channels, height, width], without the rows and columns of patches that are padding.
    """
    import torch
    from transformers.models.llava_onevision import modeling_llava_onevision as theirs

    vision = config.vision_config
    high, wide = theirs.get_anyres_image_grid_shape(size, config.image_grid_pinpoints, vision.image_size)
    patch = vision.patch_size
    whole = tiles.unflatten(0, (high, wide)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    # What they cut off, they cut by patches: tell which are left.
    rows, cols = whole.shape[1] // patch, whole.shape[2] // patch
    left = theirs.unpad_image(torch.arange(rows * cols).view(1, rows, cols), size)[0]
    if not left.numel():
        return whole[:, :0]
    top, first = divmod(int(left[0, 0]), cols)
    bottom, last = top + left.shape[0], first + left.shape[1]
    return whole[:, top * patch : bottom * patch, first * patch : last * patch]


def _encoded(inner: Any, config: Any, pixels: torch.Tensor, attention_layer: int | None) -> Features:
    from tokenprune.vision.tower import Features, read_features

    tower, projector = inner.vision_tower, inner.multi_modal_projector
    place = next(tower.parameters())
    parts = pixels.to(place.device, place.dtype).split(_BATCH)
    return Features.joined([read_features(tower, projector, config, p, attention_layer) for p in parts])


def _tiles(config: Any, pixels: torch.Tensor, sizes: Any, several: Any) -> list[int]:
    """Return how many tiles each picture has, as the model counts them."""
    from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

    if sizes is None:
        raise VisionError("pictures of LLaVA-OneVision need image_sizes, as its processor returns them")
    if pixels.ndim not in (4, 5):
        raise VisionError(
            "pixel_values must be [pictures, tiles, channels, height, width] or [tiles, channels, height, "
            f"width], not {list(pixels.shape)}"
        )
    in_prompt = [1] * len(sizes) if several is None else [int(n) for n in several for _ in range(int(n))]
    if len(in_prompt) != len(sizes):
        raise VisionError(f"batch_num_images counts {len(in_prompt)} pictures, image_sizes {len(sizes)}")
    tile, pinpoints = config.vision_config.image_size, config.image_grid_pinpoints
    counts = [
        image_size_to_num_patches(size, pinpoints, tile) if count == 1 else 1
        for size, count in zip(sizes, in_prompt, strict=True)
    ]
    fits = (
        len(pixels) == len(counts) and pixels.shape[1] >= max(counts)
        if pixels.ndim == 5
        else len(pixels) == sum(counts)
    )
    if not fits:
        raise VisionError(
            f"pictures of these image_sizes have {counts} tiles, and pixel_values are {list(pixels.shape)}"
        )
    return counts
