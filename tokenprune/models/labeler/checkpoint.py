"""Reading a published checkpoint: its folder, config, tokenizer and weights; never any code of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import MissingExtraError, ModelError, TokenPruneError
from tokenprune.models.catalog import damaged_weights, read_config, read_json, resolve_model
from tokenprune.models.device import pick_device, pick_dtype
from tokenprune.models.labeler.text import TextReader

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

# What is taken of a hub repository: no code, no pickled weights.
_WANTED = ("*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt", "LICENSE*")
_SPECIAL = ("cls_token", "sep_token", "bos_token", "eos_token", "pad_token", "unk_token")
_ROLES = ("special_tokens_map.json", "tokenizer_config.json")  # they say which token is cls, sep, ...
_VOCABULARIES = ("spm.model", "sentencepiece.bpe.model", "tokenizer.model", "vocab.txt", "vocab.json")
# Buffers that older releases of transformers saved and newer ones compute.
_COMPUTED = (".position_ids", ".inv_freq")


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a model.

    Attributes:
        name: what it was asked for by; for messages.
        folder: where it lies.
        config: the content of its config.json.
    """

    name: str
    folder: Path
    config: dict[str, Any]

    def weights(self) -> dict[str, torch.Tensor]:
        """Return all weights by name, as they were saved.

        Raises:
            ModelError: there are no safetensors, or they cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        out: dict[str, torch.Tensor] = {}
        for file in self._weight_files():
            try:
                out |= load_file(file)
            except SafetensorError as error:
                raise damaged_weights(str(file), error) from error
            except OSError as error:
                raise ModelError(f"cannot read {file} of {self.name!r}: {error}") from error
        return out

    def _weight_files(self) -> list[Path]:
        index = self.folder / "model.safetensors.index.json"
        whole = self.folder / "model.safetensors"
        if whole.is_file():
            return [whole]
        if index.is_file():
            shards = sorted(set(read_json(index, repr(self.name)).get("weight_map", {}).values()))
            if all(isinstance(s, str) and Path(s).name == s for s in shards):
                return [self.folder / s for s in shards]
            raise ModelError(f"{index} of {self.name!r} names files outside its folder")
        pickled = sorted(p.name for p in self.folder.glob("*.bin")) + sorted(
            p.name for p in self.folder.glob("*.pt*")
        )
        if pickled:
            raise ModelError(
                f"{self.name!r} has only pickled weights ({', '.join(pickled)}), which can run code when "
                "they are loaded: convert them to model.safetensors"
            )
        where = "" if Path(self.name) == self.folder else f" in {self.folder}"
        raise ModelError(f"{self.name!r} has no model.safetensors{where}: copy the whole folder of the model")

    def reader(self) -> tuple[TextReader, dict[str, int | None]]:
        """Return the tokenizer and the ids of its special tokens by role (``cls_token``, ...).

        ``tokenizer.json`` is what the model was trained with; a folder that has none is left to transformers.

        Raises:
            ModelError: there is no tokenizer.
        """
        from tokenizers import Tokenizer

        file = self.folder / "tokenizer.json"
        try:
            if not file.is_file():
                return self._converted()
            tokenizer: Tokenizer = Tokenizer.from_file(str(file))
        except TokenPruneError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exception
            raise ModelError(f"cannot read the tokenizer of {self.name!r}: {error}") from error
        roles: dict[str, int | None] = dict.fromkeys(_SPECIAL)
        for source in _ROLES:
            path = self.folder / source
            content = read_json(path, repr(self.name)) if path.is_file() else {}
            for role in _SPECIAL:
                token = content.get(role)
                token = token.get("content") if isinstance(token, dict) else token
                if isinstance(token, str) and tokenizer.token_to_id(token) is not None:
                    roles[role] = tokenizer.token_to_id(token)
        return self._checked(tokenizer, roles)

    def _converted(self) -> tuple[TextReader, dict[str, int | None]]:
        # Without a vocabulary transformers makes a tokenizer that knows no word, and says nothing.
        if not any((self.folder / name).is_file() for name in _VOCABULARIES):
            raise ModelError(
                f"{self.name!r} has neither tokenizer.json nor one of {', '.join(_VOCABULARIES)}"
            )
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise MissingExtraError("sentence labeling", "models", error.name or "transformers") from error
        slow = AutoTokenizer.from_pretrained(str(self.folder), trust_remote_code=False, use_fast=True)
        roles = {role: getattr(slow, f"{role}_id", None) for role in _SPECIAL}
        return self._checked(slow.backend_tokenizer, roles)

    def _checked(
        self, tokenizer: Tokenizer, roles: dict[str, int | None]
    ) -> tuple[TextReader, dict[str, int | None]]:
        pad = roles["pad_token"]
        if pad is None:
            pad = self.config.get("pad_token_id") or 0
        roles["cls_token"] = roles["bos_token"] if roles["cls_token"] is None else roles["cls_token"]
        roles["sep_token"] = roles["eos_token"] if roles["sep_token"] is None else roles["sep_token"]
        return TextReader(tokenizer, int(pad), roles["unk_token"]), roles

    def special(self, roles: Mapping[str, int | None], role: str) -> int:
        """Return the id of a special token that the model cannot do without.

        Raises:
            ModelError: the tokenizer has none.
        """
        token = roles.get(role)
        if token is None:
            absent = [n for n in _ROLES if not (self.folder / n).is_file()]
            missing = f": the folder has no {' and no '.join(absent)}, which would name it" if absent else ""
            raise ModelError(f"the tokenizer of {self.name!r} has no {role}{missing}")
        return token


@dataclass(frozen=True)
class Place:
    """Where a network runs, and in which number format."""

    device: str
    dtype: torch.dtype

    @classmethod
    def pick(cls, device: str | None, dtype: str | torch.dtype | None) -> Place:
        """Choose as encoders do.

        Raises:
            MissingExtraError: torch is not installed.
            ModelError: not a device or dtype that can be used.
        """
        chosen = pick_device(device)
        return cls(chosen, pick_dtype(chosen, dtype))


def open_checkpoint(name_or_path: str) -> Checkpoint:
    """Find a checkpoint: a named model, a folder, or a hub id that is downloaded or can be reached.

    Raises:
        ModelError: it is none of these, or has no readable config.json.
    """
    found = resolve_model(name_or_path)
    folder = Path(found)
    if not folder.is_dir():
        folder = _fetch(found)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name_or_path!r} has no config.json: give a folder in Hugging Face layout")
    return Checkpoint(name_or_path, folder, read_config(folder, repr(name_or_path)))


def _fetch(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingExtraError("models of the hub", "models", error.name or "huggingface_hub") from error
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_WANTED)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"cannot get {hub_id!r} from the hub: {first}; give a folder, or download it where the hub can "
            "be reached"
        ) from error


def fill(
    module: torch.nn.Module, weights: Mapping[str, torch.Tensor], name: str, assign: bool = False
) -> None:
    """Give a module its weights; every weight must find its place and every place its weight.

    Args:
        module: what is filled.
        weights: by name.
        name: of the checkpoint, for messages.
        assign: whether the weights become the module's own, in their format; otherwise they are copied.

    Raises:
        ModelError: names or shapes do not fit; the message lists them.
    """
    # Buffers are computed by the module where it does not save them itself.
    own = {k for k in module.state_dict() if not k.endswith(_COMPUTED)}
    given = {k: v for k, v in weights.items() if not k.endswith(_COMPUTED)}
    missing, unexpected = sorted(own - set(given)), sorted(set(given) - own)
    faults = [
        f"{what} {_some(keys)}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys
    ]
    state = module.state_dict()
    shapes = [
        f"{k} is {list(given[k].shape)}, not {list(state[k].shape)}"
        for k in sorted(own & set(given))
        if given[k].shape != state[k].shape
    ]
    faults += [f"of another shape: {_some(shapes)}"] if shapes else []
    if faults:
        raise ModelError(f"the weights of {name!r} do not fit its config.json: {'; '.join(faults)}")
    module.load_state_dict(given, strict=False, assign=assign)


def ready(module: torch.nn.Module, place: Place, full: Iterable[torch.nn.Module] = ()) -> None:
    """Put a module where it runs.

    Args:
        module: its buffers stay as they are.
        place: device, and number format of the weights.
        full: parts of it whose weights stay float32.
    """
    import torch

    precise = {id(p) for part in full for p in part.parameters()}
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        dtype = torch.float32 if id(parameter) in precise else place.dtype
        parameter.data = parameter.data.to(device=place.device, dtype=dtype)
    module.to(place.device)
    module.eval()


def _some(items: list[str]) -> str:
    shown = ", ".join(items[:4])
    return shown if len(items) <= 4 else f"{shown} and {len(items) - 4} more"
