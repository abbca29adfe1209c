"""Transformers configs of checkpoints whose layers differ in size. Importing this module registers them."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from tokenprune.weights.shapes import MODEL_TYPES


class PrunedLlamaConfig(LlamaConfig):  # type: ignore[misc]
    """A Llama config with ``prune_layers``."""

    model_type = MODEL_TYPES["llama"]
    prune_layers: list[dict[str, Any]] | None = None


class PrunedMistralConfig(MistralConfig):  # type: ignore[misc]
    """A Mistral config with ``prune_layers``."""

    model_type = MODEL_TYPES["mistral"]
    prune_layers: list[dict[str, Any]] | None = None


class PrunedQwen2Config(Qwen2Config):  # type: ignore[misc]
    """A Qwen2 config with ``prune_layers``."""

    model_type = MODEL_TYPES["qwen2"]
    prune_layers: list[dict[str, Any]] | None = None


class PrunedQwen3Config(Qwen3Config):  # type: ignore[misc]
    """A Qwen3 config with ``prune_layers``."""

    model_type = MODEL_TYPES["qwen3"]
    prune_layers: list[dict[str, Any]] | None = None


CONFIGS: dict[str, Any] = {
    "llama": PrunedLlamaConfig,
    "mistral": PrunedMistralConfig,
    "qwen2": PrunedQwen2Config,
    "qwen3": PrunedQwen3Config,
}

for _config in CONFIGS.values():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
