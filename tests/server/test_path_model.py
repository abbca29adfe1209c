"""The generative step asked of a real vLLM: the same probabilities as those of the model in this process."""

import numpy as np
import pytest

import tokenprune as tp
from tokenprune.errors import ModelError
from tokenprune.score.generative import LocalPathModel, PathProbability
from tokenprune.score.generative_upstream import UpstreamPathModel
from tokenprune.score.path_trie import PathTrie
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.tokens import get_counter

pytestmark = [pytest.mark.vllm, pytest.mark.models, pytest.mark.timeout(420)]
PAGE = "<h2>Cats</h2><p>Cats sleep a lot.</p><p>Dogs bark.</p><ul><li>mice</li><li>rats</li></ul>"


def test_same_as_in_this_process(vllm_server):
    """vLLM computes in bfloat16, so the values agree to some hundredths."""
    units = HtmlBlocks(3).segment(tp.Document(PAGE, kind="html"), get_counter())
    local, served = LocalPathModel(dtype="float32"), UpstreamPathModel(vllm_server.url, "smollm2-135m")
    assert served.encode("<ul><li2>") == local.encode("<ul><li2>")
    assert served.prompt("What?") == local.prompt("What?")
    a, b = (PathProbability(m).score("What do cats do?", [units])[0] for m in (local, served))
    assert np.abs(a - b).max() < 0.25
    prompt = local.prompt("Where do cats sleep?")
    trie = PathTrie.build([local.encode(p) for p in ("<p1>", "<p2>", "<ul><li1>", "<ul><li2>")])
    with served._client() as client:
        echoed = served._echoed(client, prompt, trie)
    for node in trie.choices():
        for child in trie.children[node]:
            assert (node, int(trie.token[child])) in echoed
    weights = lambda n: np.asarray([echoed[n, int(t)] for t in trie.token[trie.children[n]]])  # noqa: E731
    assert np.abs(trie.score(weights) - served.score(prompt, trie)).max() < 0.25


def test_through_the_pruner(vllm_server):
    method = tp.pruner("htmlrag", upstream=f"{vllm_server.url}/v1", first="bm25", max_words=3)
    result = tp.Pipeline([method]).prune("Do cats sleep?", [tp.Document(PAGE)], tp.Budget(max_tokens=24))
    assert 0 < result.tokens_after <= 24
    assert all(r.stage == "htmlrag" for r in result.receipts[0].units)


def test_no_server(closed_port):
    model = UpstreamPathModel(f"http://127.0.0.1:{closed_port}", "m")
    with pytest.raises(ModelError, match="cannot be asked for path probabilities"):
        model.encode("x")
