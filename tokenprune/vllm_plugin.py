"""What vLLM calls at its start, in each of its processes (entry point ``vllm.general_plugins``)."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys

SPIN = "TOKENPRUNE_VLLM_SPIN_SECONDS"
_LLAVAS = ("LlavaForConditionalGeneration", "LlavaOnevisionForConditionalGeneration")
_PIXTRAL = "transformers.models.pixtral.image_processing_pixtral"
_PIXTRAL_PIL = "transformers.models.pixtral.image_processing_pil_pixtral"


def register() -> None:
    """Make vLLM know our checkpoints, and serve LLaVAs for pruned pictures; may be called more than once."""
    _register_architectures()
    _use_pillow()
    _replace_llavas()
    _spin_less()


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


def _spin_less() -> None:
    """Where the environment says so, let vLLM's workers sleep sooner while there is nothing to do.

    A worker asks for work without a pause for a second after each step, then sleeps until it is woken
    (vLLM's `SpinCondition`). On a CPU that is one core less for all else, and pruning of the next request
    mostly falls into that second. Steps of one answer follow each other within a hundredth of it.

    Raises:
        ValueError: the variable is no number of seconds, or this vLLM does not wait in that way.
    """
    said = os.environ.get(SPIN, "")
    if not said:
        return
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{SPIN}={said!r} is no number of seconds, such as 0.01")
    from vllm.distributed.device_communicators import shm_broadcast

    start = getattr(getattr(shm_broadcast, "SpinCondition", None), "__init__", None)
    if not inspect.isfunction(start) or list(inspect.signature(start).parameters)[-1:] != ["busy_loop_s"]:
        raise ValueError(f"this vLLM does not wait as {SPIN} expects; unset it")
    start.__defaults__ = (*(start.__defaults__ or ())[:-1], seconds)
