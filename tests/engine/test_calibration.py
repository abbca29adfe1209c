import json
import logging
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from tokenprune.engine import calibration  # noqa: E402
from tokenprune.engine.calibration import Calibration, Choice, fallback, look_up, parse, store  # noqa: E402
from tokenprune.engine.decoder import Decoder, go_on  # noqa: E402
from tokenprune.engine.fingerprint import fingerprint  # noqa: E402
from tokenprune.engine.methods.gemfilter import GemFilter, QuestionGemFilter, scores_at  # noqa: E402
from tokenprune.engine.methods.lazyllm import LazyLLM  # noqa: E402
from tokenprune.engine.reading import read_prompt  # noqa: E402
from tokenprune.engine.rules import AttentionProbability, DotProduct, Look, Pooled, Relative  # noqa: E402
from tokenprune.engine.schedule import Drop, Marks, TokenDropSchedule  # noqa: E402
from tokenprune.errors import ConfigError  # noqa: E402

IDS = torch.randint(0, 97, (60,), generator=torch.Generator().manual_seed(5)).tolist()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENPRUNE_CACHE", str(tmp_path))
    calibration._looked_up.clear()
    calibration._announce.cache_clear()
    yield tmp_path / "calibrations"
    calibration._looked_up.clear()


def made(mark, model="tiny", layer=3, depth=5):
    question = Choice(layer, True, 5, (1, 4), 9, kept={64: 0.75})
    return Calibration(
        model, mark, depth, question, Choice(2, False, 5), "by hand", (), ({"layer": 1, "kept": 0.5},)
    )


def test_a_calibration_is_found_by_weights_then_by_name(build_lm, cache):
    model = build_lm("llama")
    decoder = Decoder(model, "tiny")
    assert look_up(decoder).calibration == fallback(5, "tiny", fingerprint(decoder))
    path = store(made(fingerprint(decoder), "other name"))
    assert path.parent == cache
    found = look_up(decoder)
    assert found.calibration == made(fingerprint(decoder), "other name") and found.notice == ""
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight.mul_(1.5)
    assert "not calibrated" in look_up(decoder).notice
    store(made("f" * 16, "tiny", layer=4))
    by_name = look_up(decoder)
    assert by_name.calibration.question.layer == 4
    assert "other weights" in by_name.notice and "tokenprune calibrate tiny" in by_name.notice


def test_fingerprints_tell_models_apart_and_not_formats(build_lm, variant):
    model = build_lm(variant)
    mark = fingerprint(Decoder(model))
    assert fingerprint(Decoder(model)) == mark
    half = build_lm(variant).to(torch.bfloat16)
    assert fingerprint(Decoder(half)) == mark
    assert fingerprint(Decoder(build_lm("qwen2" if variant != "qwen2" else "llama"))) != mark


def test_methods_go_by_it_and_callers_go_before(tiny_lm, cache):
    _, decoder = tiny_lm("llama")
    store(made(fingerprint(decoder)))
    marks = Marks((50, 51))
    rule = Pooled(Relative(AttentionProbability((1, 4)), 9), 5)
    assert QuestionGemFilter(keep=20).choice(decoder).rule() == rule
    assert QuestionGemFilter(3, keep=20).choice(decoder).rule() == rule
    scores = scores_at(decoder, IDS, (Look(3, rule),), marks).scores
    kept = set(QuestionGemFilter(keep=20).select(decoder, IDS, marks).positions)
    free = [p for p in range(4, 52) if p not in marks.window]
    assert min(scores[p] for p in free if p in kept) >= max(scores[p] for p in free if p not in kept)
    assert GemFilter(keep=20).select(decoder, IDS) == GemFilter(2, 20).select(decoder, IDS)
    # Heads belong to their layer; what is said stays.
    assert QuestionGemFilter(2).choice(decoder) == Choice(2, True, 5)
    assert QuestionGemFilter(softmax=False).choice(decoder).rule() == Pooled(DotProduct(), 5)
    assert QuestionGemFilter(kernel=1).choice(decoder) == Choice(3, True, 1, (1, 4), 9)


