"""The admin routes and their place beside the proxy."""

import time

import httpx
import pytest

import tokenprune as tp
from tokenprune.config import Config
from tokenprune.errors import ConfigError
from tokenprune_server.app import create_app

TEXT = "The lighthouse was built in 1871.\nBells are sold at the market.\n" * 3
Q = "When was the lighthouse built?"


@pytest.fixture
def url(stub, serve, stand_in):
    return serve(create_app(stand_in(), stub.url))


def prune(url, **body):
    return httpx.post(f"{url}/v1/prune", json={"query": Q, "documents": [TEXT], **body})


class TestPrune:
    def test_result(self, url):
        response = prune(url, documents=[TEXT, {"text": "x", "id": "second", "kind": "text", "title": "T"}])
        result = response.json()
        assert response.status_code == 200
        assert set(result) >= {"documents", "receipts", "tokens_before", "tokens_after", "seconds"}
        assert result["documents"][0]["text"].count("1871") == 3
        assert "Bells" not in result["documents"][0]["text"]
        assert result["documents"][1]["id"] == "second"
        stored = httpx.get(f"{url}/v1/receipts/{response.headers['x-tokenprune-receipt']}").json()
        assert TEXT in stored["results"][0]["originals"].values()

    def test_budget_and_method(self, url):
        assert prune(url, max_tokens=0).json()["tokens_after"] == 0
        assert prune(url, method="drop-all").json()["tokens_after"] == 0
        assert prune(url, pipeline="default", keep_ratio=0.5).json()["tokens_after"] > 0

    def test_output(self, stub, serve):
        url = serve(create_app(Config(pipelines={"default": {"pruners": ["none"]}}), stub.url))
        page = {"text": "<h1>Tower</h1><p>The lighthouse was built in 1871.</p>", "kind": "html"}
        for output, text in (
            ("markdown", "# Tower\n\nThe"),
            ("text", "Tower\nThe"),
            ("same", "<h1>Tower</h1><p>The"),
        ):
            result = prune(url, documents=[page], method="clean-html", output=output).json()
            assert result["documents"][0]["text"].startswith(text)

    def test_half_a_character_comes_back(self, url):
        """As JSON can escape it and UTF-8 cannot hold it; the receipt, too."""
        raw = b'{"query": "Who?", "documents": ["\\ud83d half of it"], "method": "none"}'
        reply = httpx.post(f"{url}/v1/prune", content=raw, headers={"content-type": "application/json"})
        assert reply.status_code == 200
        assert reply.json()["documents"][0]["text"] == "\ud83d half of it"
        stored = httpx.get(f"{url}/v1/receipts/{reply.headers['x-tokenprune-receipt']}")
        assert stored.status_code == 200

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"method": "magic"}, ["magic", "drop-all"]),
            ({"method": "default", "pipeline": "default"}, ["not both"]),
            ({"max_tokens": 1, "keep_ratio": 0.5}, ["not both"]),
            ({"max_tokens": -1}, ["max_tokens"]),
            ({"max_tokens": "x"}, ["max_tokens", "integer"]),
            ({"max_tokens": True}, ["max_tokens", "integer"]),
            ({"keep_ratio": True}, ["keep_ratio", "number"]),
            ({"documents": "x"}, ["documents"]),
            ({"documents": [{"kind": "html"}]}, ["text"]),
            ({"documents": [{"text": "x", "kind": "pdf"}]}, ["kind"]),
            ({"query": None}, ["query"]),
            ({"output": "pdf"}, ["output", "markdown"]),
            ({"qery": "x"}, ["qery", "fields:"]),
        ],
    )
    def test_wrong_requests(self, url, body, words):
        response = prune(url, **body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        for word in words:
            assert word in error["message"]

    @pytest.mark.parametrize("path", ["/v1/prune", "/v1/prune/picture"])
    def test_a_body_that_is_too_large(self, stub, serve, stand_in, path):
        url = serve(create_app(stand_in(max_body_bytes=1000), stub.url))
        response = httpx.post(url + path, json={"query": Q, "documents": ["word " * 1000]})
        assert response.status_code == 413
        assert "server.max_body_bytes" in response.json()["error"]["message"]
        assert prune(url, documents=["short"]).status_code == 200

    def test_malformed_json(self, url):
        response = httpx.post(f"{url}/v1/prune", content=b"{", headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert "the request body is not valid JSON: " in response.json()["error"]["message"]

    def test_a_method_that_needs_no_query(self, stub, serve):
        config = Config.model_validate({"pipelines": {"default": {"pruners": ["bm25-sentences"]}}})
        url = serve(create_app(config, stub.url))
        page = {"text": "<nav><a href='/'>Home</a></nav><p>The lighthouse was built in 1871.</p>" * 9}
        response = httpx.post(f"{url}/v1/prune", json={"documents": [page], "method": "boilerplate"})
        assert response.status_code == 200
        assert response.json()["tokens_after"] < response.json()["tokens_before"]
        response = httpx.post(f"{url}/v1/prune", json={"documents": [TEXT]})
        assert response.status_code == 400
        assert "the query is empty" in response.json()["error"]["message"]

    @pytest.mark.parametrize("query", ["", "  "])
    def test_an_empty_query_is_the_callers_fault(self, stub, serve, query):
        config = Config.model_validate({"pipelines": {"default": {"pruners": ["bm25-sentences"]}}})
        response = prune(serve(create_app(config, stub.url)), query=query)
        assert response.status_code == 400
        assert "query" in response.json()["error"]["message"]

    def test_a_broken_pruner_is_a_500_in_openai_shape(self, url):
        response = prune(url, method="broken")
        assert (response.status_code, response.json()["error"]["code"]) == (500, 500)

    def test_deadline(self, stub, serve, stand_in):
        url = serve(create_app(stand_in(timeout_s=0.2), stub.url))
        assert prune(url, method="slow").status_code == 504

    @pytest.mark.parametrize(
        ("method", "path", "status"), [("GET", "/v1/prune", 405), ("GET", "/v1/receipts/x", 404)]
    )
    def test_other_errors(self, url, method, path, status):
        response = httpx.request(method, url + path)
        assert (response.status_code, response.json()["error"]["code"]) == (status, status)


class TestOptionsOfAMethod:
    @pytest.fixture
    def real(self, stub, serve):
        config = Config.model_validate({"pipelines": {"default": {"pruners": ["bm25-sentences"]}}})
        return serve(create_app(config, stub.url))

    def test_a_threshold_is_the_methods(self, real):
        text = "The lighthouse was built in 1871. The lighthouse is white. When? Bells are old. It was late."
        asked = {"documents": [text], "method": "bm25-sentences"}
        sizes = []
        for threshold in (0.0, 0.5, 4):
            result = prune(real, **asked, threshold=threshold).json()
            pipeline = tp.Pipeline([tp.pruner("bm25-sentences", threshold=threshold)])
            same = pipeline.prune(Q, asked["documents"]).to_dict()
            assert [d["text"] for d in result["documents"]] == [d["text"] for d in same["documents"]]
            sizes.append(result["tokens_after"])
        assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 1

    def test_the_options_of_provence(self, real):
        texts = [TEXT, "Bells are old.", "The lighthouse was built in 1871. It is white."]
        asked = {"documents": texts, "method": "provence"}
        tp.Pipeline(["provence"]).prune(Q, texts)  # loads the model before a client waits for it
        assert prune(real, **asked, top_k=3, threshold=0).json()["tokens_after"] > 20
        result = prune(real, **asked, top_k=1, threshold=0.0, output="text").json()
        (best,) = [document for document in result["documents"] if document["text"]]
        assert "1871" in best["text"]
        assert {u["reason"] for r in result["receipts"] for u in r["units"]} >= {"kept", "low-rank"}
        assert len(prune(real, **asked, top_k=2, max_tokens=12).json()["documents"]) == 3

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"threshold": 0.1}, ["threshold", "name one"]),
            ({"top_k": 1, "pipeline": "default"}, ["top_k", "'default' is a configured pipeline"]),
            ({"threshold": 0.1, "method": "magic"}, ["magic", "known names", "provence"]),
            ({"threshold": 0.1, "method": "provence", "max_tokens": 9}, ["only one of", "threshold"]),
            ({"threshold": 1.5, "method": "provence"}, ["threshold", "1.5"]),
            ({"threshold": "x", "method": "provence"}, ["threshold", "number"]),
            ({"threshold": True, "method": "provence"}, ["threshold", "number"]),
            ({"top_k": 0, "method": "provence"}, ["top_k", "1 or more"]),
            ({"top_k": 1.5, "method": "provence"}, ["top_k", "integer"]),
            ({"top_k": 2, "method": "tail"}, ["has no top_k", "provence"]),
            ({"top_k": 2, "threshold": 0, "method": "none"}, ["has no top_k", "has no threshold"]),
            ({"model": "x/y", "method": "provence"}, ["model", "fields:"]),
        ],
    )
    def test_wrong_ones(self, real, body, words):
        response = prune(real, **body)
        assert response.status_code == 400
        for word in words:
            assert word in response.json()["error"]["message"]


