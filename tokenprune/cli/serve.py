"""``tokenprune serve``: the pruning proxy in front of a server, or of the built-in engine."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import socket

    import uvicorn

_DEFAULT_MODEL = "smollm2-135m"
_SERVER_MODULES = ("aiohttp", "fastapi", "prometheus_client", "starlette", "uvicorn", "yarl")
_LOG_LEVELS = ("critical", "error", "warning", "info", "debug")


def serve(
    model: Annotated[
        str | None,
        typer.Argument(help=f"With --embedded: a named model, a folder or a hub name [{_DEFAULT_MODEL}]."),
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(help="URL of an OpenAI-compatible server, with or without /v1.")
    ] = None,
    embedded: Annotated[bool, typer.Option("--embedded", help="Answer with the built-in engine.")] = False,
    config: Annotated[Path | None, typer.Option(help="Configuration file (YAML).")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8080,
    served_model_name: Annotated[
        str | None, typer.Option(help="With --embedded: the model's name in the API.")
    ] = None,
    log_level: Annotated[str, typer.Option(help=f"One of {', '.join(_LOG_LEVELS)}.")] = "warning",
) -> None:
    """Prune the context of requests on their way to an OpenAI-compatible server.

    \b
    Examples:
      tokenprune serve --upstream http://localhost:8000
      tokenprune serve --upstream http://localhost:8000/v1 --config tokenprune.yaml --port 9000
      tokenprune serve --embedded
      tokenprune serve --embedded smollm2-135m --port 8081
    """
    if (upstream is None) == (not embedded):
        raise typer.BadParameter("give either --upstream URL or --embedded [MODEL]")
    if not embedded and (model is not None or served_model_name is not None):
        raise typer.BadParameter("MODEL and --served-model-name belong to --embedded")
    if log_level not in _LOG_LEVELS:
        raise typer.BadParameter(f"--log-level must be one of {', '.join(_LOG_LEVELS)}")
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s")

    from tokenprune.errors import MissingExtraError, TokenPruneError

    try:
        # The address first: a taken port should not cost the time to load a model.
        with _listen(host, port) as sock:
            app = _create(upstream, model or _DEFAULT_MODEL, config, served_model_name)
            _run(app, sock, host, log_level)
    except ModuleNotFoundError as error:
        extra = "server" if (error.name or "").split(".")[0] in _SERVER_MODULES else "models"
        raise _failure(str(MissingExtraError("tokenprune serve", extra, error.name or ""))) from error
    except (TokenPruneError, OSError) as error:
        raise _failure(" ".join(str(error).split())) from error


def _failure(reason: str) -> typer.Exit:
    typer.echo(f"tokenprune serve: {reason}", err=True)
    return typer.Exit(1)


def _listen(host: str, port: int) -> socket.socket:
    from tokenprune_server.app import listen

    try:
        return listen(host, port)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _create(upstream: str | None, model: str, config: Path | None, served_name: str | None) -> Any:
    from tokenprune.config import load_config
    from tokenprune_server.app import create_app

    settings = load_config(str(config) if config is not None else None)
    if upstream is not None:
        return create_app(settings, upstream)
    from tokenprune_server.embedded import create_embedded_app

    return create_app(settings, create_embedded_app(model, served_name=served_name))


def _run(app: Any, sock: socket.socket, host: str, log_level: str) -> None:
    from tokenprune_server.app import uvicorn_config

    server = _server(uvicorn_config(app, log_level=log_level), sock, host)
    status = 130
    try:
        server.run(sockets=[sock])
        status = 0 if server.started else 1
    except KeyboardInterrupt:
        _leave(status)
        raise
    if status:
        raise typer.Exit(status)
    _leave(status)


def _leave(status: int) -> None:
    """End at once where threads still load a model or prune: Python would wait for what nobody waits for."""
    if any(t.is_alive() and t.name.startswith("tokenprune") for t in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _server(config: uvicorn.Config, sock: socket.socket, host: str) -> uvicorn.Server:
    import uvicorn

    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{sock.getsockname()[1]}"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                typer.echo(f"tokenprune is ready: {url}/v1 (playground: {url}/playground)", err=True)

    return Server(config)
