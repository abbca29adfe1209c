"""What is seen of a model without loading it: whether it is there, and is one that the engine runs."""

from __future__ import annotations

import fnmatch
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tokenprune.engine.methods.gemfilter import check_layer
from tokenprune.engine.weights import FAMILIES, unknown_family
from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.models.catalog import (
    CATALOG,
    TOKENIZERS,
    check_causal,
    no_tokenizer,
    read_config,
    resolve_model,
)

_HUB_TIMEOUT_S = 10.0
log = logging.getLogger("tokenprune")

_TYPES = tuple(family.removesuffix("ForCausalLM").lower() for family in FAMILIES)
# Each with the type of its language model where its config does not say.
_SEEING_TYPES = {"llava": "llama", "llava_onevision": "qwen2"}
_WEIGHTS = "*.safetensors"


def check_model(name_or_path: str, layer: int | None = None) -> None:
    """Refuse what is seen to be no model that the engine can run.

    Of a hub name that is not downloaded, the config is fetched and the list of files is read. Where the hub
    cannot be reached the name is believed: it may be reached when the model is needed.

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
    found = _look(name_or_path, _WEIGHTS)
    if found.folder is None:
        if found.lacks("config.json"):
            raise ModelError(f"{name_or_path!r} holds no config.json: it is no model in Hugging Face layout")
        return
    config = read_config(found.folder, repr(name_or_path))
    kind = config.get("model_type")
    own = _SEEING_TYPES.get(str(kind))
    text = config if own is None else {"model_type": own} | (config.get("text_config") or {})
    if text.get("model_type") not in _TYPES:
        where = "" if own is None else f" in a {kind!r}"
        raise unknown_family(f"{name_or_path!r}, of type {text.get('model_type')!r}{where}")
    if found.lacks(_WEIGHTS):
        raise ModelError(f"{name_or_path!r} holds no safetensors file; save its weights in this format")
    depth = text.get("num_hidden_layers")
    if layer is not None and isinstance(depth, int):
        check_layer(layer, depth)


def check_tokenizer(name_or_path: str) -> None:
    """Refuse what is seen to have no tokenizer; hub names are looked at as in `check_model`.

    Raises:
        ModelError: With the reason.
    """
    if _look(name_or_path, *TOKENIZERS).lacks(*TOKENIZERS):
        raise no_tokenizer(name_or_path)


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known of a model.

    Attributes:
        folder: Here, with its config; None: there is none.
        files: Names of all files that it has, here or on the hub; None: not known.
    """

    folder: Path | None = None
    files: tuple[str, ...] | None = None

    @classmethod
    def here(cls, folder: Path) -> _Found:
        """All of it is in a folder."""
        return cls(folder, tuple(path.name for path in folder.iterdir()))

    def lacks(self, *patterns: str) -> bool:
        """Whether it is known to have no file like any of these."""
        return self.files is not None and not any(fnmatch.filter(self.files, p) for p in patterns)


def _look(name_or_path: str, *wanted: str) -> _Found:
    """Return what is here of a model, or is fetched to look at it; the hub is asked for what is wanted.

    Raises:
        ModelError: There is none, or one for something else.
    """
    check_causal(name_or_path)
    named = CATALOG.get(name_or_path)
    if named is None:
        path = Path(resolve_model(name_or_path))
        return _Found.here(path) if path.is_dir() else _look_on_hub(name_or_path, wanted)
    return _Found()


def _look_on_hub(hub_id: str, wanted: tuple[str, ...]) -> _Found:
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    cached = try_to_load_from_cache(hub_id, "config.json")
    folder = Path(cached).parent if isinstance(cached, str) else None
    if folder is not None:
        here = _Found.here(folder)
        if constants.HF_HUB_OFFLINE or not here.lacks(*wanted):
            return here
    elif constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{hub_id!r} is no folder here, was not downloaded, and HF_HUB_OFFLINE forbids to fetch it"
        )
    try:
        listed = HfApi().model_info(hub_id, timeout=_HUB_TIMEOUT_S).siblings or []
        files = tuple(file.rfilename for file in listed)
        if folder is None and "config.json" in files:
            folder = Path(hf_hub_download(hub_id, "config.json")).parent
        return _Found(folder, files)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise ModelError(
            f"{hub_id!r} is no folder here, and the hub gives no model of this name: correct the name, give "
            "a folder in Hugging Face layout, or log in (`hf auth login`, or HF_TOKEN) if it is private or "
            "gated"
        ) from error
    except Exception as error:
        # Which errors there are hangs on the HTTP library below, and that on the release of the hub's client.
        log.warning("the hub cannot be asked about %r, to be fetched when it is needed: %s", hub_id, error)
        return _Found(folder)
