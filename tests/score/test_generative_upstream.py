"""The generative step asked of a server: what is sent, over which connections, and what its context leaves."""

import json
from collections import Counter

import httpx
import numpy as np
import pytest

from tokenprune.document import Document
from tokenprune.errors import ModelError
from tokenprune.score.generative import PathProbability
from tokenprune.score.generative_upstream import UpstreamPathModel
from tokenprune.score.two_step import TwoStep
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.tokens import get_counter


class Server:
    """Answers as vLLM does; a token is a byte, and all branches are as likely."""

    def __init__(self, models=()):
        self.models, self.clients = list(models), 0
        self.asked, self.longest = Counter(), 0

    def model(self, monkeypatch, name="m"):
        def client(model):
            self.clients += 1
            return httpx.Client(base_url=model.url, transport=httpx.MockTransport(self.answer))

        monkeypatch.setattr(UpstreamPathModel, "_client", client)
        return UpstreamPathModel("http://server", name)

    def answer(self, request):
        self.asked[request.url.path] += 1
        if request.url.path == "/v1/models":
            return httpx.Response(200 if self.models else 404, json={"data": self.models})
        body = json.loads(request.content)
        if request.url.path == "/tokenize":
            text = body["messages"][0]["content"] if "messages" in body else body["prompt"]
            return httpx.Response(200, json={"tokens": list(text.encode())})
        self.longest = max(self.longest, *(len(body["query"]) + len(item) for item in body["items"]))
        data = [{"index": i, "score": 0.5} for i in range(len(body["items"]))]
        return httpx.Response(200, json={"data": data})


def paragraphs(count):
    text = "".join(f"<p>river number {i} is long</p>" for i in range(count))
    return HtmlBlocks(8).segment(Document(text, kind="html"), get_counter())


def test_one_client_and_each_path_once(monkeypatch):
    server = Server()
    units = paragraphs(60)
    found = PathProbability(server.model(monkeypatch)).score("q", [units])
    assert len(found[0]) == 60 and server.clients == 1
    assert server.asked["/tokenize"] == 61
    model = server.model(monkeypatch)
    before = server.asked["/tokenize"]
    texts = [f"<p{i % 30}>" for i in range(300)]
    assert model.encode_many(texts) == [list(text.encode()) for text in texts]
    assert server.asked["/tokenize"] == before + 30


def test_no_more_is_sent_than_the_server_reads(monkeypatch):
    server = Server([{"id": "other", "max_model_len": 100}, {"id": "m", "max_model_len": 3000}])
    units = paragraphs(300)

    class First:
        def score(self, query, documents):
            return [np.arange(len(u), dtype=float) for u in documents]

    scorer = TwoStep(First(), PathProbability(server.model(monkeypatch)), 10**6)
    assert np.isfinite(scorer.score("q", [units])[0]).all()
    assert 2000 < server.longest < 3000 and server.clients == 1


@pytest.mark.parametrize(
    ("models", "room"),
    [
        ([{"id": "m", "max_model_len": 30}], 29),
        ([{"id": "a-name", "max_model_len": 30}], 29),
        ([{"id": "a", "max_model_len": 30}, {"id": "b", "max_model_len": 40}], None),
        ([{"id": "m"}], None),
        ([], None),
    ],
)
def test_room(monkeypatch, models, room):
    assert Server(models).model(monkeypatch).room() == room


def test_a_refusal_is_said(monkeypatch):
    server = Server()
    model = server.model(monkeypatch)
    monkeypatch.setattr(server, "answer", lambda request: httpx.Response(500, text="no"))
    with pytest.raises(ModelError, match="/tokenize answers 500: no"):
        model.encode_many([f"<p{i}>" for i in range(40)])
