"""Counting tokens with a named tokenizer, without torch or transformers."""

from __future__ import annotations

import lzma
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tokenprune.arrays import IntArray
from tokenprune.errors import ModelError, UnknownNameError
from tokenprune.lru import ByteLru, text_bytes
from tokenprune.pretokens import PreTokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DEFAULT_TOKENIZER = "smollm2-135m"
# Bytes of texts and of their starts that are remembered: of one request several parts of a program ask.
_REMEMBERED = 2**23
# Shipped so that counting works with the light core alone; derived from SmolLM2 (Apache-2.0).
_SHIPPED = {DEFAULT_TOKENIZER: "smollm2-tokenizer.json.xz"}

# Lone surrogates reach us from JSON escapes and cannot be encoded; NUL ends a C string in lxml.
_UNSAFE = re.compile("[\ud800-\udfff\x00]")


def sanitize(text: str) -> str:
    """Replace lone surrogates and NUL by U+FFFD, one for one, so that offsets stay."""
    if "\0" not in text:
        try:
            text.encode()  # fails at surrogates, and is many times as fast as a look for them
            return text
        except UnicodeEncodeError:
            pass
    return _UNSAFE.sub("\ufffd", text)


class TokenCounter:
    """Counts tokens as one Hugging Face tokenizer does, without special tokens; safe to use from threads."""

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        """Wrap a loaded tokenizer under the name it was asked for by."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.post_processor = None  # adds special tokens, and may trim a leading space from an offset
        self.name = name
        self._tokenizer = tokenizer
        self._pre_tokens = PreTokens.of(tokenizer)
        self._known: ByteLru[str, IntArray] = ByteLru(_REMEMBERED)
        self._lock = threading.Lock()

    def count(self, text: str) -> int:
        """Return the number of tokens of ``text``."""
        return int(self.count_many([text])[0])

    def count_many(self, texts: Sequence[str]) -> IntArray:
        """Return the number of tokens of each text, int64 [n].

        Nothing of the texts is remembered; `starts` is the one to ask about what is looked at again.
        """
        safe = [sanitize(text) for text in texts]
        counts = [self._pre_tokens.count(text) if self._pre_tokens else None for text in safe]
        rest = [i for i, count in enumerate(counts) if count is None]
        encodings = self._tokenizer.encode_batch_fast([safe[i] for i in rest], add_special_tokens=False)
        for i, encoding in zip(rest, encodings, strict=True):
            counts[i] = len(encoding)
        return np.array(counts, dtype=np.int64)

    def starts(self, text: str) -> IntArray:
        """Return the character offset at which each token of ``text`` starts, int64 [tokens], ascending.

        It is remembered for a while, and read-only.
        """
        if not text:
            return np.empty(0, dtype=np.int64)
        with self._lock:
            known = self._known.get(text)
        if known is not None:
            return known
        safe = sanitize(text)
        starts = self._pre_tokens.starts(safe) if self._pre_tokens else None
        if starts is None:
            offsets = self._tokenizer.encode(safe, add_special_tokens=False).offsets
            starts = np.fromiter((o[0] for o in offsets), dtype=np.int64, count=len(offsets))
        starts = np.maximum.accumulate(starts)  # order is what counting needs
        starts.flags.writeable = False
        with self._lock:
            self._known.put(text, starts, starts.nbytes + text_bytes(text))
        return starts

    def forget(self) -> None:
        """Remember no starts of before: for whoever measures how long counting takes."""
        with self._lock:
            self._known.clear()


def counts_between(starts: IntArray, bounds: IntArray) -> IntArray:
    """Count the tokens that start in each [bounds[i], bounds[i+1]), int64 [len(bounds) - 1].

    Tokens before the first bound count to the first range and tokens after the last to the last, so that
    the counts always add up to ``len(starts)``.
    """
    at = np.searchsorted(starts, bounds)
    at[0], at[-1] = 0, len(starts)
    return np.diff(at).astype(np.int64)


def load_tokenizer(name: str) -> Tokenizer:
    """Load the tokenizer that `get_counter` counts with, as it is."""
    from tokenizers import Tokenizer

    if name in _SHIPPED:
        packed = (resources.files("tokenprune") / "data" / _SHIPPED[name]).read_bytes()
        return Tokenizer.from_buffer(lzma.decompress(packed))
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    if path.is_file():
        return Tokenizer.from_file(str(path))

    from tokenprune.models.catalog import CATALOG, model_path

    if name in CATALOG:
        return Tokenizer.from_file(str(model_path(name) / "tokenizer.json"))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return _from_hub(name)
    raise UnknownNameError(
        "tokenizer",
        name,
        [*_SHIPPED, *CATALOG, "a folder with tokenizer.json", "a hub name ORG/NAME"],
    )


def _from_hub(name: str) -> Tokenizer:
    """Fetch a tokenizer; one question asks whether the hub is there, for its client would ask for 20 s."""
    from huggingface_hub import constants, get_session, try_to_load_from_cache
    from tokenizers import Tokenizer

    from tokenprune.models.catalog import CATALOG

    try:
        cached = try_to_load_from_cache(name, "tokenizer.json")
        try:
            get_session().head(constants.ENDPOINT, timeout=10)
        except Exception:
            if not isinstance(cached, str):
                raise
            return Tokenizer.from_file(cached)
        return Tokenizer.from_pretrained(name)
    except Exception as error:  # of the hub's client, or of a file that is no tokenizer
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        known = ", ".join(sorted({*_SHIPPED, *CATALOG}))
        raise ModelError(
            f"the tokenizer {name!r} cannot be fetched: {why[:200]}; "
            f"name a folder with tokenizer.json, or one of {known}"
        ) from None


def get_counter(name: str = DEFAULT_TOKENIZER) -> TokenCounter:
    """Return the counter of a tokenizer: a shipped name, a named model, a folder or file, or a hub name.

    Raises:
        UnknownNameError: nothing of that name is found; the message lists what is known.
        ModelError: a hub's tokenizer cannot be fetched.
    """
    return _cached_counter(name)


@lru_cache(maxsize=16)
def _cached_counter(name: str) -> TokenCounter:
    return TokenCounter(name, load_tokenizer(name))
