"""Rows of embeddings as vLLM takes them: a tensor [rows, hidden size] as ``torch.save`` writes it, in base64.

vLLM answers an empty tensor, one that asks for gradients, or bytes that are none with an internal error, so
nothing is sent that was not checked here.
"""

from __future__ import annotations

import base64
import binascii
import io
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenprune.errors import VisionError

if TYPE_CHECKING:
    import torch

_NPY = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"
_MAX_ROWS = 1_000_000
_NUMBERS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")


def check_rows(rows: torch.Tensor, dimension: int) -> None:
    """Raise VisionError unless ``rows`` can be read in place of a picture by a model of this hidden size."""
    if rows.ndim != 2:
        raise VisionError(f"embeddings must be [rows, hidden size], not of {rows.ndim} dimensions")
    if rows.shape[1] != dimension:
        raise VisionError(f"embeddings have size {rows.shape[1]}, and the model's hidden size is {dimension}")
    if not 1 <= len(rows) <= _MAX_ROWS:
        raise VisionError(f"embeddings must have from 1 to {_MAX_ROWS} rows, not {len(rows)}")
    if str(rows.dtype) not in _NUMBERS:
        raise VisionError(f"embeddings must be {', '.join(_NUMBERS)}, not {rows.dtype}")
    if rows.device.type == "meta":
        raise VisionError("embeddings have no numbers: they are on the device 'meta'")
    if not bool(rows.isfinite().all()):
        raise VisionError("embeddings hold NaN or infinity")


def encode_rows(rows: torch.Tensor, dimension: int) -> str:
    """Checked rows in base64; see `check_rows` for what is refused."""
    import torch

    check_rows(rows, dimension)
    # A view would be written with all of what it is a view of.
    plain = rows.detach().to("cpu").contiguous().clone()
    with io.BytesIO() as file:
        torch.save(plain, file)
        return base64.b64encode(file.getvalue()).decode()


def check_payload(payload: Any, dimension: int, max_bytes: int) -> int:
    """Check rows that a client sends itself, and count them.

    Args:
        payload: what stands under ``image_embeds``.
        dimension: hidden size of the served model.
        max_bytes: of the tensor.

    Raises:
        VisionError: the upstream could not use them.
    """
    if not isinstance(payload, str):
        raise VisionError(f"image_embeds must be a tensor in base64, not {type(payload).__name__}")
    if len(payload) // 4 * 3 > max_bytes + 4096:
        raise VisionError(f"image_embeds has more than {max_bytes} bytes")
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise VisionError(f"image_embeds is not valid base64: {error}") from error
    if data.startswith(_NPY):
        rows = _numpy(data)
    elif data.startswith(_ZIP):
        rows = _torch(data, max_bytes)
    else:
        raise VisionError("image_embeds is neither a tensor that torch.save wrote nor a .npy file")
    check_rows(rows, dimension)
    return len(rows)


def _numpy(data: bytes) -> torch.Tensor:
    import torch

    try:
        with io.BytesIO(data) as file:
            array = np.load(file, allow_pickle=False)
        return torch.from_numpy(array)
    except (ValueError, TypeError, EOFError, OSError, MemoryError) as error:
        raise VisionError(f"image_embeds cannot be read as a .npy file: {str(error)[:200]}") from error


def _torch(data: bytes, max_bytes: int) -> torch.Tensor:
    import torch

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > max_bytes + 65536:
                raise VisionError(f"image_embeds has more than {max_bytes} bytes when it is unpacked")
        rows = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        first = str(error).partition("\n")[0][:200]
        raise VisionError(f"image_embeds cannot be read as a tensor: {first}") from error
    except (KeyError, AttributeError, TypeError, IndexError, AssertionError, NotImplementedError) as error:
        # A pickle that is not what torch writes fails in many ways.
        raise VisionError(f"image_embeds cannot be read as a tensor: {type(error).__name__}") from error
    if not isinstance(rows, torch.Tensor) or rows.layout is not torch.strided or rows.is_quantized:
        raise VisionError("image_embeds must hold one dense tensor")
    if rows.requires_grad:
        raise VisionError("image_embeds must not ask for gradients: send tensor.detach()")
    if rows.numel() * rows.element_size() > max_bytes:  # a view may repeat what is in the file
        raise VisionError(f"image_embeds has more than {max_bytes} bytes")
    return rows
