"""The older name of `tokenprune.vllm_plugin`, which the metadata of earlier installations points to."""

from tokenprune.vllm_plugin import register

__all__ = ["register"]
