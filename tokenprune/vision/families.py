"""What differs between LLaVA and LLaVA-OneVision before the language model: how pictures are encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tokenprune.errors import VisionError
from tokenprune.vision.items import Item

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as a vision tower takes it.

    Attributes:
        pixels: float [tiles, channels, height, width]; of one tile but for LLaVA-OneVision's pictures.
        size: height and width it came with.
        frame: it is a frame of a video.
    """

    pixels: torch.Tensor
    size: tuple[int, int]
    frame: bool = False


class Family(Protocol):
    """A class of checkpoints.

    Attributes:
        frames_differ: whether a frame of a video is encoded in another way than a picture.
    """

    frames_differ: bool

    def part(self, config: Any) -> Any:
        """Return a checkpoint's vision part, its weights still to be filled in."""

    def pixels(self, processor: Callable[..., Any], image: Image, frame: bool) -> torch.Tensor:
        """Let an image processor prepare a picture: float [tiles, channels, height, width]."""

    def read(self, part: Any, config: Any, pictures: Sequence[Prepared], layer: int | None) -> list[Item]:
        """Encode pictures or frames, one item each."""

    def views(self, config: Any, picture: Prepared) -> list[torch.Tensor]:
        """Return what each view of a picture shows, float [channels, height, width], in whole patches."""


class Llava:
    """LLaVA 1.5: each picture is one grid of patches, a frame of a video like any other."""

    frames_differ = False

    def part(self, config: Any) -> Any:
        """See `Family`."""
        from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

        return _tower_and(LlavaMultiModalProjector, config)

    def pixels(self, processor: Callable[..., Any], image: Image, frame: bool) -> torch.Tensor:
        """See `Family`."""
        pixels: torch.Tensor = processor(images=[_resized(processor, image)], return_tensors="pt")[
            "pixel_values"
        ]
        if pixels.ndim != 4 or len(pixels) != 1:
            raise VisionError(
                f"the image processor makes {list(pixels.shape)} of a picture; only processors that make one "
                "picture of one size of each are supported"
            )
        return pixels

    def read(self, part: Any, config: Any, pictures: Sequence[Prepared], layer: int | None) -> list[Item]:
        """See `Family`."""
        import torch

        from tokenprune.vision.tower import read_features

        pixels = torch.cat([picture.pixels for picture in pictures])
        found = read_features(part.vision_tower, part.multi_modal_projector, config, pixels, layer)
        holder = int(config.image_token_id)
        return [Item(tokens, holder) for tokens in found.tokens([1] * len(pixels))]

    def views(self, config: Any, picture: Prepared) -> list[torch.Tensor]:
        """See `Family`."""
        return [_whole_patches(config, picture.pixels)[0]]


class OneVision:
    """LLaVA-OneVision, see `tokenprune.vision.onevision`.

    A picture is tiled, however many there are in a prompt: so does vLLM, and so do the processors of
    transformers unless they are told which pictures are of one prompt. A frame is prepared as the first tile
    of a picture is: Pillow resizes it, where transformers has torchvision do it for videos.
    """

    frames_differ = True

    def part(self, config: Any) -> Any:
        """See `Family`."""
        import torch
        from transformers.models.llava_onevision import modeling_llava_onevision as theirs

        part = _tower_and(theirs.LlavaOnevisionMultiModalProjector, config)
        part.image_newline = torch.nn.Parameter(torch.empty(config.text_config.hidden_size))
        part.config = config  # the two methods read nothing else of a model
        part.pack_image_features = theirs.LlavaOnevisionModel.pack_image_features.__get__(part)
        part.apply_pooling = theirs.LlavaOnevisionModel.apply_pooling.__get__(part)
        return part

    def pixels(self, processor: Callable[..., Any], image: Image, frame: bool) -> torch.Tensor:
        """See `Family`."""
        side = self._side(processor)
        only = {"image_grid_pinpoints": [[side, side]]} if frame else {}
        pixels: torch.Tensor = processor(images=[image], return_tensors="pt", **only)["pixel_values"]
        if pixels.ndim != 5 or len(pixels) != 1:
            raise VisionError(
                f"the image processor makes {list(pixels.shape)} of a picture; needed are tiles of each"
            )
        return pixels[0, :1] if frame else pixels[0]

    @staticmethod
    def _side(processor: Any) -> int:
        size = processor.size
        return int(size.get("height") or size["shortest_edge"])

    def read(self, part: Any, config: Any, pictures: Sequence[Prepared], layer: int | None) -> list[Item]:
        """See `Family`."""
        import torch

        from tokenprune.vision import onevision

        out: dict[int, Item] = {}
        for frame in (False, True):
            mine = [number for number, picture in enumerate(pictures) if picture.frame is frame]
            if not mine:
                continue
            tiles = torch.cat([pictures[number].pixels for number in mine])
            if frame:
                made = onevision.videos(part, config, tiles[:, None], layer)
            else:
                sizes = torch.tensor([pictures[number].size for number in mine])
                made = onevision.pictures(part, config, tiles, sizes, attention_layer=layer)
            out |= dict(zip(mine, made, strict=True))
        return [out[number] for number in range(len(pictures))]

    def views(self, config: Any, picture: Prepared) -> list[torch.Tensor]:
        """See `Family`."""
        from tokenprune.vision import onevision

        tiles = _whole_patches(config, picture.pixels)
        if len(tiles) == 1:
            return [tiles[0]]
        large = onevision.large_grid(config, picture.size, tiles[1:])
        return [tiles[0], large] if large.numel() else [tiles[0]]


FAMILIES: dict[str, Family] = {"llava": Llava(), "llava_onevision": OneVision()}


def _tower_and(projector: Callable[[Any], Any], config: Any) -> Any:
    import torch
    from transformers import AutoModel

    part = torch.nn.Module()
    part.vision_tower = AutoModel.from_config(config.vision_config)
    part.multi_modal_projector = projector(config)
    return part


def _whole_patches(config: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Cut off what a tower does not see: pixels at the right and below that fill no patch."""
    patch = config.vision_config.patch_size
    high, wide = (side // patch * patch for side in pixels.shape[-2:])
    return pixels[..., :high, :wide]


def _resized(processor: Any, image: Image) -> Image:
    """A picture in the size that the processor gives it first, the same to the bit.

    The processor would copy a large picture several times, as an array of all its pixels, before it resizes
    it with Pillow as is done here.
    """
    import numpy as np
    from transformers.image_processing_backends import PilBackend
    from transformers.image_transforms import get_resize_output_image_size

    if not isinstance(processor, PilBackend) or type(processor).resize is not PilBackend.resize:
        return image
    size, resample = processor.size, processor.resample
    if not processor.do_resize or image.mode != "RGB" or not isinstance(resample, int):
        return image
    if getattr(processor, "do_pad", False):
        return image  # to a square first, as LLaVA 1.5 did
    if size.get("shortest_edge") and not size.get("longest_edge"):
        shape = np.broadcast_to(np.uint8(0), (3, image.height, image.width))  # for its size; no memory
        height, width = get_resize_output_image_size(
            shape, size["shortest_edge"], default_to_square=False, input_data_format="channels_first"
        )
    elif size.get("height") and size.get("width"):
        height, width = size["height"], size["width"]
    else:
        return image
    return image.resize((width, height), resample) if width * height < image.width * image.height else image