class TestHealth:
    def test_up(self, url):
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{url}/readyz").json() == {"status": "ready", "upstream": 200}

    def test_upstream_down(self, serve, stand_in, closed_port):
        url = serve(create_app(stand_in(), f"http://127.0.0.1:{closed_port}"))
        assert httpx.get(f"{url}/healthz").status_code == 200
        response = httpx.get(f"{url}/readyz")
        assert (response.status_code, response.json()["upstream"]) == (503, 502)
        assert 'tokenprune_upstream_errors_total{kind="connect"} 1.0' in httpx.get(f"{url}/metrics").text

    def test_a_default_pipeline_that_cannot_be_used(self, stub, serve, stand_in):
        url = serve(create_app(stand_in(pipeline="broken"), stub.url))
        deadline = time.monotonic() + 5
        while (response := httpx.get(f"{url}/readyz")).json()["reason"].startswith("loading"):
            assert time.monotonic() < deadline
        assert response.status_code == 503
        assert "'broken' cannot be used: the pruner is broken" in response.json()["reason"]
        body = {"messages": [{"role": "user", "content": f"Context:\n{TEXT * 9}\n\nQuestion: {Q}"}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert (answer.status_code, answer.headers["x-tokenprune-decision"]) == (
            200,
            "failed:ZeroDivisionError",
        )

    def test_a_default_pipeline_that_does_not_exist(self, stub, stand_in):
        with pytest.raises(ConfigError, match=r"server.pipeline: unknown .*'magic'.*drop-all"):
            create_app(stand_in(pipeline="magic"), stub.url)

    def test_metrics_of_both(self, url, stub):
        httpx.post(f"{url}/v1/chat/completions", json={"messages": []})
        text = httpx.get(f"{url}/metrics").text
        assert 'tokenprune_requests_total{decision="skipped:below-min-tokens"} 1.0' in text
        assert httpx.get(f"{url}/upstream/metrics?a=b").text == "{}"
        assert stub.last.target == b"/metrics?a=b"


@pytest.mark.parametrize(
    "path",
    ["/sleep", "/%73leep", "/upstream/sleep", "/v1/load_lora_adapter?x=1", "/sleep/", "//sleep",
     "/v1/%2e%2e/sleep", "/upstream//sleep"],
)  # fmt: skip
def test_control_routes_are_not_forwarded(url, stub, path):
    response = httpx.post(url + path, json={})
    assert (response.status_code, response.json()["error"]["code"]) == (404, 404)
    assert not stub.requests
    assert httpx.post(f"{url}/sleep2", json={}).status_code == 200


class TestKeys:
    @pytest.fixture
    def url(self, stub, serve, stand_in):
        return serve(create_app(stand_in(api_keys=["sk-1"]), stub.url))

    @pytest.mark.parametrize("path", ["/v1/receipts/x", "/v1/prune"])
    def test_admin_needs_one(self, url, path):
        response = httpx.get(url + path)
        assert (response.status_code, response.json()["error"]["type"]) == (401, "AuthenticationError")
        assert httpx.get(url + path, headers={"authorization": "Bearer sk-2"}).status_code == 401
        assert httpx.get(url + path, headers={"authorization": "Bearer sk-1"}).status_code in (404, 405)

    def test_the_cost_model_needs_one_too(self, url):
        assert httpx.get(f"{url}/v1/cost-model").status_code == 401
        shown = httpx.get(f"{url}/v1/cost-model", headers={"authorization": "Bearer sk-1"}).json()
        assert set(shown) == {"gate", "models", "methods", "prior", "ledger_bytes"}
        assert shown["prior"]["prefill"]["per_token_s"] == 0.001

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/playground"])
    def test_health_does_not(self, url, path):
        assert httpx.get(url + path).status_code == 200


def test_playground_is_one_page_without_foreign_parts(url):
    page = httpx.get(f"{url}/playground").text
    assert "<title>tokenprune" in page
    assert "http://" not in page
    assert '<option value="markdown">' in page
    assert "https://" not in page
    names = httpx.get(f"{url}/playground/names").json()
    assert "default" in names["pipelines"]
    assert names["methods"]
