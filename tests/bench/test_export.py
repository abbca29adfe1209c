"""vLLM's custom dataset format, read by vLLM's own reader where it can be imported."""

import json

import pytest

from tokenprune.bench.case import Case
from tokenprune.bench.export import vllm_row, write_vllm
from tokenprune.bench.workloads import load
from tokenprune.errors import ConfigError
from tokenprune_server.protocols.base import Rules
from tokenprune_server.protocols.chat import ChatProtocol

EXPORTED = ["rag-nq20", "rag-html", "shared-document", "needle", "few-shot"]


@pytest.mark.parametrize("name", EXPORTED)
def test_lines_are_prompts(name, tmp_path):
    cases = load(name, 5)
    path = tmp_path / "a" / "out.jsonl"
    assert write_vllm(cases, path) == 5
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for case, row in zip(cases, rows, strict=True):
        system, user = (m["content"] for m in case.messages)
        assert row == {"prompt": f"{system}\n\n{user}", "output_tokens": case.max_tokens}


@pytest.mark.parametrize("name", ["rag-nq20", "rag-html", "shared-document", "needle"])
def test_the_proxy_still_finds_question_and_context(name):
    cases = load(name, 10)
    asked = inside = whole = 0
    for case in cases:
        # As vLLM's client sends it.
        parts = [{"type": "text", "text": vllm_row(case)["prompt"]}]
        place = ChatProtocol().locate({"messages": [{"role": "user", "content": parts}]}, Rules())
        spans = [span.text for job in place.jobs for span in job.spans]
        asked += place.jobs[0].query == case.question
        inside += sum(map(len, spans))
        whole += len(parts[0]["text"])
    assert asked >= 9
    assert inside >= 0.9 * whole


@pytest.mark.parametrize("name", ["chat-long", "agent-tools"])
def test_turns_do_not_fit(name, tmp_path):
    path = tmp_path / "out.jsonl"
    with pytest.raises(ConfigError, match="vLLM's custom dataset holds one prompt a line"):
        write_vllm(load(name, 2), path)
    assert not path.exists()


def test_what_cannot_be_written(tmp_path):
    parts = Case("p", ({"role": "user", "content": [{"type": "text", "text": "x"}]},), "x")
    with pytest.raises(ConfigError, match="case 'p' has a message whose content is no text"):
        vllm_row(parts)
    with pytest.raises(ConfigError, match=r"only from files named \*\.jsonl, not 'x\.json'"):
        write_vllm([], tmp_path / "x.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        write_vllm([], tmp_path / "file" / "x.jsonl")


@pytest.mark.slow
def test_vllm_reads_it(tmp_path):
    pytest.importorskip("pandas")
    datasets = pytest.importorskip("vllm.benchmarks.datasets")
    from transformers import AutoTokenizer

    from tokenprune.models.catalog import model_path

    cases = load("rag-nq20", 3)
    path = tmp_path / "out.jsonl"
    write_vllm(cases, path)
    dataset = datasets.CustomDataset(dataset_path=str(path), disable_shuffle=True, random_seed=0)
    tokenizer = AutoTokenizer.from_pretrained(model_path("smollm2-135m"))
    requests = dataset.sample(tokenizer, 3, skip_chat_template=True, output_len=-1, no_oversample=True)
    assert [r.prompt for r in requests] == [vllm_row(c)["prompt"] for c in cases]
    assert [r.expected_output_len for r in requests] == [32] * 3
    assert all(r.prompt_len > 1500 for r in requests)
