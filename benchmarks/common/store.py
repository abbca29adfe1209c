"""Results on disk as they come, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any


class Store:
    """A JSONL file of (key, value); the last value of a key counts."""

    def __init__(self, path: Path, fresh: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._values: dict[str, Any] = {}
        if not fresh and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # a line cut by the end of a killed run
                    continue
                self._values[row["key"]] = row["value"]
        self._file = path.open("w" if fresh else "a", encoding="utf-8")
        if not fresh and path.stat().st_size:
            self._file.write("\n")  # closes a line that was cut; an empty line does no harm

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    def put(self, key: str, value: Any) -> None:
        self._values[key] = value
        self._file.write(json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@lru_cache(maxsize=1)
def code_version() -> str:
    """Hash of the library's sources: results of ours are measured again when any of them changes."""
    import tokenprune

    folder = Path(tokenprune.__file__).parent
    digest = hashlib.sha1(usedforsecurity=False)
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:10]
