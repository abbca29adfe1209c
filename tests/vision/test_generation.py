"""What options of ``generate`` mean while pictures are pruned: those that hold, and those that are refused."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_vlm import PAD, plain  # noqa: E402
from transformers import (  # noqa: E402
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
)

from tokenprune.errors import ConfigError  # noqa: E402
from tokenprune.vision.hf import visual_pruning  # noqa: E402


def test_lengths_count_the_prompt_as_it_was_given(model, batch, monkeypatch):
    """Also where they stand in a config: that stays as it is; and behind end tokens, minima too."""
    whole = batch["input_ids"].shape[1]
    config = GenerationConfig(max_length=whole + 3)
    least = GenerationConfig(max_length=whole + 9, min_length=whole + 7, pad_token_id=PAD)
    for method, keep in (("random", 2), ("none", None)):
        with visual_pruning(model, method, keep):
            assert model.generate(**batch, max_length=whole + 3, do_sample=False).shape[1] == whole + 3
            assert model.generate(**batch, generation_config=config).shape[1] == whole + 3
            assert (
                model.generate(**batch, generation_config=config, max_length=whole + 5).shape[1] == whole + 5
            )
            with pytest.warns(UserWarning, match="max_length"):
                assert model.generate(**batch).shape[1] == whole + 20
            with pytest.raises(ValueError, match="max_length"):
                model.generate(**batch, max_length=whole)
            monkeypatch.setattr(model.generation_config, "max_length", whole + 4)
            assert model.generate(**batch, generation_config=GenerationConfig()).shape[1] == whole + 4
            monkeypatch.undo()
            free = model.generate(**batch, **plain(9))[:, whole:]
            least.eos_token_id = sorted(set(free[:, :6].flatten().tolist()))
            short = model.generate(**batch, generation_config=least, min_length=0)
            ends = torch.isin(short[:, whole:], torch.tensor(least.eos_token_id))
            assert bool(ends[:, :6].any(1).all())
            longer = model.generate(**batch, generation_config=least)
            assert not bool(torch.isin(longer[:, whole : whole + 7], torch.tensor(least.eos_token_id)).any())
    assert (config.max_length, least.min_length) == (whole + 3, whole + 7)


def test_processors_criteria_and_streamers_see_the_whole_prompt(model, batch):
    """Nothing is dropped in one run and most in the other: what they see of the prompt is the same."""
    whole, seen = batch["input_ids"].shape[1], []

    class Stop(StoppingCriteria):
        def __call__(self, ids, scores, **_):
            seen.append(ids)
            return torch.full((len(ids),), ids.shape[1] - whole >= 3)

    class Only(LogitsProcessor):
        def __call__(self, ids, scores):
            seen.append(ids)
            return torch.full_like(scores, -torch.inf).index_fill(
                1, torch.tensor([7 + ids.shape[1] - whole]), 0
            )

    class Streamer:
        def __init__(self):
            self.got = []

        def put(self, ids):
            self.got.append(ids)

        def end(self):
            pass

    for method, keep in (("none", None), ("random", 2)):
        with visual_pruning(model, method, keep):
            streamer = Streamer()
            one = {"input_ids": batch["input_ids"][:1], "attention_mask": batch["attention_mask"][:1]}
            one["pixel_values"] = batch["pixel_values"][:2]
            model.generate(**one, **plain(2), streamer=streamer)
            assert torch.equal(streamer.got[0], one["input_ids"])
            seen.clear()
            got = model.generate(
                **batch,
                **plain(9),
                stopping_criteria=[Stop()],
                logits_processor=LogitsProcessorList([Only()]),
            )
        assert torch.equal(got[:, :whole], batch["input_ids"])
        assert got[:, whole:].tolist() == [[7, 8, 9]] * len(got)
        assert len(seen) == 6
        assert all(torch.equal(ids, got[:, : ids.shape[1]]) for ids in seen)


@pytest.mark.parametrize(
    "options",
    [{"prompt_lookup_num_tokens": 2}, {"prefill_chunk_size": 8}, {"position_ids": torch.zeros(1, 1)}],
)
def test_options_that_would_read_ids_without_their_pictures(model, batch, options):
    (name,) = options
    with visual_pruning(model, "random", 2), pytest.raises(ConfigError, match=f"does not take {name}"):
        model.generate(**batch, **plain(2), **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition_penalty", 50.0),
        ("no_repeat_ngram_size", 1),
        ("num_return_sequences", 3),
        ("return_dict_in_generate", True),
        ("min_new_tokens", 6),
        ("min_length", 90),
        ("bad_words_ids", [[67]]),
        ("num_beams", 2),
        ("stop_strings", ["a"]),
    ],
)
def test_the_engine_refuses_what_it_does_not_know_wherever_it_stands(model, batch, name, value, monkeypatch):
    options = {"max_new_tokens": 6, "do_sample": name == "num_return_sequences", name: value}
    with visual_pruning(model, "fastv", 0.5):
        with pytest.raises(ConfigError, match=f"does not know {name};"):
            model.generate(**batch, **options)
        with pytest.raises(ConfigError, match=f"does not know {name};"):
            model.generate(**batch, generation_config=GenerationConfig(**options))
        for own in ("do_sample", name):
            monkeypatch.setattr(model.generation_config, own, options[own])
        with pytest.raises(ConfigError, match=f"does not know {name};"):
            model.generate(**batch, max_new_tokens=6)


def test_the_engine_goes_by_given_configs_and_the_models_own(model, batch, monkeypatch):
    """Keywords win over the config that is given, and that over the model's."""
    whole = batch["input_ids"].shape[1]
    free = model.generate(**batch, **plain(8))[:, whole:]
    end = int(free[0, 2])
    config = GenerationConfig(max_new_tokens=8, eos_token_id=end, pad_token_id=PAD, use_cache=True)
    as_it_was = config.to_dict()
    expected = model.generate(**batch, generation_config=config)
    with visual_pruning(model, "fastv", 1.0):
        assert torch.equal(model.generate(**batch, generation_config=config), expected)
        assert torch.equal(
            model.generate(batch["input_ids"], config, **batch | {"input_ids": None}), expected
        )
        longer = GenerationConfig(max_length=whole + 3)
        assert model.generate(**batch, generation_config=longer).shape[1] == whole + 3
        assert model.generate(**batch, max_length=whole + 2).shape[1] == whole + 2
        assert model.generate(**batch, generation_config=longer, max_new_tokens=1).shape[1] == whole + 1
        for length in ({"max_length": whole}, {"max_new_tokens": 0}, {"max_new_tokens": -1}):
            with pytest.raises(ConfigError, match=r"max_(length|new_tokens)"):
                model.generate(**batch, **length)
        for strange in ({}, {"max_new_tokens": 3}, 3):
            with pytest.raises(ConfigError, match="must be a GenerationConfig"):
                model.generate(**batch, generation_config=strange)
        for name, value in as_it_was.items():
            if name in ("eos_token_id", "pad_token_id", "max_new_tokens"):
                monkeypatch.setattr(model.generation_config, name, value)
        assert torch.equal(model.generate(**batch), expected)
    assert config.to_dict() == as_it_was
