"""Paths of requests: below the prefix that the server is mounted under, and as other servers read them."""

import posixpath
from urllib.parse import quote

from tokenprune_server.types import Scope


def route_path(scope: Scope) -> str:
    """The path below ``root_path``."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root):
        below = path[len(root) :]
        # "/v1" as root must not cut "/v1x/..." in two.
        if below.startswith("/") or not below:
            return below or "/"
    return path


def raw_path(scope: Scope) -> bytes:
    """The path below ``root_path`` as the client wrote it."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    root = scope.get("root_path", "").encode()
    rest = raw.removeprefix(root)
    return rest or b"/" if rest[:1] in (b"/", b"") else raw


def folded(path: str) -> str:
    """A decoded path as servers read it that fold slashes and dots: ``//a/./b/../sleep/`` is ``/a/sleep``."""
    return posixpath.normpath("/" + path.lstrip("/"))


def below(scope: Scope, prefix: str) -> Scope:
    """The scope with the path behind ``prefix``, which begins and ends with a slash; its last one stays.

    The raw path is cut only where it is written like the decoded one; else it is left to be made of that.
    """
    cut = len(prefix) - 1
    raw = raw_path(scope)
    raw = raw[cut:] if raw.startswith(prefix.encode()) else b""
    return {**scope, "root_path": "", "path": route_path(scope)[cut:], "raw_path": raw}
