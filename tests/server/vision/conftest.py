"""A proxy that prunes pictures, in front of a stub."""

import pytest
from vision_world import Door, Reads, reading

from tokenprune_server.app import create_app


@pytest.fixture(scope="session")
def encoder():
    """The encoder, loaded; the proxies of this process use the same."""
    from tokenprune.vision.encoder import load_vision_encoder

    return load_vision_encoder("llava-mini", dtype="float32")


@pytest.fixture
def door(stub, serve, stand_in, encoder):
    """Start a proxy: settings of `server.vision`, how the stub reads, and settings of the server."""
    stub.models = b'{"object":"list","data":[{"id":"m","owned_by":"vllm","max_model_len":4096}]}'

    def start(reads=None, server=None, **vision):
        stub.script = reading(stub, reads or Reads())
        settings = {"model": "llava-mini", "dtype": "float32", "keep": 49, "timeout_s": 120} | vision
        app = create_app(stand_in(vision=settings, **(server or {})), stub.url)
        return Door(stub, serve(app), app)

    return start
