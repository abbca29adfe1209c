"""Sentence embeddings, fast on many short texts of mixed length.

The model, its pooling and its prompts come from sentence-transformers, so any of its folders or hub ids
works; the batching is ours. Sorting by token count and filling batches up to a budget of padded tokens leaves
almost no padding to compute, and short sentences travel in large batches.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.given_up import look
from tokenprune.models.batches import PADDED_TOKENS_LONE, TOKENISE_AT_ONCE, by_length, padded_tokens
from tokenprune.models.catalog import damaged_weights, resolve_model
from tokenprune.models.device import loading_alone, pick_device, pick_dtype
from tokenprune.models.once import Once, state_of
from tokenprune.models.side_by_side import side_by_side

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

# Width of the vectors of models so small that on a CPU their batches are best read by one thread each.
_SMALL = 512

_models: Once[Encoder] = Once()


class Encoder:
    """A sentence-embedding model; make one with :meth:`load`. Safe to use from several threads."""

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        """Wrap a loaded sentence-transformers ``model`` in evaluation mode."""
        self.name = name
        self._model = model
        self._tokenizer = model.tokenizer
        # A fast tokenizer carries truncation as mutable state: two threads must not set it at once.
        self._tokenizer_lock = threading.Lock()
        lone = model.device.type == "cpu" and self.dimension <= _SMALL
        self._budget = PADDED_TOKENS_LONE if lone else padded_tokens(model.device.type)
        self._each = side_by_side if lone else map

    @classmethod
    def load(
        cls,
        name_or_path: str = "minilm-l6",
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Encoder:
        """Load a named model, a folder or a hub id; the same arguments give the same object in a process.

        Args:
            name_or_path: A name of ``tokenprune models list``, a folder, or a hub id.
            device: A torch device; the accelerator or else the CPU by default.
            dtype: ``bfloat16``, ``float16`` or ``float32``; by default bfloat16 where the hardware has it.

        Raises:
            ModelError: The model cannot be found, fetched or loaded.
            MissingExtraError: torch or sentence-transformers is not installed.
        """
        path = resolve_model(name_or_path)
        device = pick_device(device)
        chosen = pick_dtype(device, dtype)
        key = (path, state_of(path), device, str(chosen))
        return _models.get(key, lambda: cls(_load(path, device, chosen), name_or_path))

    @property
    def max_seq_length(self) -> int:
        """Tokens the model reads of a text, special tokens included."""
        return int(self._model.max_seq_length or 512)

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return int(self._model.get_embedding_dimension() or 0)

    @property
    def prompts(self) -> dict[str, str]:
        """Texts the model wants before a ``query`` or a ``document``, by kind; empty when it wants none."""
        return {kind: text for kind, text in self._model.prompts.items() if text}

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the transformer."""
        parameter: torch.nn.Parameter = next(self._model[0].parameters())
        return parameter.dtype

    def encode(
        self, texts: Sequence[str], max_length: int = 256, prompt: str | None = None
    ) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: Any strings; the empty string is a text like another.
            max_length: Tokens read of each text, special tokens included; at most :attr:`max_seq_length`
                counts.
            prompt: A key of :attr:`prompts` to put before every text; the model's default when None.

        Returns:
            float32 [len(texts), dimension], rows of unit length in the order of ``texts``.

        Raises:
            ModelError: ``max_length`` leaves no room for a token, or the model has no such prompt.
        """
        limit = self._limit(max_length)
        result = np.empty((len(texts), self.dimension), dtype=np.float32)
        prefix = self._prefix(prompt)
        for start in range(0, len(texts), TOKENISE_AT_ONCE):
            part = [prefix + text for text in texts[start : start + TOKENISE_AT_ONCE]]
            result[start : start + len(part)] = self._read(*self._tokens(part, limit))
        return result

    def encode_windows(
        self, texts: Sequence[str], heads: Sequence[str | None], max_length: int = 256
    ) -> tuple[NDArray[np.float32], IntArray]:
        """Embed texts of any length in windows; a text that fits has one, and is embedded as by `encode`.

        The windows of a text are as few as can be and stand at even distances, so that they overlap by what
        is left over.

        Args:
            texts: Any strings.
            heads: What each text begins with and each of its windows repeats (a title, say), as far as it
                takes no more than half; None: only the beginning of that text is read.
            max_length: Tokens of a window, special tokens included; at most :attr:`max_seq_length` counts.

        Returns:
            float32 [windows, dimension], rows of unit length in the order of ``texts``, and int64
            [len(texts)], the row of each text's first window.

        Raises:
            ModelError: ``max_length`` leaves no room for a token.
        """
        limit, prefix = self._limit(max_length), self._prefix(None)
        vectors, counts = [np.empty((0, self.dimension), dtype=np.float32)], np.zeros(len(texts), np.int64)
        for start in range(0, len(texts), TOKENISE_AT_ONCE):
            end = start + TOKENISE_AT_ONCE
            ids, types = self._tokens([prefix + text for text in texts[start:end]], None)
            leads = [head if head is None else prefix + head for head in heads[start:end]]
            windows = [self._windows(len(row), lead, limit) for row, lead in zip(ids, leads, strict=True)]
            counts[start:end] = [len(own) for own in windows]
            parts = [(i, columns) for i, own in enumerate(windows) for columns in own]
            cut_ids = [[ids[i][c] for c in columns] for i, columns in parts]
            cut_types = None if types is None else [[types[i][c] for c in columns] for i, columns in parts]
            vectors.append(self._read(cut_ids, cut_types))
        return np.concatenate(vectors), np.cumsum(counts) - counts

    def _limit(self, max_length: int) -> int:
        if max_length < 3:
            raise ModelError(f"max_length is {max_length}; it must be 3 or more")
        return min(max_length, self.max_seq_length)

    def _prefix(self, prompt: str | None) -> str:
        key = prompt if prompt is not None else self._model.default_prompt_name
        if key is None:
            return ""
        try:
            return str(self._model.prompts[key])
        except KeyError:
            known = ", ".join(sorted(self._model.prompts)) or "(none)"
            raise ModelError(f"model {self.name!r} has no prompt {key!r}; it has: {known}") from None

    def _tokens(self, texts: list[str], limit: int | None) -> tuple[list[list[int]], list[list[int]] | None]:
        """Token ids of each text, cut to a limit if there is one, and their types where the model has any."""
        with self._tokenizer_lock:
            encoded = self._tokenizer(
                texts,
                truncation=limit is not None,
                max_length=limit,
                return_attention_mask=False,
                verbose=False,
            )
        return encoded["input_ids"], encoded.get("token_type_ids")

    def _windows(self, tokens: int, head: str | None, limit: int) -> list[Sequence[int]]:
        """Which tokens of a text each of its windows holds."""
        if tokens <= limit:
            return [range(tokens)]
        before, after = self._special
        room, end = limit - before - after, tokens - after
        with self._tokenizer_lock:
            own = self._tokenizer(head, add_special_tokens=False)["input_ids"] if head else ()
        lead = before + min(len(own), room // 2)
        each = before + room - lead
        count = 1 if head is None else -(-(end - lead) // each)
        starts = np.linspace(lead, end - each, count).astype(np.int64).tolist()
        return [[*range(lead), *range(at, at + each), *range(end, tokens)] for at in starts]

    @cached_property
    def _special(self) -> tuple[int, int]:
        """Special tokens in front of a text and behind it."""
        with self._tokenizer_lock:
            mask = self._tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        return mask.index(0), mask[::-1].index(0)

    def _read(self, ids: list[list[int]], types: list[list[int]] | None) -> NDArray[np.float32]:
        import torch

        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        out = np.empty((len(ids), self.dimension), dtype=np.float32)

        def read_rows(rows: IntArray) -> NDArray[np.float32]:
            with torch.inference_mode():
                own = None if types is None else [types[row] for row in rows]
                return self._forward([ids[row] for row in rows], own)

        batches = list(by_length(lengths, self._budget))
        for rows, read in zip(batches, self._each(read_rows, batches), strict=True):
            look()
            out[rows] = read
        return out

    def _forward(self, ids: list[list[int]], types: list[list[int]] | None) -> NDArray[np.float32]:
        from torch.nn.functional import normalize

        values: dict[str, Any] = {
            "input_ids": self._pad(ids, self._tokenizer.pad_token_id or 0),
            "attention_mask": self._pad([[1] * len(row) for row in ids], 0),
        }
        if types is not None:
            values["token_type_ids"] = self._pad(types, self._tokenizer.pad_token_type_id)
        for index, module in enumerate(self._model):
            values = module(values)
            if index == 0:
                # Pooling sums over hundreds of tokens: in float32 whatever the transformer computes in.
                values["token_embeddings"] = values["token_embeddings"].float()
        vectors: torch.Tensor = normalize(values["sentence_embedding"].float(), dim=-1)
        array: NDArray[np.float32] = vectors.cpu().numpy()
        return array

    def _pad(self, rows: list[list[int]], fill: int) -> torch.Tensor:
        import torch

        width = max(map(len, rows))
        if self._tokenizer.padding_side == "left":
            padded = [[fill] * (width - len(row)) + row for row in rows]
        else:
            padded = [row + [fill] * (width - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.long, device=self._model.device)


def _load(path: str, device: str, dtype: torch.dtype) -> SentenceTransformer:
    try:
        import torch
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError(
            "sentence embeddings", "models", error.name or "sentence-transformers"
        ) from error
    try:
        with loading_alone():
            model = SentenceTransformer(
                path,
                device=device,
                trust_remote_code=False,
                model_kwargs={"dtype": dtype, "attn_implementation": "sdpa", "use_safetensors": True},
            )
    except SafetensorError as error:
        raise damaged_weights(path, error) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"cannot load {path!r} as a sentence-embedding model: {error}; give a sentence-transformers "
            "folder, a hub id that is downloaded or can be reached, or a name of `tokenprune models list`"
        ) from error
    for module in list(model)[1:]:
        module.to(torch.float32)
    return model.eval()
