"""Pruning in plain transformers: against the same model with prompts shrunk by hand, and as it was afterwards."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_vlm import (  # noqa: E402
    GRID,
    IMAGE,
    PAD,
    PATCHES,
    ROWS,
    greedy,
    ids_with,
    left_padded,
    pictures,
    plain,
    seen_by,
    tiny_onevision,
)

from tokenprune.errors import BudgetError, ConfigError, ModelError, UnknownNameError, VisionError  # noqa: E402
from tokenprune.vision.hf import visual_pruning  # noqa: E402
from tokenprune.vision.methods import vision_method  # noqa: E402
from tokenprune.vision.methods.base import inner_method  # noqa: E402


@torch.no_grad()
def shrunk_by_hand(model, ids, pixels, method, keep, count):
    """Greedy tokens of one prompt from embeddings that were put together token by token."""
    left = [method.reduce(one, keep) for one in seen_by(model, pixels)]
    embed = model.get_input_embeddings()
    rows, number = [], 0
    for token in ids:
        if token != IMAGE:
            rows.append(embed(torch.tensor(token)))
            continue
        picture, place = divmod(number, PATCHES)
        number += 1
        for at, feature in zip(left[picture].keep.tolist(), left[picture].features, strict=True):
            if at == place:
                rows.append(feature)
    hidden, out = torch.stack(rows)[None], []
    for _ in range(count):
        out.append(int(model(inputs_embeds=hidden).logits[0, -1].argmax()))
        hidden = torch.cat([hidden, embed(torch.tensor([[out[-1]]]))], 1)
    return out


def test_keeping_all_equals_the_model(model, batch):
    expected = model.generate(**batch, **plain())
    for method, keep in (("none", None), ("random", 1.0), ("visionzip", PATCHES)):
        with visual_pruning(model, method, keep) as pruning:
            assert torch.equal(model.generate(**batch, **plain()), expected)
        assert [len(one) for one in pruning.left] == [PATCHES] * 5


@pytest.mark.parametrize(
    ("method", "keep"), [("fopru", 5), ("visionzip", 0.5), ("divprune", 1), ("fopru:strategy=row", 6)]
)
def test_a_padded_batch_equals_prompts_shrunk_by_hand(model, batch, method, keep):
    with visual_pruning(model, method, keep) as pruning:
        got = model.generate(**batch, **plain())
    assert torch.equal(got[:, : batch["input_ids"].shape[1]], batch["input_ids"])
    first, pixels = 0, batch["pixel_values"]
    for row, (images, words, seed) in enumerate(ROWS):
        own = pixels[first : first + images]
        first += images
        ids = ids_with(images, words=words, seed=seed)
        if images:
            expected = shrunk_by_hand(model, ids, own, vision_method(method), keep, 12)
        else:
            expected = greedy(model, ids, None, 12)
        assert got[row, -12:].tolist() == expected
    assert len(pruning.seen) == len(pruning.left) == 5
    assert not torch.equal(got, model.generate(**batch, **plain()))


def test_frames_are_a_video_together(model):
    """A method sees the frames at once, and each keeps the placeholders of what it holds."""
    pixels, ids = pictures(3), ids_with(3)
    shared = {"input_ids": torch.tensor([ids]), "pixel_values": pixels, **plain()}
    with visual_pruning(model, "divprune", 0.25, frames=3) as pruning:
        model.generate(**shared)
    (video,), (left,) = pruning.seen, pruning.left
    assert video.grid == (3, 4, 4)
    assert len(left) == 12
    with visual_pruning(model, "none", frames=3):
        assert model.generate(**shared)[0, len(ids) :].tolist() == greedy(model, ids, pixels, 12)
    with visual_pruning(model, "none", frames=2), pytest.raises(VisionError, match="3 pictures"):
        model.generate(**shared)
    with pytest.raises(ConfigError, match="frames must be 1"), visual_pruning(model, "none", frames=0):
        pass


def test_beams_and_dictionaries_are_transformers_own(model, batch):
    options = {"num_beams": 3, "num_return_sequences": 2, "return_dict_in_generate": True, **plain(6)}
    expected = model.generate(**batch, **options).sequences
    with visual_pruning(model, "none"):
        assert torch.equal(model.generate(**batch, **options).sequences, expected)
    with visual_pruning(model, "random", 4):
        assert model.generate(**batch, **options).sequences.shape == expected.shape


def test_forward_shrinks_labels_too(model, batch):
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        expected = model(**batch, labels=labels)
        with visual_pruning(model, "none"):
            got = model(**batch, labels=labels)
            assert (got.logits - expected.logits)[batch["attention_mask"].bool()].abs().max() < 1e-4
            assert float(got.loss) == pytest.approx(float(expected.loss), rel=1e-5)
        with visual_pruning(model, "uniform", 4):
            got = model(**batch, labels=labels)
    # all placeholders are alike, so labels of what is left are those of prompts with fewer of them
    rows = [ids_with(images, words=words, seed=seed, each=4) for images, words, seed in ROWS]
    ids, mask = left_padded(rows)
    assert got.logits.shape[:2] == ids.shape
    wanted = ids.masked_fill(mask == 0, -100)[:, 1:]
    loss = torch.nn.functional.cross_entropy(got.logits[:, :-1].flatten(0, 1), wanted.flatten())
    assert float(got.loss) == pytest.approx(float(loss), rel=1e-5)


def test_text_alone_passes(model):
    ids = torch.tensor([ids_with(0)])
    expected = model.generate(input_ids=ids, **plain())
    with visual_pruning(model, "random", 3):
        assert torch.equal(model.generate(ids, **plain()), expected)
        assert torch.equal(model(ids).logits, model(input_ids=ids).logits)


def test_what_was_done_is_that_of_the_last_call(model, batch):
    ids = torch.tensor([ids_with(0)])
    with visual_pruning(model, "random", 3) as pruning:
        for text_only in (lambda: model.generate(ids, **plain(2)), lambda: model(ids)):
            model.generate(**batch, **plain(2))
            assert [len(one) for one in pruning.left] == [3] * 5
            text_only()
            assert not pruning.left and not pruning.seen
        model(**batch)
        assert len(pruning.left) == 5 and not pruning.layers
    with visual_pruning(model, "random", 8, inner="fastv") as pruning:
        model.generate(**batch, **plain(2))
        assert [len(one) for one in pruning.left] == [8] * 5
        sizes = [len(ids_with(images, words=words, seed=seed, each=8)) for images, words, seed in ROWS]
        after = [size - 4 * images for size, (images, _, _) in zip(sizes, ROWS, strict=True)]
        assert pruning.layers == [[a] * 2 + [b] * 3 for a, b in zip(sizes, after, strict=True)]
        model.generate(ids, **plain(2))
        assert not pruning.layers


@pytest.mark.parametrize("method", ["fopru", "fastv", None])
def test_pixels_that_are_no_numbers(model, batch, method):
    broken = batch | {"pixel_values": batch["pixel_values"] * float("nan")}
    with visual_pruning(model, method, 0.5), pytest.raises(VisionError, match="NaN or infinity"):
        model.generate(**broken, **plain(2))


@pytest.mark.parametrize("wrong", ["llava-mini", None, {}, 3])
def test_names_are_no_models(wrong):
    with pytest.raises(ModelError, match=r"no loaded model.*not its name"), visual_pruning(wrong, "none"):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": 3}, "method must be a name"),
        ({"method": inner_method("fastv")}, "method must be a name"),
        ({"method": None, "inner": 3}, "inner must name"),
        ({"method": None, "inner": ["fastv", vision_method("fopru")]}, "inner must name"),
        ({"method": "none", "frames": "a"}, "frames must be 1"),
        ({"method": "none", "frames": True}, "frames must be 1"),
    ],
)
def test_arguments_of_other_kinds(model, options, message):
    with pytest.raises(ConfigError, match=message), visual_pruning(model, **options):
        pass


def test_budgets_may_be_texts(model, batch):
    for method in ("random", "fastv"):
        with visual_pruning(model, method, "25%") as texts:
            model.generate(**batch, **plain(1))
        with visual_pruning(model, method, 0.25) as numbers:
            model.generate(**batch, **plain(1))
        assert list(map(len, texts.left)) == list(map(len, numbers.left))
        assert texts.layers == numbers.layers
        for wrong in ("abc", "101%", 0, -3, True):
            with pytest.raises(BudgetError, match="keep must leave"), visual_pruning(model, method, wrong):
                pass


def test_inside_the_language_model_the_engine_generates(model, batch):
    expected = model.generate(**batch, **plain())
    with visual_pruning(model, "fastv", 1.0):
        assert torch.equal(model.generate(**batch, **plain()), expected)
    with visual_pruning(model, None, inner="fastv") as pruning:
        half = model.generate(**batch, **plain())
    assert half.shape == expected.shape
    assert not torch.equal(half, expected)
    assert [len(one) for one in pruning.left] == [PATCHES] * 5
    with visual_pruning(model, "fopru", 8, inner=["fastv", inner_method("holitom-merge", layers=4)]) as both:
        model.generate(**batch, **plain())
    assert [len(one) for one in both.left] == [8] * 5


def test_the_engine_ends_at_the_end_token_and_pads(model, batch):
    free = model.generate(**batch, **plain(8))[:, -8:]
    end = int(free[0, 2])
    expected = model.generate(**batch, **plain(8), eos_token_id=end, pad_token_id=PAD)
    with visual_pruning(model, "fastv", 1.0):
        got = model.generate(**batch, **plain(8), eos_token_id=end, pad_token_id=PAD)
        assert torch.equal(got, expected)
        sampled = model.generate(
            **batch, max_new_tokens=3, do_sample=True, temperature=0.5, top_k=5, top_p=0.9
        )
        assert sampled.shape[1] == batch["input_ids"].shape[1] + 3
        with pytest.raises(ConfigError, match="does not know num_beams"):
            model.generate(**batch, num_beams=2)
        with pytest.raises(ConfigError, match="does not know repetition_penalty"):
            model.generate(**batch, repetition_penalty=1.2)
        with pytest.raises(ConfigError, match="in generate, not in forward"):
            model(**batch)


def test_the_model_is_as_before_also_after_errors(model, batch):
    def own():
        return {name for name in ("generate", "forward") if name in vars(model)}

    with visual_pruning(model, "random", 2):
        assert own() == {"generate", "forward"}
        with pytest.raises(ConfigError, match="pruning already"), visual_pruning(model, "none"):
            pass
        assert own() == {"generate", "forward"}
    assert not own()
    with pytest.raises(RuntimeError, match="of the caller"), visual_pruning(model, "random", 2):
        raise RuntimeError("of the caller")
    assert not own()
    with pytest.raises(BudgetError), visual_pruning(model, "random", 0):
        model.generate(**batch, **plain())
    assert not own()
    with pytest.raises(UnknownNameError), visual_pruning(model, "magic", 2):
        pass
    assert not own()
    # what somebody else put there comes back
    mine = model.forward
    model.forward = mine
    try:
        with visual_pruning(model, "random", 2):
            assert model.forward is not mine
        assert model.forward is mine
    finally:
        del model.forward


def test_onevision():
    """Pictures without tiles: a grid each, and a newline behind it that always stays."""
    model = tiny_onevision()
    sizes = torch.tensor([[32, 32]] * 2)
    more = {"image_sizes": sizes, "batch_num_images": torch.tensor([2])}
    pixels, ids = pictures(2)[:, None], ids_with(2, each=PATCHES + 1)
    expected = greedy(model, ids, pixels, 10, **more)
    with visual_pruning(model, "none"):
        assert greedy(model, ids, pixels, 10, **more) == expected
    for method in ("divprune", "fopru"):
        with visual_pruning(model, method, 6) as pruning:
            assert greedy(model, ids, pixels, 10, **more) != expected
        assert [len(one) for one in pruning.left] == [6, 6]
        assert [one.grid for one in pruning.seen] == [(1, GRID, GRID)] * 2
    with visual_pruning(model, "fastv", 1.0):
        assert greedy(model, ids, pixels, 10, **more) == expected
    with visual_pruning(model, "none", frames=2), pytest.raises(ConfigError, match="frames of a video"):
        greedy(model, ids, pixels, 10, **more)


@pytest.mark.parametrize("tower", ["PixtralVisionConfig", "Dinov2Config"])
def test_towers_of_other_kinds(tower):
    import transformers
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = getattr(transformers, tower)(**small, image_size=16, patch_size=8)
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**small, vocab_size=20))
    model = LlavaForConditionalGeneration(config)
    with pytest.raises(ModelError, match=f"vision tower '{vision.model_type}'.*clip_vision_model"):
        visual_pruning(model, "none").__enter__()


def test_models_whose_placeholders_cannot_shrink():
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 16, "patch_size": 4}
    text = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 16, "vocab_size": 50,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    qwen = Qwen2VLForConditionalGeneration(Qwen2VLConfig(vision_config=vision, text_config=text))
    with pytest.raises(ModelError, match=r"image_grid_thw.*M-RoPE.*Llava"), visual_pruning(qwen, "none"):
        pass
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(**small, vocab_size=20))
    with pytest.raises(ModelError, match="LlamaForCausalLM is not supported"), visual_pruning(llama, "none"):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": pictures(4)}, "placeholders"),
        ({"pixel_values": pictures(5)[0]}, "must be"),
        ({"pixel_values": pictures(6)}, "for 5 of 6 images"),
        ({"input_ids": None}, "give input_ids"),
        ({"attention_mask": torch.ones(4, 2)}, "shape of input_ids"),
        ({"vision_feature_layer": -1}, "leave it out"),
    ],
)
def test_inputs_that_do_not_fit(model, batch, change, message):
    with visual_pruning(model, "random", 2), pytest.raises((ConfigError, VisionError), match=message):
        model.generate(**(batch | change), **plain())


def test_forward_from_the_middle_of_a_prompt(model, batch):
    with visual_pruning(model, "random", 2):
        with pytest.raises(ConfigError, match="at the start of a prompt"):
            model(**batch, position_ids=torch.zeros(1, 1))
        with pytest.raises(ConfigError, match="by name"):
            model(batch["input_ids"], batch["pixel_values"], batch["attention_mask"])
        assert model(batch["input_ids"], batch["pixel_values"]).logits.shape[0] == 4
