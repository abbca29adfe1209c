"""Paths of requests without the prefix that the server is mounted under."""

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
