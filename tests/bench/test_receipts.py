"""Which evidence is left, by hand-made receipts and through a real proxy."""

import shutil
from pathlib import Path

import pytest

from tokenprune.bench.case import Case
from tokenprune.bench.receipts import evidence_in, evidence_left, pruned_messages

DOC = "Cats sleep all day. A needle is lost in the hay. Dogs bark."
MESSAGES = (
    {"role": "system", "content": "The code is 7."},
    {"role": "user", "content": f"Context: {DOC}\n\nWhere?"},
)


def receipt(*kept):
    documents = [{"id": f"d{i}", "text": text, "kind": "text"} for i, (_, text) in enumerate(kept)]
    return {"results": [{"documents": documents, "originals": {f"d{i}": o for i, (o, _) in enumerate(kept)}}]}


@pytest.mark.parametrize(
    ("evidence", "kept", "share"),
    [
        (("A needle is lost",), "A needle is lost in the hay.", 1),
        (("A needle is lost",), "Dogs bark.", 0),
        (("a  NEEDLE\nis lost", "Cats sleep"), "A needle is lost in the hay.", 0.5),
        (("The code is 7.", "Dogs bark."), "", 0.5),  # outside of the document: untouched
        (("never there",), DOC, 0),
        ((), DOC, None),
    ],
)
def test_evidence_left(evidence, kept, share):
    case = Case("c", MESSAGES, "Where?", evidence=evidence)
    assert evidence_left(case, receipt((DOC, kept))) == share


def test_html_is_read_as_words():
    html = "<!doctype html><html><body><p>The <b>Cat</b>\n sat.</p></body></html>"
    assert evidence_in([html], ["the cat sat."]) == 1
    assert evidence_in(["1 < 2"], ["1 < 2"]) == 1
    assert evidence_in(["x"], []) is None


def test_pruned_messages():
    assert pruned_messages(MESSAGES, receipt((DOC, "Dogs bark."))) == [
        MESSAGES[0],
        {"role": "user", "content": "Context: Dogs bark.\n\nWhere?"},
    ]
    assert DOC in MESSAGES[1]["content"]
    assert pruned_messages(MESSAGES, receipt(("another text", "x"))) is None
    twice = ({"role": "user", "content": f"{DOC} {DOC}"},)
    assert pruned_messages(twice, receipt((DOC, "x"))) is None


@pytest.fixture
def real_proxy(tmp_path):
    """The project's own proxy in front of a URL, pruning with BM25."""
    import threading
    import time

    import uvicorn

    from tokenprune.config import load_config
    from tokenprune_server.app import create_app, listen, uvicorn_config

    started = []

    def start(upstream, more=""):
        config = tmp_path / "tokenprune.yaml"
        config.write_text("server:\n  pipeline: bm25-sentences\n  min_document_tokens: 40\n" + more)
        sock = listen("127.0.0.1", 0)
        settings = uvicorn_config(create_app(load_config(str(config)), upstream), log_level="critical")
        settings.timeout_graceful_shutdown = 2
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        started.append((server, thread, sock))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{sock.getsockname()[1]}"

    yield start
    for server, thread, sock in started:
        server.should_exit = True
        thread.join(10)
        sock.close()


@pytest.mark.parametrize("load", [{}, {"concurrency": 2, "rounds": 1}])
def test_evidence_through_the_real_proxy(stub, measured, real_proxy, load):
    model = stub()
    proxy = real_proxy(model.url)
    filler = " ".join(f"Sentence number {i} speaks of dogs and of rain." for i in range(40))
    context = f"{filler} The needle lies in the barn of Ulm. {filler}"

    def ask(name, question, text, evidence):
        content = f"Context:\n{text}\n\nQuestion: {question}"
        return Case(name, ({"role": "user", "content": content},), question, ("Paris",), evidence)

    found, lost = "The needle lies in the barn of Ulm.", "Sentence number 7 speaks of dogs"
    cases = [
        ask("long", "Where does the needle lie?", context, (found, lost)),
        ask("short", "Where does the needle lie?", found, (found,)),
    ]
    cases[0] = Case(**{**vars(cases[0]), "options": {"keep_ratio": 0.1}})
    report, screen, _ = measured(model.url, proxy, cases, **load)
    recall = {(r["case"], r["side"]): r["evidence_recall"] for r in report["rows"]}
    assert recall == {
        ("long", "direct"): 1, ("long", "pruned"): 0.5, ("short", "direct"): 1, ("short", "pruned"): 1,
    }  # fmt: skip
    assert report["decisions"] == {"pruned": 1, "skipped:no-documents": 1}
    assert report["quality"]["pruned"]["evidence_recall"] == 0.75 and "recall of evidence" in screen
    assert report["notes"] == []


