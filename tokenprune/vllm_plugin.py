"""What vLLM calls at its start, in each of its processes (entry point ``vllm.general_plugins``)."""

from __future__ import annotations

import importlib
import importlib.util
import sys

_LLAVAS = ("LlavaForConditionalGeneration", "LlavaOnevisionForConditionalGeneration")
_PIXTRAL = "transformers.models.pixtral.image_processing_pixtral"
_PIXTRAL_PIL = "transformers.models.pixtral.image_processing_pil_pixtral"


def register() -> None:
    """Make vLLM know our checkpoints, and serve LLaVAs for pruned pictures; may be called more than once."""
    _register_architectures()
    _use_pillow()
    _replace_llavas()


def _register_architectures() -> None:
    """Register pruned checkpoints by name; vLLM imports the model only when one is served.

    The configs are known already: importing `tokenprune.weights` sees to that.
    """
    from vllm import ModelRegistry

    from tokenprune.weights.shapes import ARCHITECTURES

    known = ModelRegistry.get_supported_archs()
    for architecture in ARCHITECTURES.values():
        if architecture not in known:
            ModelRegistry.register_model(architecture, "tokenprune.weights.vllm_model:TokenPruneForCausalLM")


def _replace_llavas() -> None:
    """Let pictures with different numbers of rows be read in one step, see `tokenprune.vision.vllm_llava`."""
    from vllm import ModelRegistry

    ours = "tokenprune.vision.vllm_llava"
    for name in _LLAVAS:
        known = ModelRegistry.models.get(name)
        if known is not None and getattr(known, "module_name", ours) != ours:
            ModelRegistry.register_model(name, f"{ours}:{name}")


def _use_pillow() -> None:
    """Without torchvision, let Pixtral's image processor be its Pillow twin.

    vLLM's LLaVA imports its Pixtral, and that imports one function of a module that needs torchvision. The
    twin has the same function. vLLM's CPU builds come without a torchvision that fits.
    """
    if importlib.util.find_spec("torchvision") is None and importlib.util.find_spec(_PIXTRAL_PIL) is not None:
        sys.modules.setdefault(_PIXTRAL, importlib.import_module(_PIXTRAL_PIL))
