"""Where models run and in which number format; shared by encoders and causal LMs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tokenprune.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import torch

DTYPES = ("bfloat16", "float16", "float32")
_loading = threading.RLock()


def pick_device(device: str | None) -> str:
    """Return ``device``, or the accelerator when there is one, else ``cpu``.

    Raises:
        MissingExtraError: torch is not installed.
        ModelError: Not a device this torch can use.
    """
    torch = _torch("running a model")
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def pick_dtype(device: str, dtype: str | torch.dtype | None) -> torch.dtype:
    """Return the asked dtype, or the fastest that keeps quality: bfloat16 where the hardware has it.

    Raises:
        ModelError: Not one of ``DTYPES``.
    """
    torch = _torch("running a model")
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is not None:
        if dtype not in DTYPES:
            raise ModelError(f"unknown dtype {dtype!r}; use one of: {', '.join(DTYPES)}")
        return getattr(torch, dtype)
    if device.startswith("cuda"):
        # Old GPUs emulate bfloat16, slower than they compute float16.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.startswith("cpu") and cpu_has_bf16():
        return torch.bfloat16
    return torch.float32


def cpu_has_bf16() -> bool:
    """Tell whether this CPU multiplies bfloat16; without the instructions it is slower than float32."""
    torch = _torch("running a model")
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def loading_alone() -> Iterator[None]:
    """Let one thread at a time build, read or write a model by transformers, without its bars.

    While transformers makes a model it changes what is common to all threads (torch's default dtype, how
    weights are drawn and tied): two at once leave models with weights that are not tied, or of the wrong
    dtype. So other models wait meanwhile, also for one that comes from the hub; those that are loaded do not.
    Its bars are out of the way, as ours tell what takes long.
    """
    from transformers.utils import logging

    with _loading:
        enabled = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            if enabled:
                logging.enable_progress_bar()


def _torch(part: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(part, "models", error.name or "torch") from error
    return torch
