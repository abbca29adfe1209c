"""A tiny model, an upstream with its tokenizer, and a proxy between."""

import json
from types import SimpleNamespace

import httpx
import pytest
from token_world import PROMPT, URL, TokenUpstream, once_ready, save_model

from tokenprune_server.app import create_app


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    from tokenprune.models.causal_lm import load_causal_lm

    made = save_model(tmp_path_factory.mktemp("lm") / "model")
    load_causal_lm(str(made), dtype="float32")  # what takes long is done once, and before a client waits
    return made


@pytest.fixture(scope="session")
def tokenizer(folder):
    from tokenprune.models.causal_lm import load_tokenizer

    return load_tokenizer(str(folder))


@pytest.fixture
def door(folder, tokenizer, serve, stand_in):
    """Make a proxy in front of an upstream that takes ids: ``door(...)`` gives it with ``ask``.

    ``before`` is called with the app before it starts; the models need not be loaded then.
    """

    def make(upstream=None, *, tokens=None, config=None, before=None, **server):
        upstream = upstream or TokenUpstream(tokenizer)
        chooses = {"model": str(folder), "layer": 2, "keep": 60, "dtype": "float32"} | (tokens or {})
        settings = {"pipeline": "keep-all", "tokens": chooses} | server
        app = create_app(config or stand_in(**settings), serve(upstream))
        if before is not None:
            before(app)
        url = serve(app)
        if before is None:
            once_ready(url)

        def ask(path=URL, headers=None, **body):
            # A request that asks for it is pruned however slow the machine is.
            asks = {"tokenprune": {"enabled": True}}
            reads = {"messages": [{"role": "user", "content": PROMPT}]} if path == URL else {"prompt": PROMPT}
            body = {"model": "m"} | reads | asks | body
            return httpx.post(url + path, json=body, headers=headers, timeout=60)

        def events(**body):
            reply = ask(stream=True, **body)
            lines = [line for line in reply.text.split("\n\n") if line.startswith("data: ")]
            assert lines[-1] == "data: [DONE]"
            return reply, [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

        return SimpleNamespace(url=url, upstream=upstream, ask=ask, events=events, app=app)

    return make
