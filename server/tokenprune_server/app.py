"""The whole server: admin routes beside the pruning proxy."""

import importlib.util
import socket
from typing import TYPE_CHECKING

from tokenprune.config import Config
from tokenprune_server.admin import PATHS, PREFIXES, create_admin_app
from tokenprune_server.body import ClientGone, Replay, body_message, read_body
from tokenprune_server.errors import send_error
from tokenprune_server.middleware import PruneMiddleware
from tokenprune_server.paths import below, folded, route_path
from tokenprune_server.proxy import UpstreamApp
from tokenprune_server.runtime import Runtime
from tokenprune_server.settings import ServerSettings
from tokenprune_server.types import ASGIApp, Receive, Scope, Send
from tokenprune_server.vision.unread import Unread

if TYPE_CHECKING:
    import uvicorn

_UPSTREAM_PREFIX = "/upstream/"


class ServerApp:
    """Sends admin paths to the admin app and everything else, lifespan included, to the middleware.

    Our own paths (``/metrics``, ``/healthz``, ...) hide those of the upstream, which stay reachable below
    ``/upstream/``, where nothing is pruned: ``/upstream/metrics`` are the upstream's metrics. Paths that
    control the upstream (``settings.blocked_paths``) are not forwarded at all.
    """

    def __init__(self, prune: PruneMiddleware, admin: ASGIApp) -> None:
        self.prune = prune
        self.admin = admin
        self._blocked = frozenset(map(folded, prune.runtime.settings.blocked_paths))

    @property
    def runtime(self) -> Runtime:
        """The shared state."""
        return self.prune.runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        app: ASGIApp = self.prune
        settings = self.runtime.settings
        if scope["type"] == "http":
            path = route_path(scope)
            if path in PATHS or path.startswith(PREFIXES):
                app = self.admin
                try:
                    body, unread = await read_body(receive, settings.max_body_bytes)
                except ClientGone:
                    return
                if unread:
                    much = f"more than {settings.max_body_bytes} bytes (setting server.max_body_bytes)"
                    await send_error(send, 413, f"the request body has {much}")
                    return
                receive = Replay([body_message(body)], receive)
            elif path.startswith(_UPSTREAM_PREFIX):
                scope, app = below(scope, _UPSTREAM_PREFIX), self.prune.app
                path = scope["path"]
            if folded(path) in self._blocked:
                await send_error(send, 404, f"{path} is not forwarded (setting server.blocked_paths)")
                return
            if app is self.prune.app and settings.vision is not None:
                checked = Unread(receive, send, f"below {_UPSTREAM_PREFIX}", 400)
                await app(scope, checked.receive, checked.send)
                await checked.finish()
                return
        await app(scope, receive, send)


def create_app(config: Config, upstream: str | ASGIApp, settings: ServerSettings | None = None) -> ServerApp:
    """The server in front of an upstream.

    Args:
        config: the library's configuration (``load_config``).
        upstream: URL of an OpenAI-compatible server, or an ASGI app that is one.
        settings: server settings; those of ``config.server`` and the environment when None.

    Raises:
        ConfigError: a wrong setting or upstream URL.
    """
    runtime = Runtime(config, settings)
    if isinstance(upstream, str):
        inner: ASGIApp = UpstreamApp(
            upstream,
            connect_timeout_s=runtime.settings.connect_timeout_s,
            read_timeout_s=runtime.settings.read_timeout_s,
            keepalive_s=runtime.settings.keepalive_s,
            on_error=runtime.metrics.upstream_error,
        )
    else:
        inner = upstream
    return ServerApp(PruneMiddleware(inner, runtime=runtime), create_admin_app(runtime, inner))


def uvicorn_config(app: ASGIApp, *, log_level: str = "warning") -> "uvicorn.Config":
    """The uvicorn settings this server is meant to run with: nothing on the hot path that is not needed."""
    import uvicorn

    return uvicorn.Config(
        app,
        loop="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
        http="httptools" if importlib.util.find_spec("httptools") else "h11",
        ws="none",
        lifespan="auto",
        access_log=False,
        # The answer's own headers come from the upstream; a second Date or Server would not be transparent.
        server_header=False,
        date_header=False,
        log_level=log_level,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; OSError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.set_inheritable(True)
    except OSError:
        sock.close()
        raise
    return sock
