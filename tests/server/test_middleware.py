"""PruneMiddleware between a real client and a stub upstream."""

import gzip
import json

import httpx
import openai
import pytest

from tokenprune.config import Config
from tokenprune.tokens import get_counter
from tokenprune_server.app import create_app
from tokenprune_server.options import Options

NOISE = "The old market sells bells, ribbons and hats on every rainy day of the week, as it always has done."
FACT = "The lighthouse was built in 1871 by the harbour board."
Q = "When was the lighthouse built?"
DOCUMENT = "\n".join([NOISE] * 10 + [FACT] + [NOISE] * 10)
PROMPT = f"Context:\n{DOCUMENT}\n\nQuestion: {Q}"
PRUNED = f"Context:\n{FACT}\n\nQuestion: {Q}"
URL = "/v1/chat/completions"


def chat(content=PROMPT, **more):
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


def sent(stub):
    return json.loads(stub.last.body)


def said(stub):
    return sent(stub)["messages"][-1]["content"]


class TestPruning:
    def test_a_request_is_pruned_and_says_so(self, post, stub):
        response = post(chat(temperature=0.5, stop=["\n"], user="é"))
        assert response.status_code == 200
        assert sent(stub) == chat(PRUNED, temperature=0.5, stop=["\n"], user="é")
        assert stub.last.values(b"content-length") == [str(len(stub.last.body)).encode()]
        headers = response.headers
        assert headers["x-tokenprune-decision"] == "pruned"
        assert int(headers["x-tokenprune-tokens-before"]) == get_counter().count(DOCUMENT)
        assert int(headers["x-tokenprune-tokens-after"]) == get_counter().count(FACT)
        assert float(headers["x-tokenprune-ms"]) > 0
        assert headers["x-tokenprune-receipt"].startswith("rcpt_")

    def test_the_receipt_gives_the_original_back(self, stub, serve, stand_in):
        url = serve(create_app(stand_in(), stub.url))
        receipt = httpx.post(url + URL, json=chat()).headers["x-tokenprune-receipt"]
        stored = httpx.get(f"{url}/v1/receipts/{receipt}").json()
        assert stored["query"] == Q
        assert stored["results"][0]["originals"] == {"messages.0.content#0": DOCUMENT}
        assert stored["results"][0]["documents"][0]["text"] == FACT
        assert stored["results"][0]["receipts"][0]["units"][0]["start"] == 0

    @pytest.mark.parametrize("streamed", [True, False])
    def test_the_receipt_says_how_long_the_upstream_took(self, stub, serve, stand_in, streamed):
        async def script(request, writer):
            if not streamed:
                await stub.answer(writer, b'{"choices":[{"message":{"content":"In 1871"}}]}')
                return
            await stub.begin_chunked(writer)
            await stub.chunk(writer, b'data: {"choices":[{"delta":{"content":"In"}}]}\n\n')
            await stub.chunk(writer)

        stub.script = script
        url = serve(create_app(stand_in(), stub.url))
        receipt = httpx.post(url + URL, json=chat(stream=streamed)).headers["x-tokenprune-receipt"]
        assert httpx.get(f"{url}/v1/receipts/{receipt}").json()["timing"]["upstream"] > 0

    def test_completions(self, post, stub):
        response = post({"model": "m", "prompt": PROMPT}, "/v1/completions")
        assert response.headers["x-tokenprune-decision"] == "pruned"
        assert sent(stub) == {"model": "m", "prompt": PRUNED}

    def test_tool_messages_and_parts(self, post, stub):
        call = {
            "id": "c1",
            "type": "function",
            "function": {"name": "get", "arguments": json.dumps({"a": NOISE * 9})},
        }
        body = {
            "model": "m",
            "messages": [
                {"role": "system", "content": DOCUMENT},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": DOCUMENT}, {"type": "text", "text": Q}],
                },
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": DOCUMENT},
                {"role": "tool", "tool_call_id": "c2", "content": json.dumps({"rows": [1] * 400})},
            ],
            "tools": [{"type": "function", "function": {"name": "get", "description": NOISE * 9}}],
        }
        assert post(body).headers["x-tokenprune-decision"] == "pruned"
        expected = json.loads(json.dumps(body))
        expected["messages"][1]["content"][0]["text"] = FACT
        expected["messages"][3]["content"] = FACT
        assert sent(stub) == expected

    ASKED_APART = [{"role": "user", "content": DOCUMENT}, {"role": "user", "content": Q}]

    def test_a_document_in_the_message_before_the_question(self, post, stub):
        body = {"model": "m", "messages": self.ASKED_APART}
        assert post(body, gate="off").headers["x-tokenprune-decision"] == "pruned"
        assert [message["content"] for message in sent(stub)["messages"]] == [FACT, Q]

    @pytest.mark.parametrize("options", [{"max_tokens": 50}, {"keep_ratio": 0.2}, {"enabled": True}])
    @pytest.mark.parametrize("gate", ["on", "off"])
    def test_a_document_before_the_last_answer_is_pruned_when_asked(self, post, stub, options, gate):
        messages = [self.ASKED_APART[0], {"role": "assistant", "content": "ok"}, self.ASKED_APART[1]]
        body = {"model": "m", "messages": messages, "tokenprune": options}
        assert post(body, gate=gate).headers["x-tokenprune-decision"] == "pruned"
        assert [message["content"] for message in sent(stub)["messages"]] == [FACT, "ok", Q]
        del body["tokenprune"]
        response = post(body | {"user": "another"}, gate="off")  # nobody asks
        assert response.headers["x-tokenprune-decision"] == "skipped:no-documents"
        assert sent(stub)["messages"] == messages

    def test_what_the_user_says_before_the_question_stays(self, post, stub):
        said = "My name is Ann. I want all answers in French, please, and as short as you can make them." * 2
        body = {"model": "m", "messages": [{"role": "user", "content": said}, *self.ASKED_APART]}
        assert post(body, gate="off").headers["x-tokenprune-decision"] == "pruned"
        assert [message["content"] for message in sent(stub)["messages"]] == [said, FACT, Q]

    def test_a_trailing_slash_changes_nothing(self, post, stub):
        assert (
            post(chat(tokenprune={"max_tokens": 100}), URL + "/").headers["x-tokenprune-decision"] == "pruned"
        )
        assert (stub.last.target, sent(stub)) == (URL.encode() + b"/", chat(PRUNED))

    def test_root_path(self, stub, serve, stand_in):
        app = create_app(stand_in(), stub.url)

        async def mounted(scope, receive, send):
            if scope["type"] == "http":
                scope = {
                    **scope,
                    "root_path": "/api",
                    "path": "/api" + scope["path"],
                    "raw_path": b"/api" + scope["raw_path"],
                }
            await app(scope, receive, send)

        response = httpx.post(serve(mounted) + URL, json=chat())
        assert response.headers["x-tokenprune-decision"] == "pruned"
        assert stub.last.target == URL.encode()

    def test_official_client(self, stub, serve, stand_in):
        async def script(request, writer):
            await stub.begin_chunked(writer)
            for word in ("in", " 1871"):
                event = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
                event["choices"] = [{"index": 0, "delta": {"content": word}, "finish_reason": None}]
                await stub.chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")
            await stub.chunk(writer, b"data: [DONE]\n\n")
            await stub.chunk(writer)

        stub.script = script
        url = serve(create_app(stand_in(), stub.url))
        with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-1", max_retries=0) as client:
            stream = client.chat.completions.create(
                model="m",
                stream=True,
                messages=[{"role": "user", "content": PROMPT}],
                extra_body={"tokenprune": {"max_tokens": 100}},
            )
            assert "".join(event.choices[0].delta.content for event in stream) == "in 1871"
        assert said(stub) == PRUNED
        assert "tokenprune" not in sent(stub)
        assert stub.last.values(b"authorization") == [b"Bearer sk-1"]


