"""What is seen of a model without loading it: whether it is there, and is one that the engine runs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tokenprune.engine.methods.gemfilter import check_layer
from tokenprune.engine.weights import FAMILIES, unknown_family
from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.models.catalog import CATALOG, read_config, resolve_model

_TYPES = tuple(family.removesuffix("ForCausalLM").lower() for family in FAMILIES)
# Each with the type of its language model where its config does not say.
_SEEING_TYPES = {"llava": "llama", "llava_onevision": "qwen2"}
# Any of them is a tokenizer that transformers reads.
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)


def check_model(name_or_path: str, layer: int | None = None) -> None:
    """Refuse what is seen to be no model that the engine can run; what may yet be fetched is believed.

    Args:
        name_or_path: A named model, a folder in Hugging Face layout or a hub name.
        layer: One that GemFilter shall look at; None: none is asked for.

    Raises:
        ModelError: With the reason.
        ConfigError: The model has no such layer.
        MissingExtraError: torch or transformers is not installed.
    """
    for module in ("torch", "transformers"):
        if find_spec(module) is None:
            raise MissingExtraError("the engine", "models", module)
    found = _folder(name_or_path)
    if found is None:
        return
    config = read_config(found, repr(name_or_path))
    kind = config.get("model_type")
    own = _SEEING_TYPES.get(str(kind))
    text = config if own is None else {"model_type": own} | (config.get("text_config") or {})
    if text.get("model_type") not in _TYPES:
        where = "" if own is None else f" in a {kind!r}"
        raise unknown_family(f"{name_or_path!r}, of type {text.get('model_type')!r}{where}")
    if not any(found.glob("*.safetensors")):
        raise ModelError(f"{name_or_path!r} holds no safetensors file; save its weights in this format")
    depth = text.get("num_hidden_layers")
    if layer is not None and isinstance(depth, int):
        check_layer(layer, depth)


def check_tokenizer(name_or_path: str) -> None:
    """Refuse what is seen to have no tokenizer; what may yet be fetched is believed.

    Raises:
        ModelError: With the reason.
    """
    found = _folder(name_or_path)
    if found is not None and not any((found / name).is_file() for name in _TOKENIZERS):
        raise ModelError(f"{name_or_path!r} holds no tokenizer ({', '.join(_TOKENIZERS)})")


def _folder(name_or_path: str) -> Path | None:
    """Return the folder of a model; None: it is fetched when it is needed.

    Raises:
        ModelError: There is none, or one for something else.
    """
    named = CATALOG.get(name_or_path)
    if named is None:
        path = Path(resolve_model(name_or_path))
        if path.is_dir():
            return path
        _check_reachable(name_or_path)
    elif named.task != "causal-lm":
        raise ModelError(f"{name_or_path!r} is a model for {named.task}; needed is one for causal-lm")
    return None


def _check_reachable(hub_id: str) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
        raise ModelError(
            f"{hub_id!r} is no folder here, was not downloaded, and HF_HUB_OFFLINE forbids to fetch it"
        )
