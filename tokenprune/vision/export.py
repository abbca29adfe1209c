"""Write the vision part of a LLaVA or LLaVA-OneVision checkpoint, or all of it in the layout that vLLM reads.

The vision part (tower, projector, LLaVA-OneVision's newline, image processor and config) is what a process
needs that only encodes pictures, such as the proxy; `tokenprune.vision.encoder.load_vision_encoder` loads it.

Releases of transformers have named the tensors of the same model in three ways, and vLLM's LLaVA reads two of
them. Everything written here has the oldest names, which all releases of both read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenprune import __version__
from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.folders import LICENCES, check_place, whole_folder
from tokenprune.models.catalog import CATALOG, read_config, resolve_model
from tokenprune.vision.encoder import weight_files

CARD = "vision.json"
_VISION, _PROJECTOR, _NEWLINE = "vision_tower.", "multi_modal_projector.", "image_newline"
_TEXT = "language_model."
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_INDEX = "model.safetensors.index.json"
# The towers that vLLM's LLaVA keeps below "vision_model"; others are not pruned here anyway.
_BELOW_VISION_MODEL = ("clip_vision_model", "siglip_vision_model")
# By model type: what the vision part consists of, and what a config leaves out, being so by default.
_PARTS = {"llava": (_VISION, _PROJECTOR), "llava_onevision": (_VISION, _PROJECTOR, _NEWLINE)}
_INDEX_OF_IMAGE = "image_token_index"  # the older name
_DEFAULTS = {
    "llava": {
        "image_token_id": 32000,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    },
    "llava_onevision": {
        "image_token_id": 151646,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    },
}


def export_vision(name_or_path: str, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write the vision part of a checkpoint, with a card of where it comes from.

    Args:
        name_or_path: a folder in Hugging Face layout, a named model, or a hub id.
        folder: where to write; its parent is made if need be.
        overwrite: replace a folder that was exported before; nothing else is ever replaced.

    Returns:
        The folder.

    Raises:
        ModelError: a checkpoint of another class, one without safetensors or image processor, a folder that
            cannot be written; then there is no folder, or the old one.
        MissingExtraError: safetensors or torch is not installed.
    """
    return _export(name_or_path, folder, overwrite, _write_vision)


def check_checkpoint(name_or_path: str) -> None:
    """Refuse what is seen to have no vision part of ours without loading it; a hub id is believed.

    Raises:
        ModelError: with the reason.
    """
    if name_or_path in CATALOG:  # nothing that is fetched has one
        raise ModelError(
            f"{name_or_path!r} is a model for {CATALOG[name_or_path].task} without a vision part; needed is "
            "a LLaVA checkpoint"
        )
    path = Path(resolve_model(name_or_path))
    if path.is_dir():
        _check(path, name_or_path)