class TestOptions:
    def test_contexts_that_are_no_list(self, post, stub):
        response = post(chat(tokenprune={"contexts": "x"}))
        assert response.status_code == 400
        assert "tokenprune.contexts: Input should be a list" in response.json()["error"]["message"]

    def test_max_tokens(self, post, stub):
        post(chat(tokenprune={"max_tokens": 3}))
        assert FACT not in said(stub)
        response = post(chat(tokenprune={"max_tokens": 10_000}))
        assert response.headers["x-tokenprune-decision"] == "skipped:fits-budget"
        assert sent(stub) == chat()

    def test_headers_are_options_and_stay_here(self, post, stub):
        response = post(chat(), headers={"x-tokenprune-enabled": "false"})
        assert response.headers["x-tokenprune-decision"] == "skipped:disabled"
        post(chat(), headers={"x-tokenprune-pipeline": "drop-all", "x-tokenprune-keep-ratio": "0.5"})
        assert said(stub) == PRUNED.replace(FACT, "")
        assert not [name for name, _ in stub.last.headers if b"tokenprune" in name.lower()]

    def test_of_two_proxies_the_first_one_speaks(self, stub, serve):
        pipelines = {"default": {"pruners": ["bm25-sentences"]}}
        inner = serve(create_app(Config(pipelines=pipelines, server={"min_document_tokens": 9999}), stub.url))
        url = serve(create_app(Config(pipelines=pipelines, server={"min_document_tokens": 1}), inner))
        response = httpx.post(url + URL, json=chat(tokenprune={"max_tokens": 40}))
        assert response.headers.get_list("x-tokenprune-decision") == ["pruned"]
        assert len(response.headers.get_list("x-tokenprune-ms")) == 1

    def test_the_body_wins_over_headers(self, post, stub):
        headers = {"x-tokenprune-pipeline": "drop-all", "x-tokenprune-max-tokens": "1"}
        post(chat(tokenprune={"method": "default", "keep_ratio": 0.9}), headers=headers)
        assert said(stub) == PRUNED

    def test_disabled_by_default_and_enabled_by_request(self, post, stub):
        assert post(chat(), enabled=False).headers["x-tokenprune-decision"] == "skipped:disabled"
        response = post(chat(tokenprune={"enabled": True}), enabled=False)
        assert response.headers["x-tokenprune-decision"] == "pruned"

    def test_query(self, post, stub):
        post(chat(tokenprune={"query": "Who sells ribbons at the market?"}))
        assert FACT not in said(stub)
        assert NOISE in said(stub)

    def test_contexts(self, post, stub):
        contexts = [
            DOCUMENT,
            {"text": NOISE + "\n" + FACT, "title": "Harbour", "id": "h", "kind": "text"},
            NOISE,
        ]
        response = post(chat(Q, tokenprune={"contexts": contexts}))
        assert response.headers["x-tokenprune-decision"] == "pruned"
        assert said(stub) == f"Context:\n[1]\n{FACT}\n\n[2] Title: Harbour\n{FACT}\n\n{Q}"

    def test_a_method_that_reorders(self, stub, serve, tiny):
        """Contexts come in the order of their ranks; what stands in a message stays where it stands."""
        method = {
            "name": "provence",
            "model": str(tiny("open-modernbert").folder),
            "reorder": True,
            "threshold": 0,
        }
        config = Config(pipelines={"default": {"pruners": [method]}}, server={"min_document_tokens": 1})
        url = serve(create_app(config, stub.url))
        contexts = [{"text": f"{word} is a word of hats.", "id": word, "kind": "text"} for word in "abcdef"]
        response = httpx.post(url + URL, json=chat(tokenprune={"contexts": contexts}))
        receipts = httpx.get(f"{url}/v1/receipts/{response.headers['x-tokenprune-receipt']}").json()
        ranked = receipts["results"][0]["receipts"]
        assert [r["rank"] for r in ranked] == sorted((r["rank"] for r in ranked), reverse=True)
        order = [r["document_id"] for r in ranked if len(r["document_id"]) == 1]
        assert order != sorted(order)
        shown = "\n\n".join(f"[{n}]\n{word} is a word of hats." for n, word in enumerate(order, 1))
        assert said(stub) == f"Context:\n{shown}\n\n{PROMPT}"

    @pytest.mark.parametrize("in_header", [True, False])
    def test_output(self, stub, serve, in_header):
        config = Config(pipelines={"default": {"pruners": ["clean-html"]}}, server={"min_document_tokens": 1})
        url = serve(create_app(config, stub.url))
        context = {
            "text": "<h2 class=a>Hay</h2><p>A needle.</p><ul><li>One</li><li>Two</li></ul>" * 9,
            "kind": "html",
        }
        options = {"contexts": [context], "output": "markdown"}
        headers = {"x-tokenprune-output": options.pop("output")} if in_header else {}
        httpx.post(f"{url}/v1/chat/completions", json=chat(Q, tokenprune=options), headers=headers)
        assert "[1]\n## Hay\n\nA needle.\n\n- One\n- Two\n\n## Hay" in said(stub)

    @pytest.mark.parametrize("options", [{"enabled": False}, {"pipeline": "broken"}])
    def test_contexts_arrive_even_when_nothing_is_pruned(self, post, stub, options):
        post(chat(Q, tokenprune={"contexts": [DOCUMENT], **options}))
        assert said(stub) == f"Context:\n[1]\n{DOCUMENT}\n\n{Q}"

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (7, ["tokenprune", "object"]),
            ({"max_token": 5}, ["max_token", "known options", "max_tokens", "keep_ratio", "contexts"]),
            ({"max_tokens": "many"}, ["max_tokens", "integer"]),
            ({"max_tokens": -1}, ["max_tokens"]),
            ({"keep_ratio": 1.5}, ["keep_ratio"]),
            ({"keep_ratio": 0.5, "max_tokens": 5}, ["not both"]),
            ({"enabled": "yes"}, ["enabled", "boolean"]),
            ({"method": "magic"}, ["'magic'", "default", "drop-all"]),
            ({"pipeline": "magic"}, ["'magic'", "default", "drop-all"]),
            ({"output": "pdf"}, ["output", "markdown"]),
            ({"contexts": "text"}, ["contexts"]),
            ({"contexts": [{"txt": "x"}]}, ["contexts"]),
            ({"contexts": [{"text": "x", "id": "a"}, {"text": "y", "id": "a"}]}, ["ids"]),
        ],
    )
    def test_wrong_options(self, post, stub, options, words):
        response = post(chat(tokenprune=options))
        assert response.status_code == 400
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"].startswith("tokenprune")
        for word in words:
            assert word in error["message"]
        assert not stub.requests

    def test_an_unknown_method_is_an_error_even_without_documents(self, post, stub):
        response = post(chat("Hello", tokenprune={"method": "magic"}))
        assert (response.status_code, len(stub.requests)) == (400, 0)

    @pytest.mark.parametrize(
        "headers",
        [
            {"x-tokenprune-max-tokens": "x"},
            {"x-tokenprune-enabled": "maybe"},
            {"x-tokenprune-magic": "1"},
            {"x-tokenprune-keep-ratio": "x"},
            {"x-tokenprune-keep-ratio": "7"},
            {"x-tokenprune-keep-ratio": "nan"},
            {"x-tokenprune-max-tokens": "1_0"},
            {"x-tokenprune-max-tokens": "\u0661".encode()},
        ],
    )
    def test_wrong_headers(self, post, headers):
        response = post(chat(), headers=headers)
        assert response.status_code == 400

    def test_options_are_documented(self):
        assert all(name in Options.__doc__ for name in Options.model_fields)


