"""vLLM's LLaVA and LLaVA-OneVision, which also take rows of pictures that have different numbers of them.

vLLM 0.32 stops for good where two pictures of one step have different numbers of rows. It is its check of
``image_embeds`` that fails, in the engine, be the pictures of one request or of two; what comes behind takes
such rows as they are. See `vllm_plugin`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from transformers import LlavaOnevisionProcessor
from vllm.model_executor.models import llava, llava_onevision
from vllm.multimodal import MULTIMODAL_REGISTRY


def _rows(given: Mapping[str, Any]) -> list[Any] | None:
    """Return the rows of each picture, if there are only such, and their numbers differ."""
    rows = given.get("image_embeds")
    pixels = (given.get("pixel_values"), given.get("pixel_values_videos"))
    return list(rows) if pixels == (None, None) and isinstance(rows, list | tuple) else None


class LlavaForConditionalGeneration(llava.LlavaForConditionalGeneration):  # type: ignore[misc]
    """vLLM's LLaVA, for rows of any numbers."""

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Give the rows of each picture: a list where their numbers differ, else as vLLM does."""
        rows = _rows(kwargs)
        return super().embed_multimodal(**kwargs) if rows is None else rows


class LlavaOnevisionForConditionalGeneration(
    llava_onevision.LlavaOnevisionForConditionalGeneration  # type: ignore[misc]
):
    """vLLM's LLaVA-OneVision, for rows of any numbers."""

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Give the rows of each picture: a list where their numbers differ, else as vLLM does."""
        rows = _rows(kwargs)
        return super().embed_multimodal(**kwargs) if rows is None else rows


class _PictureProcessor(LlavaOnevisionProcessor):  # type: ignore[misc]
    """Without the part that reads videos."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Return what is loaded of a checkpoint."""
        return ["image_processor", "tokenizer"]


class _PictureInfo(llava_onevision.LlavaOnevisionProcessingInfo):  # type: ignore[misc]
    """Pictures, no videos."""

    def get_hf_processor(self, **kwargs: object) -> Any:
        return self.ctx.get_hf_processor(_PictureProcessor, **kwargs)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None}


# The model's video processor needs torchvision, and vLLM's CPU builds come without one that fits: without it
# vLLM would not start, be there videos or not.
if importlib.util.find_spec("torchvision") is None:
    MULTIMODAL_REGISTRY.register_processor(
        llava_onevision.LlavaOnevisionMultiModalProcessor,
        info=_PictureInfo,
        dummy_inputs=llava_onevision.LlavaOnevisionDummyInputsBuilder,
    )(LlavaOnevisionForConditionalGeneration)
