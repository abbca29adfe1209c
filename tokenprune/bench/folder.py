"""The folder of a report."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tokenprune.errors import ConfigError


def made(folder: Path) -> Path:
    """Make a folder if it is not there, and return it when files can be written into it.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write the report to {folder}: {error.strerror}; give --out a folder that can be written"
        ) from None
    return folder
