"""The proxy: an ASGI middleware that prunes, and a pass-through to an OpenAI-compatible server."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenprune_server.app import create_app
    from tokenprune_server.middleware import PruneMiddleware
    from tokenprune_server.proxy import UpstreamApp

__all__ = ["PruneMiddleware", "UpstreamApp", "create_app"]

_HOME = {
    "PruneMiddleware": "tokenprune_server.middleware",
    "UpstreamApp": "tokenprune_server.proxy",
    "create_app": "tokenprune_server.app",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use: inside vLLM nobody needs aiohttp or the admin app."""
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
