"""The whole way on a tiny random model with a real tokenizer."""

import pytest
from typer.testing import CliRunner

import tokenprune as tp
from tokenprune.cli.main import app

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tokenprune.models.catalog import model_path

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_path("smollm2-135m"))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1200, tie_word_embeddings=True,
        initializer_range=0.5, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tiny-lm")
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    from tokenprune.engine.decoder import Decoder
    from tokenprune.models.causal_lm import load_causal_lm

    lm = load_causal_lm(str(tiny_folder), dtype="float32")
    return lm, Decoder(lm.model, lm.name)


def test_one_prefill_sees_what_each_layer_says(loaded):
    """Heads, raw products and the last token of every layer, against early exits of the engine."""
    from tokenprune.calibrate.observe import observe
    from tokenprune.calibrate.prompts import items
    from tokenprune.engine.methods.gemfilter import scores_at
    from tokenprune.engine.rules import AttentionProbability, DotProduct, Look
    from tokenprune.engine.schedule import Marks
    from tokenprune.score.question_prompt import QuestionPrompt

    lm, decoder = loaded
    item = items(2, 300, 0, lambda text: len(lm.tokenizer(text)["input_ids"]))[0]
    seen = observe(decoder, lm.tokenizer, item, 1200)
    prompt = QuestionPrompt.write(lm.tokenizer, item.context, item.question)
    assert lm.tokenizer.decode([prompt.ids[i] for i in seen.window]).strip() == item.question
    ((start, end),) = item.answers
    assert item.context[start:end] in lm.tokenizer.decode([prompt.ids[i] for i in seen.answers[0]])
    assert sorted(seen.layers) == [1, 2]
    for layer, said in seen.layers.items():
        for head in (None, 0, 3):
            rule = AttentionProbability(None if head is None else (head,))
            exact = (
                scores_at(decoder, prompt.ids, (Look(layer, rule),), Marks(seen.window)).scores * seen.size
            )
            got = said.heads.float().mean(0) if head is None else said.heads[head].float()
            assert torch.allclose(got, exact, atol=1e-3, rtol=2e-3)
            most = AttentionProbability(rule.heads, peak=True)
            exact = (
                scores_at(decoder, prompt.ids, (Look(layer, most),), Marks(seen.window)).scores * seen.size
            )
            got = said.probability(peak=True)
            got = got.mean(0) if head is None else got[head]
            assert torch.allclose(got, exact, atol=1e-3, rtol=2e-3)
        raw = scores_at(decoder, prompt.ids, (Look(layer, DotProduct()),), Marks(seen.window)).scores
        assert torch.allclose(said.raw, raw, atol=1e-3)
        last = scores_at(decoder, prompt.ids, (Look(layer, DotProduct()),), Marks()).scores
        assert torch.allclose(said.last, last, atol=1e-3)


def test_command_writes_what_the_methods_find(tiny_folder, loaded, tmp_path, monkeypatch):
    from tokenprune.engine.calibration import known, read
    from tokenprune.engine.methods.gemfilter import QuestionGemFilter
    from tokenprune.models.once import Once
    from tokenprune.score import prompt_attention

    monkeypatch.setenv("TOKENPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(prompt_attention, "_decoders", Once())
    model = str(tiny_folder)
    text = " ".join(f"Line {n} says little." for n in range(60))

    def prune():
        pipe = tp.Pipeline([tp.pruner("gemfilter-q", model=model, dtype="float32")])
        return pipe.prune("What does it say?", [text], tp.Budget(50))

    (note,) = prune().receipts[0].notes
    assert "layer 2 of 4 is a guess" in note and "tokenprune calibrate" in note
    command = ["calibrate", model, "--prompts", "8", "--tokens", "300", "--dtype", "float32"]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    (path,) = (tmp_path / "calibrations").iterdir()
    found = read(path)
    assert path.name in ran.output.replace("\n", "") and "gemfilter-q: layer" in ran.output
    assert found.depth == 4 and [row["layer"] for row in found.layers] == [1, 2]
    assert set(found.question.kept) == {64} and "8 prompts" in found.prompts
    monkeypatch.setattr(prompt_attention, "_decoders", Once())
    assert prune().receipts[0].notes == ()
    assert known(prompt_attention._load(model, "float32")[1]).calibration == found

    out = tmp_path / "here.json"
    again = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert again.exit_code == 0 and read(out) == found

    # A layer that is named is looked at with its own best heads, in the file and by the methods.
    ran = CliRunner().invoke(app, [*command, "--out", str(out), "--layer", "1"])
    named = read(out)
    assert ran.exit_code == 0 and named.question.layer == 1
    assert named.question == found.choices[0] == found.asked(1) and found.asked(None) == found.question
    method = QuestionGemFilter(layer=1)
    assert method.choice(loaded[1]) == found.choices[0]
    assert QuestionGemFilter(layer=1, kernel=3).choice(loaded[1]).kernel == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tokens", "1100"], "prompts can have 1000"),
        (["--tokens", "20"], "256 tokens or more"),
        (["--prompts", "1", "--tokens", "300"], "4 to 96 prompts"),
        (["--prompts", "3", "--tokens", "300"], "4 to 96 prompts"),
        (["--tolerance", "1.5"], "tolerance must lie in [0, 1]"),
        (["--tolerance", "nan"], "tolerance must lie in [0, 1]"),
        (["--out", "."], "it is a folder"),
        (["--out", "/dev/null/here.json"], "cannot write /dev/null/here.json"),
        (["--layer", "3"], "1..2"),
    ],
)
def test_wrong_options(tiny_folder, loaded, options, words):
    ran = CliRunner().invoke(app, ["calibrate", str(tiny_folder), "--dtype", "float32", *options])
    assert ran.exit_code == 1 and words in str(ran.exception)