def export_full(name_or_path: str, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write all of a checkpoint, its tensors named as vLLM reads them; see `export_vision` for the rest.

    Raises:
        ModelError: also where the checkpoint is an export of a vision part.
    """
    return _export(name_or_path, folder, overwrite, _write_full)


def is_vision_part(folder: str | Path) -> bool:
    """Tell whether `export_vision` wrote a folder, so that it holds no language model."""
    try:
        card = json.loads((Path(folder) / CARD).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and card.get("part") == "vision"


def _export(
    name_or_path: str, folder: str | Path, overwrite: bool, write: Callable[[Path, Path, str], None]
) -> Path:
    try:
        import torch  # noqa: F401
        from safetensors import SafetensorError
    except ImportError as error:
        raise MissingExtraError("writing checkpoints", "vision", error.name or "safetensors") from error

    place = Path(folder).expanduser().absolute()
    check_place(place, overwrite, CARD, "export of `tokenprune vision export`")
    source = _local(name_or_path)
    _check(source, name_or_path)
    try:
        with whole_folder(place) as out:
            write(source, out, name_or_path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot write the vision part of {name_or_path!r} to {place}: {error}; nothing was left there"
        ) from error
    return place


def tensor_name(name: str) -> str:
    """Return the oldest of the names that a tensor of LLaVA has had.

    ============================================= ======================================
    ``model.vision_tower.X``, ``vision_tower.X``    ``vision_tower.vision_model.X``
    ``model.multi_modal_projector.X``               ``multi_modal_projector.X``
    ``model.image_newline``                         ``image_newline``
    ``model.language_model.X``                      ``language_model.model.X``
    ``lm_head.X``                                   ``language_model.lm_head.X``
    ============================================= ======================================
    """
    if name.startswith("lm_head."):
        return _TEXT + name
    inner = name.removeprefix("model.")
    if inner.startswith(_VISION):
        return f"{_VISION}vision_model.{inner.removeprefix(_VISION).removeprefix('vision_model.')}"
    if inner.startswith(_TEXT):
        rest = inner.removeprefix(_TEXT)
        return inner if rest.startswith(("model.", "lm_head.")) else f"{_TEXT}model.{rest}"
    return inner


def _local(name_or_path: str) -> Path:
    path = resolve_model(name_or_path)
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    try:
        kinds = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "LICENSE*", "NOTICE*"]
        return Path(snapshot_download(path, allow_patterns=kinds))
    except (OSError, ValueError) as error:
        raise ModelError(f"{name_or_path!r} cannot be fetched: {error}; give a local folder") from error


def _check(source: Path, name: str) -> None:
    config = read_config(source, str(source))
    vision = config.get("vision_config")
    kind, tower = config.get("model_type"), vision.get("model_type") if isinstance(vision, dict) else None
    if kind not in _PARTS or tower not in _BELOW_VISION_MODEL:
        raise ModelError(
            f"{name!r} is of type {kind!r} with a vision tower {tower!r}; needed is a LLaVA checkpoint "
            f"(type {' or '.join(map(repr, _PARTS))}) with one of: {', '.join(_BELOW_VISION_MODEL)}"
        )
    weight_files(source)
    if not any((source / file).is_file() for file in _PROCESSORS):
        raise ModelError(f"{name!r} lacks the config of its image processor, {' or '.join(_PROCESSORS)}")


def _renamed(file: Path, wanted: tuple[str, ...] = ("",)) -> dict[str, Any]:
    """Tensors of a file by their oldest names, those that begin with one of ``wanted``."""
    from safetensors import safe_open

    found = {}
    with safe_open(file, framework="pt") as opened:
        for key in opened.keys():  # noqa: SIM118  (not a mapping)
            name = tensor_name(key)
            if name.startswith(wanted):
                found[name] = opened.get_tensor(key)
    return found


def _write_vision(source: Path, out: Path, name: str) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    parts = _PARTS[read_config(source, str(source))["model_type"]]
    for file in weight_files(source):
        tensors |= _renamed(file, parts)
    for part in parts:
        if not any(key.startswith(part) for key in tensors):
            raise ModelError(f"{name!r} holds no tensors of its {part.rstrip('.')}")
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    _copy(source, out, ("config.json", *_PROCESSORS, *LICENCES))
    _write_card(source, out, name, part="vision", tensors=tensors)


def _write_full(source: Path, out: Path, name: str) -> None:
    from safetensors.torch import save_file

    if is_vision_part(source):
        raise ModelError(
            f"{name!r} is the vision part of a checkpoint: give the checkpoint, which has the rest"
        )

    places: dict[str, str] = {}
    bytes_ = 0
    for file in weight_files(source):
        tensors = _renamed(file)
        save_file(tensors, out / file.name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file.name)
        bytes_ += sum(int(tensor.nbytes) for tensor in tensors.values())
    if len(set(places.values())) > 1 or (source / _INDEX).is_file():
        index = {"metadata": {"total_size": bytes_}, "weight_map": places}
        (out / _INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    others = [f.name for f in sorted(source.iterdir()) if f.is_file() and f.name != _INDEX]
    weights = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
    _copy(source, out, [f for f in others if not f.endswith(weights) and f not in (CARD, "README.md")])
    _write_card(source, out, name, part="all", tensors={})


def _copy(source: Path, out: Path, names: tuple[str, ...] | list[str]) -> None:
    for file in names:
        if (source / file).is_file():
            shutil.copyfile(source / file, out / file)


def _write_card(source: Path, out: Path, name: str, *, part: str, tensors: dict[str, Any]) -> None:
    config = read_config(source, str(source))
    vision, text = config["vision_config"], config.get("text_config", {})
    given = {"image_token_id": config[_INDEX_OF_IMAGE]} | config if _INDEX_OF_IMAGE in config else config
    size = {key: vision.get(key) for key in ("image_size", "patch_size")}
    card = {
        "tokenprune": __version__,
        "part": part,
        "source": name,
        "source_sha256": {file.name: _sha256(file) for file in weight_files(source)},
        "model_type": config["model_type"],
        "hidden_size": _hidden_size(tensors) if tensors else text.get("hidden_size"),
        "vision_tower": vision["model_type"],
        **{key: given.get(key, value) for key, value in _DEFAULTS[config["model_type"]].items()},
        **{key: value for key, value in size.items() if value is not None},
    }
    if tensors:
        card["parameters"] = sum(tensor.numel() for tensor in tensors.values())
        card["dtypes"] = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    (out / CARD).write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    (out / "README.md").write_text(_readme(card), "utf-8")


def _hidden_size(tensors: dict[str, Any]) -> int:
    return int(tensors[f"{_PROJECTOR}linear_2.weight"].shape[0])


def _readme(card: dict[str, Any]) -> str:
    what = (
        "Vision tower, projector and image processor"
        if card["part"] == "vision"
        else "All of the checkpoint, with the names of tensors that vLLM reads,"
    )
    rows = "".join(f"| {key} | {value} |\n" for key, value in card.items() if key != "source_sha256")
    return (
        f"# {Path(card['source']).name}\n\n{what} of `{card['source']}`, written by `tokenprune vision "
        f"export`. The licence is that of the source.\n\n| | |\n|---|---|\n{rows}"
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