def test_earlier_layers_count_beside_the_last(tiny_lm, cache):
    """Scores of layers and heads that were asked for one by one, added by the number of heads."""
    _, decoder = tiny_lm("llama")
    choice = Choice(3, True, 5, (1, 4), 9, {1: (0,), 2: (3, 5)})
    parts = [
        (0.2, Look(1, Choice(1, True, 5, (0,), 9).rule())),
        (0.4, Look(2, Choice(2, True, 5, (3, 5), 9).rule())),
        (0.4, Look(3, Choice(3, True, 5, (1, 4), 9).rule())),
    ]
    marks = Marks((50, 51))
    expected = sum(share * scores_at(decoder, IDS, (look,), marks).scores for share, look in parts)
    found = scores_at(decoder, IDS, choice.looks(), marks)
    assert torch.allclose(found.scores, expected, atol=1e-5)
    # Nothing more is held: a layer's keys and values go behind it, looked at or not.
    assert found.peak_kv_bytes == scores_at(decoder, IDS, parts[2][1:], marks).peak_kv_bytes

    stored = replace(made(fingerprint(decoder)), question=choice)
    assert parse(stored.to_json(), "g") == stored
    store(stored)
    method = QuestionGemFilter(keep=20)
    assert method.choice(decoder) == choice
    assert method.select(decoder, IDS, marks).positions != (
        QuestionGemFilter(3, 20, heads=(1, 4)).select(decoder, IDS, marks).positions
    )
    # Earlier layers belong to the heads of their layer, and go with them.
    assert QuestionGemFilter(kernel=1).choice(decoder).earlier == choice.earlier
    for other in (QuestionGemFilter(2), QuestionGemFilter(heads=(1, 4)), QuestionGemFilter(softmax=False)):
        assert not other.choice(decoder).earlier
    for wrong, words in (
        ({"heads": None, "earlier": {1: (0,)}}, "named heads"),
        ({"heads": (0,), "earlier": {3: (0,)}}, "between 0 and 3"),
        ({"heads": (0,), "earlier": {0: (0,)}}, "between 0 and 3"),
        ({"heads": (0,), "earlier": {1: (1, 1)}}, "different"),
    ):
        with pytest.raises(ConfigError, match=words):
            Choice(3, **wrong)


def test_lazyllm_scores_each_layer_with_its_own_rule(tiny_lm, cache):
    _, decoder = tiny_lm("llama")
    choices = (Choice(1, True, 5, (2,)), Choice(3, False, 1))
    store(replace(made(fingerprint(decoder)), choices=choices))
    marks = Marks((50, 51))
    steps = (Drop(0, 50), Drop(1, 30), Drop(3, 12))
    lazy = LazyLLM(steps, question=True, calibrated=True).prefill(decoder, IDS, marks, go_on)
    rules = {1: Pooled(AttentionProbability((2,)), 5), 3: Pooled(DotProduct(), 1)}
    plain = read_prompt(decoder, IDS, reducer=TokenDropSchedule(steps, rules=rules), marks=marks)
    assert lazy.kept == plain.kept and len(lazy.kept) == 12
    assert torch.allclose(lazy.logits, plain.logits, atol=1e-4)
    other = LazyLLM(steps, question=True).prefill(decoder, IDS, marks, go_on)
    assert other.kept != lazy.kept
    with pytest.raises(ConfigError, match="question"):
        LazyLLM(calibrated=True)


def test_a_guess_is_said_once_and_only_where_it_is_used(tiny_lm, cache, caplog):
    _, decoder = tiny_lm("qwen3")
    with caplog.at_level(logging.WARNING):
        GemFilter(2, 20).select(decoder, IDS)
        QuestionGemFilter(2, 20).select(decoder, IDS, Marks())
        assert not caplog.records
        QuestionGemFilter(keep=20).select(decoder, IDS, Marks())
        QuestionGemFilter(keep=20).select(decoder, IDS, Marks())
    assert len(caplog.records) == 1 and "layer 2 of 5 is a guess" in caplog.text


