"""vLLM's LLaVA, which also takes rows of pictures that have different numbers of them (see `vllm_plugin`)."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models import llava


class LlavaForConditionalGeneration(llava.LlavaForConditionalGeneration):  # type: ignore[misc]
    """vLLM 0.32 stops for good where two pictures of one step have different numbers of rows.

    It is its check of ``image_embeds`` that fails, in the engine, be the pictures of one request or of two;
    what comes behind takes such rows as they are.
    """

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Give the rows of each picture: a list where their numbers differ, else as vLLM does."""
        rows = kwargs.get("image_embeds")
        if kwargs.get("pixel_values") is None and isinstance(rows, list | tuple):
            return list(rows)
        return super().embed_multimodal(**kwargs)