class TestUntouched:
    @pytest.mark.parametrize(
        ("body", "decision"),
        [
            (b'{"model":"m",  "messages":[ {"role":"user","content":"Hi"} ]}', "below-min-tokens"),
            (json.dumps(chat(NOISE, pad="x" * 2000), indent=3).encode(), "no-documents"),
            (
                json.dumps({"messages": [*chat(NOISE)["messages"] * 3], "pad": "x" * 2000}).encode(),
                "below-min-tokens",
            ),
            (json.dumps({"messages": [{"role": "system", "content": DOCUMENT}]}).encode(), "no-documents"),
            (json.dumps(chat(DOCUMENT)).encode(), "no-query"),
            (json.dumps(chat(f"{DOCUMENT}\n\nSummarize the text.")).encode(), "whole-text"),
            (json.dumps({"prompt": f"Q: {NOISE}\nA: yes\n\n" * 9 + f"Q: {FACT}\nA:"}).encode(), "few-shot"),
            (json.dumps({"prompt": [1, 2, 3] * 300}).encode(), "no-documents"),
            (json.dumps({"pad": "x" * 2000}).encode(), "no-documents"),
        ],
    )
    def test_bytes_stay(self, post, stub, body, decision):
        response = post(body, "/v1/completions" if b"prompt" in body else URL)
        assert stub.last.body == body
        assert response.headers["x-tokenprune-decision"] == f"skipped:{decision}"
        assert "x-tokenprune-receipt" not in response.headers

    def test_nothing_to_drop(self, post, stub):
        body = json.dumps(chat()).encode()
        response = post(body, headers={"x-tokenprune-pipeline": "keep-all"})
        assert response.headers["x-tokenprune-decision"] == "skipped:nothing-to-drop"
        assert stub.last.body == body

    def test_other_routes_have_no_headers(self, post, stub):
        body = json.dumps(chat(tokenprune={"x": 1})).encode()
        response = post(body, "/v1/embeddings")
        assert stub.last.body == body
        assert not [name for name in response.headers if "tokenprune" in name]

    def test_too_large_bodies_are_streamed(self, post, stub):
        body = json.dumps(chat(DOCUMENT * 200)).encode()
        response = post(body, max_body_bytes=100_000)
        assert response.headers["x-tokenprune-decision"] == "skipped:too-large"
        assert stub.last.body == body

    @pytest.mark.parametrize("encoding", ["br", "gzip"])
    def test_unreadable_encodings(self, post, stub, encoding):
        response = post(b"\x1f\x8bnot really", headers={"content-encoding": encoding})
        assert response.headers["x-tokenprune-decision"] == "skipped:encoding"
        assert stub.last.body == b"\x1f\x8bnot really"
        assert stub.last.values(b"content-encoding") == [encoding.encode()]

    def test_gzip_bombs_are_not_unpacked(self, post, stub):
        body = gzip.compress(json.dumps(chat("a" * 10_000_000)).encode())
        response = post(body, headers={"content-encoding": "gzip"}, max_body_bytes=100_000)
        assert response.headers["x-tokenprune-decision"] == "skipped:encoding"
        assert stub.last.body == body

    def test_gzip_is_read(self, post, stub):
        post(gzip.compress(json.dumps(chat()).encode()), headers={"content-encoding": "gzip"})
        assert said(stub) == PRUNED
        assert stub.last.values(b"content-encoding") == []

    def test_errors_of_the_upstream_stay(self, post, stub):
        async def script(request, writer):
            await stub.answer(writer, b'{"error":"Unauthorized"}', b"401 Unauthorized")

        stub.script = script
        response = post(chat())
        assert (response.status_code, response.content) == (401, b'{"error":"Unauthorized"}')
        assert response.headers["x-tokenprune-decision"] == "pruned"

    def test_strangers_cost_no_pruning(self, post, stub):
        response = post(chat(), api_keys=["sk-1"])
        assert response.headers["x-tokenprune-decision"] == "skipped:unauthorized"
        assert sent(stub) == chat()
        response = post(chat(), api_keys=["sk-1"], headers={"authorization": "Bearer sk-1"})
        assert response.headers["x-tokenprune-decision"] == "pruned"