def test_damaged_files(tiny_lm, cache, caplog):
    _, decoder = tiny_lm("llama")
    cache.mkdir()
    (cache / "a.json").write_text("{")
    good = json.loads(made("x").to_json())
    with caplog.at_level(logging.WARNING):
        assert "not calibrated" in look_up(decoder).notice
    assert "a.json is no calibration" in caplog.text
    assert parse(json.dumps(good), "g") == made("x")
    for change, words in (
        ({"depth": 3}, "layer 3 of a model of 3"),
        ({"question": good["question"] | {"kernel": 4}}, "odd"),
        ({"question": good["question"] | {"heads": [1, 1]}}, "different"),
        ({"question": good["question"] | {"softmax": False}}, "raw"),
        ({"question": good["question"] | {"layer": 0}}, "layer"),
        ({"published": 3}, "published"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse(json.dumps(good | change), "g")


def test_heads_that_the_model_does_not_have(tiny_lm, cache, caplog):
    _, decoder = tiny_lm("llama")
    mark = fingerprint(decoder)
    store(replace(made(mark), question=Choice(3, True, 5, (99,))))
    with caplog.at_level(logging.WARNING):
        assert "not calibrated" in look_up(decoder).notice
    assert "names head 99 of a model of 6: it is passed over" in caplog.text


def test_what_ships_can_be_read():
    for found in calibration.stored():
        assert 0 < found.question.layer < found.depth


def test_relative_scores_are_over_the_mean_about_them():
    generator = torch.Generator().manual_seed(0)
    query, keys = torch.randn(6, 3, 4, generator=generator), torch.randn(2, 9, 4, generator=generator)
    scores = AttentionProbability().score(query, keys, 0.5).tolist()
    got = Relative(AttentionProbability(), 3).score(query, keys, 0.5).tolist()
    for n, value in enumerate(scores):
        about = scores[max(0, n - 1) : n + 2]
        assert got[n] == pytest.approx(value / (sum(about) / len(about) + 0.5 / 9), rel=1e-4)
    with pytest.raises(ConfigError, match="odd"):
        Relative(AttentionProbability(), 4)


def test_heads_of_a_rule(tiny_lm):
    """A rule of some heads is the mean of their own rows; naming all is naming none."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(6, 3, 4, generator=generator)
    keys = torch.randn(2, 9, 4, generator=generator)
    rows = [
        torch.stack([torch.softmax(0.5 * keys[h // 3] @ query[h, w], 0) for w in range(3)]).mean(0)
        for h in range(6)
    ]
    got = AttentionProbability((5, 0, 2)).score(query, keys, 0.5)
    assert torch.allclose(got, (rows[5] + rows[0] + rows[2]) / 3, atol=1e-6)
    every = AttentionProbability(tuple(range(6))).score(query, keys, 0.5)
    assert torch.allclose(every, AttentionProbability().score(query, keys, 0.5), atol=1e-6)
    for heads in ((), (1, 1), (-1,)):
        with pytest.raises(ConfigError):
            AttentionProbability(heads)
    with pytest.raises(ConfigError, match="heads 0 to 5, not 6"):
        AttentionProbability((6,)).score(query, keys, 0.5)


def test_what_a_caller_says_of_a_choice():
    best = Choice(3, True, 9, (1, 4), None, {2: (0,)}, {64: 0.5}, peak=True)
    assert best.but() is best and best.but(3) is best
    assert best.but(kernel=5) == Choice(3, True, 5, (1, 4), None, {2: (0,)}, peak=True)
    assert best.but(heads=(0,)) == Choice(3, True, 9, (0,), peak=True)
    assert best.but(2) == Choice(2, True, 9, peak=True)
    assert best.but(softmax=False) == Choice(3, False, 9)
    raw = Choice(3, False, 9)
    assert raw.but(heads=(0,)) == Choice(3, True, 9, (0,))  # heads are of probabilities
    with pytest.raises(ConfigError, match="heads, around and peak"):
        raw.but(softmax=False, heads=(0,))
    with pytest.raises(ConfigError, match="peak"):
        Choice(3, False, peak=True)
