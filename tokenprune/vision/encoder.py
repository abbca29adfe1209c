"""Vision encoders of LLaVA-type checkpoints: pictures -> visual tokens, without the language model.

Only the vision part (tower, projector, LLaVA-OneVision's newline) is read from a checkpoint, or from an
export that holds nothing else. torchvision is not needed: pictures are prepared with Pillow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import MissingExtraError, ModelError, VisionError
from tokenprune.models.catalog import resolve_model
from tokenprune.models.device import loading_alone, pick_device, pick_dtype
from tokenprune.models.once import Once, state_of
from tokenprune.vision.families import FAMILIES, Prepared
from tokenprune.vision.items import film

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from tokenprune.vision.items import Item
    from tokenprune.vision.tokens import VisualTokens

_BATCH = 16  # pictures that go through the tower together


class VisionEncoder:
    """A vision tower, its projector and its image processor; make one with `load_vision_encoder`.

    Safe to use from several threads.
    """

    def __init__(self, part: Any, processor: Any, config: Any, name: str = "") -> None:
        """Wrap a vision part in evaluation mode.

        Args:
            part: holds ``vision_tower``, ``multi_modal_projector``, and what else
                `tokenprune.vision.families` needs.
            processor: the image processor.
            config: the checkpoint's LlavaConfig or LlavaOnevisionConfig.
            name: for messages.

        Raises:
            ModelError: a checkpoint of another class.
        """
        from tokenprune.vision.tower import check_config

        check_config(config)
        self.name, self.config = name, config
        self.part, self.processor = part, processor
        self._family = FAMILIES[config.model_type]

    @classmethod
    def of(cls, model: Any, processor: Any, name: str = "") -> VisionEncoder:
        """Use the vision part of a loaded model, with its image ``processor``.

        Args:
            model: a LlavaForConditionalGeneration or LlavaOnevisionForConditionalGeneration.
            processor: its image processor.
            name: for messages.
        """
        return cls(model.model, processor, model.config, name)

    @property
    def dimension(self) -> int:
        """Size of a token's features: the language model's hidden size."""
        return int(self._last.shape[0])

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._last.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of its features."""
        return self._last.dtype

    @property
    def _last(self) -> torch.Tensor:
        weight: torch.Tensor = self.part.multi_modal_projector.linear_2.weight
        return weight

    @property
    def frames_differ(self) -> bool:
        """Whether a frame of a video is encoded in another way than a picture."""
        return self._family.frames_differ

    def prepare(self, image: Image, *, frame: bool = False) -> Prepared:
        """Resize, crop, tile and normalise a picture, or a frame of a video, as the checkpoint says.

        Raises:
            VisionError: the processor cannot handle it, or makes something else of it than is known here.
        """
        try:
            pixels = self._family.pixels(self.processor, image, frame)
        except VisionError as error:
            raise VisionError(f"{self.name!r}: {error}") from error
        except (ValueError, TypeError, OSError, MemoryError) as error:
            raise VisionError(f"the image processor of {self.name!r} failed: {error}") from error
        return Prepared(pixels.to(self.device, self.dtype), (image.height, image.width), frame)

    def views(self, picture: Prepared) -> list[torch.Tensor]:
        """Return what is seen of a picture, float [channels, height, width], normalised as it is.

        LLaVA-OneVision sees it twice, where it has tiles: all of it, and the tiles put together.
        """
        return self._family.views(self.config, picture)

    def encode(
        self,
        images: Sequence[Image],
        videos: Sequence[Sequence[Image]] = (),
        *,
        attention_layer: int | None = None,
    ) -> list[VisualTokens]:
        """Encode images and videos; see `items`, of which these are the tokens."""
        return [item.tokens for item in self.items(images, videos, attention_layer=attention_layer)]

    def items(
        self,
        images: Sequence[Image],
        videos: Sequence[Sequence[Image]] = (),
        *,
        attention_layer: int | None = None,
    ) -> list[Item]:
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
        if not (images or videos) or not all(map(len, videos)):
            raise VisionError("there is no picture to encode: give images, or videos of at least one frame")
        pictures = ((image, False) for image in images)
        frames = ((image, True) for image in chain.from_iterable(videos))
        made = iter(self._batches(chain(pictures, frames), attention_layer))
        out = [next(made) for _ in images]
        return out + [film([next(made) for _ in video]) for video in videos]

    def _batches(self, pictures: Iterable[tuple[Image, bool]], attention_layer: int | None) -> Iterable[Item]:
        left = iter(pictures)
        while batch := list(islice(left, _BATCH)):
            ready = [self.prepare(image, frame=frame) for image, frame in batch]
            yield from self.encode_prepared(ready, attention_layer)

    def encode_prepared(self, pictures: Sequence[Prepared], attention_layer: int | None = None) -> list[Item]:
        """Encode what `prepare` made ready, in one batch: one object per picture or frame.

        Frames of a video are put together by `tokenprune.vision.items.film`.
        """
        import torch

        with torch.no_grad():  # and no inference mode: callers may train on the result
            return self._family.read(self.part, self.config, pictures, attention_layer)


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
        from transformers import AutoConfig, AutoImageProcessor
        from transformers.initialization import no_init_weights
    except ImportError as error:
        raise MissingExtraError("a vision encoder", "vision", error.name or "transformers") from error

    from tokenprune.vision.tower import check_config

    try:
        config = AutoConfig.from_pretrained(path)
        check_config(config)
        processor = AutoImageProcessor.from_pretrained(path)
        folder = Path(path) if Path(path).is_dir() else _snapshot(path)
        with loading_alone(), no_init_weights():
            part = FAMILIES[config.model_type].part(config)
        _fill(folder, part)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the vision part of {name!r} cannot be loaded: {error}") from error
    part.to(device, dtype).eval().requires_grad_(False)
    return VisionEncoder(part, processor, config, name)


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


def _fill(folder: Path, part: Any) -> None:
    """Copy the tensors of the vision part, under any of the names that releases of transformers gave them."""
    from safetensors import safe_open

    wanted, found = set(part.state_dict()), {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118  (not a mapping)
                name = key.removeprefix("model.").replace("vision_tower.vision_model.", "vision_tower.")
                if name in wanted:
                    found[name] = opened.get_tensor(key)
    part.load_state_dict(found, strict=False)
    # a pooling head or the last norm may be absent: the projector reads neither
    missing = [
        key
        for key in sorted(wanted - found.keys())
        if not key.startswith(("vision_tower.head.", "vision_tower.post_layernorm."))
    ]
    if missing:
        raise ModelError(f"{folder} lacks {len(missing)} tensors of its vision part, {missing[0]!r} for one")
