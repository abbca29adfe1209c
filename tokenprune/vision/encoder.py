"""Vision encoders of LLaVA-1.5-class checkpoints: pictures -> visual tokens, without the language model.

Only the vision tower and the projector are read from a checkpoint (or from an export that holds nothing
else). torchvision is not needed: pictures are prepared with Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import MissingExtraError, ModelError, VisionError
from tokenprune.models.catalog import resolve_model
from tokenprune.models.device import pick_device, pick_dtype, quiet_loading
from tokenprune.models.once import Once, state_of

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from tokenprune.vision.tokens import VisualTokens
    from tokenprune.vision.tower import Features

_TOWER, _PROJECTOR = "vision_tower.", "multi_modal_projector."
_BATCH = 16  # pictures that go through the tower together


class VisionEncoder:
    """A vision tower, its projector and its image processor; make one with `load_vision_encoder`.

    Safe to use from several threads.
    """

    def __init__(self, tower: Any, projector: Any, processor: Any, config: Any, name: str = "") -> None:
        """Wrap modules in evaluation mode; ``config`` is the checkpoint's LlavaConfig.

        Raises:
            ModelError: a checkpoint of another class.
        """
        from tokenprune.vision.tower import check_config

        check_config(config)
        self.name, self.config = name, config
        self.tower, self.projector, self.processor = tower, projector, processor

    @classmethod
    def of(cls, model: Any, processor: Any, name: str = "") -> VisionEncoder:
        """Use the vision part of a loaded LlavaForConditionalGeneration, with its image ``processor``."""
        return cls(model.model.vision_tower, model.model.multi_modal_projector, processor, model.config, name)

    @property
    def dimension(self) -> int:
        """Size of a token's features: the language model's hidden size."""
        return int(self.projector.linear_2.weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.projector.linear_2.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of its features."""
        return self.projector.linear_2.weight.dtype

    def prepare(self, images: Sequence[Image]) -> torch.Tensor:
        """Resize, crop and normalise pictures as the checkpoint says: [b, channels, height, width].

        Raises:
            VisionError: the processor cannot handle a picture, or made pictures of different sizes.
        """
        try:
            smaller = [_resized(self.processor, image) for image in images]
            pixels = self.processor(images=smaller, return_tensors="pt")["pixel_values"]
        except (ValueError, TypeError, OSError, MemoryError) as error:
            raise VisionError(f"the image processor of {self.name!r} failed: {error}") from error
        if pixels.ndim != 4 or len(pixels) != len(images):
            raise VisionError(
                f"the image processor of {self.name!r} makes {list(pixels.shape)} of {len(images)} pictures; "
                "only processors that make one picture of one size of each are supported"
            )
        return pixels.to(self.device, self.dtype)

    def encode(
        self,
        images: Sequence[Image],
        videos: Sequence[Sequence[Image]] = (),
        *,
        attention_layer: int | None = None,
    ) -> list[VisualTokens]:
        """Encode images and videos, all their pictures in common batches.

        Args:
            images: RGB pictures; see `tokenprune.vision.images` for reading them.
            videos: frames of each video, in time.
            attention_layer: see `tokenprune.vision.tower.read_features`.

        Returns:
            One object per image, then one per video, on the encoder's device.

        Raises:
            VisionError: nothing to encode, a video without frames, or pictures that cannot be prepared.
        """
        from tokenprune.vision.tower import Features

        frames = [1] * len(images) + [len(video) for video in videos]
        if not frames or not all(frames):
            raise VisionError("there is no picture to encode: give images, or videos of at least one frame")
        pictures = [*images, *(frame for video in videos for frame in video)]
        batches = (pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH))
        return Features.joined([self._read(self.prepare(b), attention_layer) for b in batches]).tokens(frames)

    def encode_prepared(self, pixels: torch.Tensor) -> list[VisualTokens]:
        """Encode images that `prepare` made ready, in one batch: one object per image."""
        from tokenprune.vision.tower import Features

        return Features.joined([self._read(pixels, None)]).tokens([1] * len(pixels))

    def _read(self, pixels: torch.Tensor, attention_layer: int | None) -> Features:
        import torch

        from tokenprune.vision.tower import read_features

        with torch.inference_mode():
            return read_features(self.tower, self.projector, self.config, pixels, attention_layer)


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


_encoders: Once[VisionEncoder] = Once()


def load_vision_encoder(
    name_or_path: str, device: str | None = None, dtype: str | torch.dtype | None = None
) -> VisionEncoder:
    """Load the vision part of a checkpoint; the same arguments give the same object in a process.

    Args:
        name_or_path: a folder in Hugging Face layout (a whole checkpoint, or an export of its vision part), a
            named model, or a hub id.
        device: a torch device; the accelerator or else the CPU by default.
        dtype: ``bfloat16``, ``float16`` or ``float32``; by default bfloat16 where the hardware has it.

    Raises:
        ModelError: it cannot be found or loaded, or is of a class that is not supported.
        MissingExtraError: torch, transformers or Pillow is not installed.
    """
    path = resolve_model(name_or_path)
    device = pick_device(device)
    chosen = pick_dtype(device, dtype)
    key = (path, state_of(path), device, str(chosen))
    return _encoders.get(key, lambda: _load(path, device, chosen, name_or_path))


def _load(path: str, device: str, dtype: torch.dtype, name: str) -> VisionEncoder:
    try:
        import PIL  # noqa: F401
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoImageProcessor, AutoModel
        from transformers.initialization import no_init_weights
        from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
    except ImportError as error:
        raise MissingExtraError("a vision encoder", "vision", error.name or "transformers") from error

    from tokenprune.vision.tower import check_config

    try:
        config = AutoConfig.from_pretrained(path)
        check_config(config)
        processor = AutoImageProcessor.from_pretrained(path)
        folder = Path(path) if Path(path).is_dir() else _snapshot(path)
        with quiet_loading(), no_init_weights():
            tower = AutoModel.from_config(config.vision_config)
            projector = LlavaMultiModalProjector(config)
        _fill(folder, tower, projector)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the vision part of {name!r} cannot be loaded: {error}") from error
    tower.to(device, dtype).eval().requires_grad_(False)
    projector.to(device, dtype).eval().requires_grad_(False)
    return VisionEncoder(tower, projector, processor, config, name)


def _snapshot(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors"]))


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights; others, such as trained thresholds, may lie beside them.

    Raises:
        ModelError: there are none in safetensors format.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no safetensors file; save the checkpoint in this format")
    return files


def _fill(folder: Path, tower: Any, projector: Any) -> None:
    """Copy the tensors of the vision part, under any of the names that releases of transformers gave them."""
    from safetensors import safe_open

    tensors: dict[str, dict[str, Any]] = {_TOWER: {}, _PROJECTOR: {}}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118  (not a mapping)
                plain = key.removeprefix("model.")
                for prefix, found in tensors.items():
                    if plain.startswith(prefix):
                        found[plain.removeprefix(prefix).removeprefix("vision_model.")] = opened.get_tensor(
                            key
                        )
    for module, found in ((tower, tensors[_TOWER]), (projector, tensors[_PROJECTOR])):
        result = module.load_state_dict(found, strict=False)
        # a pooling head or the last norm may be absent: the projector reads neither
        missing = [k for k in result.missing_keys if not k.startswith(("head.", "post_layernorm."))]
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} tensors of its vision part, {missing[0]!r} for one"
            )
