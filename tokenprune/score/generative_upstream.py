"""Path probabilities from a served model, over HTTP: the generative step with no model of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenprune.arrays import FloatArray
from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.score.path_trie import PathTrie

if TYPE_CHECKING:
    import httpx

_AT_ONCE = 8  # requests for the tokens of paths; a server answers each within a millisecond or so
_TINY = 1e-300  # a probability that came back as 0 must have a logarithm


@dataclass(frozen=True)
class UpstreamPathModel:
    """A model behind vLLM.

    vLLM's ``/generative_scoring`` gives the probability of one next token behind many continuations of one
    prompt, so the prompt is prefilled once and then comes from the prefix cache: as many requests as there
    are different tokens at the branches. Servers without it are asked for the log probabilities of prompt and
    path (``echo``), which takes a whole prefill per path.

    Args:
        url: of the server, with or without ``/v1``.
        model: name under which the model is served.
        api_key: sent as a bearer token.
        timeout_s: seconds one request may take.
        client: asked instead of one that is made and closed for each question; see `opened`.
    """

    url: str
    model: str
    api_key: str | None = None
    timeout_s: float = 120.0
    client: httpx.Client | None = None

    @contextmanager
    def opened(self) -> Iterator[UpstreamPathModel]:
        """Yield the model with one client for all that is asked within the block."""
        with self._asking() as client:
            yield replace(self, client=client)

    def room(self) -> int | None:
        """Tokens of prompt and path, as ``/v1/models`` says; the server writes one token behind them."""
        import httpx

        with self._asking() as client:
            try:
                models = client.get("/v1/models").json()["data"]
                lengths = {m["id"]: m["max_model_len"] for m in models if m.get("max_model_len")}
            except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
                return None  # who is not reached says so when the prompt is asked for
        # A server with one model often answers to any name.
        length = lengths.get(self.model, next(iter(lengths.values())) if len(lengths) == 1 else None)
        return length - 1 if isinstance(length, int) else None

    def encode(self, text: str) -> list[int]:
        """Token ids of the server's tokenizer, without special tokens."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text by the server's tokenizer, without special tokens; equal ones ask once."""
        distinct = list(dict.fromkeys(texts))
        bodies = [{"prompt": text, "add_special_tokens": False} for text in distinct]
        with self._asking() as client, ThreadPoolExecutor(_AT_ONCE) as threads:
            found = list(threads.map(lambda body: self._tokens(client, body), bodies))
        ids = dict(zip(distinct, found, strict=True))
        return [ids[text] for text in texts]

    def prompt(self, text: str) -> list[int]:
        """Token ids of a user's message in the server's chat template."""
        body = {"messages": [{"role": "user", "content": text}], "add_generation_prompt": True}
        with self._asking() as client:
            return self._tokens(client, body)

    def score(self, prompt: Sequence[int], trie: PathTrie) -> FloatArray:
        """Log probability of each path of the trie, float64 [p].

        Raises:
            ModelError: the server cannot be reached, or refuses.
        """
        edges: dict[int, list[int]] = {}  # token -> the nodes it can follow where there is a choice
        for node in trie.choices():
            for child in trie.children[node]:
                edges.setdefault(int(trie.token[child]), []).append(node)
        if not edges:
            return np.zeros(len(trie.leaf))
        found: dict[tuple[int, int], float] = {}
        with self._asking() as client:
            for token, nodes in edges.items():
                scored = self._next_token(client, list(prompt), [_prefix(trie, n) for n in nodes], token)
                if scored is None:
                    found = self._echoed(client, list(prompt), trie)
                    break
                found |= {(node, token): p for node, p in zip(nodes, scored, strict=True)}
        return trie.score(
            lambda node: np.asarray([found[node, int(t)] for t in trie.token[trie.children[node]]])
        )

    def _next_token(
        self, client: httpx.Client, prompt: list[int], prefixes: list[list[int]], token: int
    ) -> list[float] | None:
        """Log probability of a token behind the prompt and each prefix; None: the server cannot tell."""
        body = {
            "model": self.model,
            "query": prompt[:-1],
            "items": [[prompt[-1], *prefix] for prefix in prefixes],  # none of them may be empty
            "label_token_ids": [token],
            "apply_softmax": False,
        }
        answer = self._post(client, "/generative_scoring", body, missing=True)
        if answer is None:
            return None
        by_index = {int(item["index"]): float(item["score"]) for item in answer["data"]}
        return [float(np.log(max(by_index[i], _TINY))) for i in range(len(prefixes))]

    def _echoed(
        self, client: httpx.Client, prompt: list[int], trie: PathTrie
    ) -> dict[tuple[int, int], float]:
        leaves = sorted(set(trie.leaf.tolist()) - {0})
        paths = [_prefix(trie, leaf) for leaf in leaves]
        body = {
            "model": self.model,
            "prompt": [prompt + path for path in paths],
            "max_tokens": 1,
            "temperature": 0,
            "echo": True,
            "logprobs": 1,
        }
        answer = self._post(client, "/v1/completions", body)
        found: dict[tuple[int, int], float] = {}
        for choice in answer["choices"] if answer else []:
            path = paths[int(choice["index"])]
            values = choice["logprobs"]["token_logprobs"][len(prompt) : len(prompt) + len(path)]
            node = 0
            for token, value in zip(path, values, strict=True):
                found[node, token] = float(value)
                node = next(c for c in trie.children[node] if int(trie.token[c]) == token)
        return found

    def _tokens(self, client: httpx.Client, body: dict[str, Any]) -> list[int]:
        answer = self._post(client, "/tokenize", {"model": self.model, **body})
        return [int(t) for t in answer["tokens"]] if answer else []

    @contextmanager
    def _asking(self) -> Iterator[httpx.Client]:
        if self.client is not None:
            yield self.client
            return
        with self._client() as client:
            yield client

    def _client(self) -> httpx.Client:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("scoring with a served model", "models", "httpx") from error
        root = self.url.rstrip("/").removesuffix("/v1")
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return httpx.Client(base_url=root, headers=headers, timeout=self.timeout_s)

    def _post(
        self, client: httpx.Client, path: str, body: dict[str, Any], *, missing: bool = False
    ) -> dict[str, Any] | None:
        import httpx

        try:
            response = client.post(path, json=body)
        except httpx.HTTPError as error:
            raise ModelError(f"{self.url} cannot be asked for path probabilities: {error}") from error
        if missing and response.status_code in (404, 405, 501):
            return None
        if response.status_code != 200:
            raise ModelError(f"{self.url}{path} answers {response.status_code}: {response.text[:300]}")
        answer: dict[str, Any] = response.json()
        return answer


def _prefix(trie: PathTrie, node: int) -> list[int]:
    path: list[int] = []
    while node > 0:
        path.append(int(trie.token[node]))
        node = int(trie.parent[node])
    return path[::-1]