def conversation(turns):
    """Cases of a conversation; each turn brings a document with a fact among filler, and asks for it."""
    messages, cases = (), []
    for n, (fact, evidence) in enumerate(turns):
        filler = " ".join(f"Sentence {i} of story {n} speaks of dogs and of rain." for i in range(40))
        question = f"Where does the {fact} lie?"
        text = f"{filler} The {fact} lies in the barn of Ulm. {filler}"
        content = f"Context:\n{text}\n\nQuestion: {question}"
        messages = (*messages, {"role": "user", "content": content})
        cases.append(
            Case(f"turn{n}", messages, question, ("Paris",), evidence, "talk", options={"keep_ratio": 0.1})
        )
        messages = (*messages, {"role": "assistant", "content": "Paris is it"})
    return cases


def test_a_later_turn_knows_what_its_earlier_turns_lost(stub, measured, real_proxy):
    model = stub()
    needle, nail = "The needle lies in the barn of Ulm.", "The nail lies in the barn of Ulm."
    lost = "Sentence 7 of story 0 speaks of dogs"
    turns = [("needle", (needle,)), ("nail", (nail, needle)), ("spoon", (lost, needle, nail))]
    report, _, _ = measured(model.url, real_proxy(model.url), conversation(turns), cache="warm", warmup=0)
    rows = [row for row in report["rows"] if row["side"] == "pruned"]
    assert [row["decision"] for row in rows] == ["pruned"] * 3
    assert [row["evidence_recall"] for row in rows] == [1, 1, pytest.approx(2 / 3, abs=1e-5)]
    sent = [r["messages"] for r in model.requests if len(r["messages"]) == 5]
    pruned = min(sent, key=lambda messages: len(messages[0]["content"]))
    assert lost not in pruned[0]["content"] and needle in pruned[0]["content"]
    assert report["notes"] == [] and report["quality"]["pruned"]["evidence_recall_n"] == 3


def test_requests_whose_receipts_are_gone_are_counted(stub, measured, real_proxy, tmp_path):
    model, needle = stub(), "The needle lies in the barn of Ulm."
    proxy = real_proxy(model.url, "  receipts_max_count: 1\n")
    cases = conversation([("needle", (needle,)), ("nail", (needle,))])
    report, screen, _ = measured(model.url, proxy, cases, cache="warm", warmup=0)
    recall = {row["case"]: row["evidence_recall"] for row in report["rows"] if row["side"] == "pruned"}
    assert recall == {"turn0": 1, "turn1": None}  # its own receipt has displaced that of the first turn
    assert "receipts of 1 pruned requests could not be had" in screen


def test_the_parts_of_a_request_through_the_real_proxy(stub, measured, real_proxy):
    model = stub(a=30)
    cases = conversation([("needle", ())])
    report, screen, html = measured(model.url, real_proxy(model.url), cases, rounds=3, warmup=0)
    found, row = report["breakdown"], next(r for r in report["rows"] if r["side"] == "pruned")
    assert found["requests"] == 3 and found["upstream_known"]
    assert sum(found["shown"].values()) == pytest.approx(found["ttft_ms"], abs=0.01)
    assert set(row["steps_ms"]) == {"count", "segment", "score", "select", "render"}
    assert 0 < sum(row["steps_ms"].values()) < row["prune_ms"]
    assert all(row["steps_ms"][step] > 0 for step in ("segment", "score", "select", "render"))
    assert 29 < row["upstream_ms"] <= row["ttft_ms"] - row["prune_ms"]
    assert "One request in parts" in screen and "One request in parts" in html


@pytest.mark.models
def test_nll_of_both_prompts(stub, measured, real_proxy, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    from tokenprune.models.catalog import model_path
    from tokenprune.models.causal_lm import load_causal_lm
    from tokenprune.quality import answer_nll

    config = LlamaConfig(
        vocab_size=49152, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    folder = tmp_path / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (source := Path(model_path("smollm2-135m")) / name).exists():
            shutil.copy(source, folder)
    model = stub()
    filler = " ".join(f"Sentence number {i} speaks of dogs and of rain." for i in range(12))
    content = (
        f"Context:\n{filler} The capital of France is Paris.\n\nQuestion: What is the capital of France?"
    )
    case = Case(
        "c", ({"role": "user", "content": content},), "What is the capital of France?", ("Paris",),
        options={"keep_ratio": 0.2},
    )  # fmt: skip
    report, screen, _ = measured(model.url, real_proxy(model.url), [case], nll=str(folder), warmup=0)
    direct, pruned = (report["quality"][side]["nll"] for side in ("direct", "pruned"))
    lm = load_causal_lm(str(folder))
    assert direct == pytest.approx(answer_nll(lm, case.messages, "Paris"), abs=1e-3)
    sent = model.requests[-1 if report["rows"][-1]["side"] == "pruned" else 0]["messages"][0]["content"]
    left = [{"role": "user", "content": sent.partition("\n\n")[2]}]
    assert len(sent) < len(content) and pruned == pytest.approx(answer_nll(lm, left, "Paris"), abs=1e-3)
    assert "NLL of the gold answer" in screen