UNFIT = ['"temperature":1e400', '"seed":NaN', '"bias":[-Infinity]', '"user":"a","user":"b"']


class TestBadBodies:
    @pytest.mark.parametrize("member", UNFIT)
    def test_what_cannot_be_written_again_stays(self, post, stub, member):
        body = (json.dumps(chat())[:-1] + f",{member}}}").encode()
        response = post(body)
        assert response.headers["x-tokenprune-decision"] == "skipped:encoding"
        assert stub.last.body == body

    @pytest.mark.parametrize("member", UNFIT)
    def test_what_cannot_be_written_again_has_no_options(self, post, stub, member):
        response = post((json.dumps(chat(tokenprune={}))[:-1] + f",{member}}}").encode())
        assert response.status_code == 400
        assert "cannot be rewritten" in response.json()["error"]["message"]
        assert not stub.requests

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"",
            b"[1]",
            b'"x"',
            b"\xff\xfe{",
            b'{"a": "\xff"}',
            b"[" * 200_000,
            b'{"a":' * 100_000,
            b"nul\x00",
        ],
    )
    def test_malformed_json(self, post, stub, body):
        response = post(body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["code"] == 400
        assert "JSON" in error["message"]
        assert response.headers["x-tokenprune-decision"] == "failed:bad-request"
        assert not stub.requests

    def test_surrogates_and_nul_survive(self, post, stub):
        body = chat(PROMPT, user="\ud800\x00\u2028")
        post(json.dumps(body).encode())
        assert sent(stub) == {**body, "messages": chat(PRUNED)["messages"]}
