"""What vLLM calls at its start (entry point ``vllm.general_plugins``) to learn of our checkpoints."""

from __future__ import annotations

from tokenprune.weights.shapes import ARCHITECTURES


def register() -> None:
    """Register the architectures by name; vLLM imports the model only when one is served.

    The configs are known already: importing `tokenprune.weights` sees to that. May be called more than once.
    """
    from vllm import ModelRegistry

    known = ModelRegistry.get_supported_archs()
    for architecture in ARCHITECTURES.values():
        if architecture not in known:
            ModelRegistry.register_model(architecture, "tokenprune.weights.vllm_model:TokenPruneForCausalLM")
