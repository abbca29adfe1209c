"""Prompts with visual tokens, in every strategy of the engine, against transformers with pixel values."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_vlm import IMAGE, features_of, greedy, ids_with, pictures, tiny_llava, tiny_onevision  # noqa: E402

from tokenprune.engine.decoder import Decoder  # noqa: E402
from tokenprune.engine.methods.gemfilter import GemFilter, QuestionGemFilter  # noqa: E402
from tokenprune.engine.methods.lazyllm import LazyLLM  # noqa: E402
from tokenprune.engine.methods.snapkv import SnapKV  # noqa: E402
from tokenprune.engine.methods.specprefill import SpecPrefill  # noqa: E402
from tokenprune.engine.prompt import Prompt, embedded, take  # noqa: E402
from tokenprune.engine.reading import read_prompt, read_prompts, step_together  # noqa: E402
from tokenprune.engine.schedule import Drop, Marks  # noqa: E402
from tokenprune.errors import ConfigError, ModelError  # noqa: E402


@pytest.fixture(scope="module")
def llava():
    model = tiny_llava()
    return model, Decoder(model)


def prompt_of(model, ids, pixels):
    visual = tuple(i for i, token in enumerate(ids) if token == IMAGE)
    return Prompt(tuple(ids), visual, torch.cat(features_of(model, pixels)))


def continued(reading, count):
    out = [int(reading.logits.argmax())]
    while len(out) < count:
        out.append(int(reading.step(out[-1]).argmax()))
    return out


@pytest.mark.parametrize("text", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("images", [1, 3])
def test_greedy_equals_generate_with_pixels(text, images):
    model = tiny_llava(text)
    decoder = Decoder(model)
    ids, pixels = ids_with(images, seed=images), pictures(images)
    expected = greedy(model, ids, pixels, 24)
    assert continued(read_prompt(decoder, prompt_of(model, ids, pixels)), 24) == expected
    # the answer is about the pictures, or the test would say nothing
    assert greedy(model, ids, pictures(images, seed=9), 24) != expected


def test_onevision_equals_generate_with_pixels():
    """Two pictures (one crop and a newline each) in front of a Qwen2."""
    model = tiny_onevision()
    sizes, several = torch.tensor([[32, 32]] * 2), torch.tensor([2])
    pixels = pictures(2)[:, None]
    with torch.no_grad():
        packed = model.get_image_features(
            pixels, sizes, batch_num_images=several, return_dict=True
        ).pooler_output
    ids = ids_with(2, each=len(packed[0]))
    visual = tuple(i for i, token in enumerate(ids) if token == IMAGE)
    reading = read_prompt(Decoder(model), Prompt(tuple(ids), visual, torch.cat(packed)))
    expected = greedy(model, ids, pixels, 20, image_sizes=sizes, batch_num_images=several)
    assert continued(reading, 20) == expected


def test_batch_equals_one_by_one(llava):
    model, decoder = llava
    prompts = [prompt_of(model, ids_with(n, seed=n), pictures(n, seed=n)) for n in (1, 2)]
    prompts.append([1, 30, 31, 32])
    alone = [continued(read_prompt(decoder, prompt), 10) for prompt in prompts]
    together = read_prompts(decoder, prompts)
    out = [[int(r.logits.argmax())] for r in together]
    while len(out[0]) < 10:
        step_together(together, [tokens[-1] for tokens in out])
        for tokens, reading in zip(out, together, strict=True):
            tokens.append(int(reading.logits.argmax()))
    assert out == alone


def go_on():
    pass


@pytest.mark.parametrize(
    "strategy",
    [
        LazyLLM(steps=(Drop(1, 1.0),)),
        LazyLLM(steps=(Drop(1, 1.0),), revive=False),
        GemFilter(layer=2, keep=1000),
        QuestionGemFilter(layer=2, keep=1000),
        SnapKV(keep=1000, window=4),
    ],
)
def test_strategies_that_keep_all_equal_reading_whole(llava, strategy):
    model, decoder = llava
    prompt = prompt_of(model, ids_with(2), pictures(2))
    expected = continued(read_prompt(decoder, prompt), 12)
    assert continued(strategy.prefill(decoder, prompt, Marks(), go_on), 12) == expected


@pytest.mark.parametrize("size", [12, 30])
def test_gemfilter_takes_features_along(llava, size):
    """What it chooses is a prompt of its own: text and features in the order they had."""
    model, decoder = llava
    prompt = prompt_of(model, ids_with(2), pictures(2))
    reading = GemFilter(layer=2, keep=size).prefill(decoder, prompt, Marks(), go_on)
    kept = list(reading.kept)
    inputs = embedded(decoder, [prompt])[kept]
    with torch.no_grad():
        logits = model(inputs_embeds=inputs[None]).logits[0, -1]
    assert (reading.logits - logits).abs().max() < 1e-4 * logits.abs().max()
    assert any(position in prompt.visual for position in kept)


def test_a_text_draft_refuses_pictures(llava):
    model, decoder = llava

    class Draft:
        name = "small"

    with pytest.raises(ConfigError, match="reads text only, and the prompt has 16 visual"):
        SpecPrefill(Draft()).prefill(decoder, prompt_of(model, ids_with(1), pictures(1)), Marks(), go_on)


def test_take_and_rows():
    features = torch.arange(6.0).reshape(3, 2)
    places = np.array([[0, 0, 0], [0, 0, 1], [1, 2, 3]])
    prompt = Prompt((7, 5, 5, 8, 5, 9), (1, 2, 4), features, places)
    part = take(prompt, (0, 2, 4, 5))
    assert list(part) == [7, 5, 5, 9]
    assert part.visual == (1, 2)
    assert torch.equal(part.features, features[[1, 2]])
    assert part.places.tolist() == [[0, 0, 1], [1, 2, 3]]
    mask, rows = part.rows()
    assert mask.tolist() == [False, True, True, False]
    assert rows.tolist() == [[-1] * 3, [0, 0, 1], [1, 2, 3], [-1] * 3]
    assert list(prompt[:2]) == [7, 5]
    assert prompt[:2].visual == (1,)
    assert prompt[-1] == 9
    assert take([4, 5, 6], (0, 2)) == [4, 6]


@pytest.mark.parametrize(
    ("visual", "features", "places"),
    [
        ((3,), torch.zeros(1, 2), None),
        ((1, 0), torch.zeros(2, 2), None),
        ((0, 1), torch.zeros(1, 2), None),
        ((0,), None, None),
        ((0,), torch.zeros(1), None),
        ((), torch.zeros(1, 2), None),
        ((0,), torch.zeros(1, 2), np.zeros((1, 2), dtype=np.int64)),
    ],
)
def test_parts_that_do_not_belong_together(visual, features, places):
    with pytest.raises(ConfigError, match=r"visual tokens|places"):
        Prompt((1, 2, 3), visual, features, places)


def test_features_of_another_width(llava):
    with pytest.raises(ConfigError, match="width 7, the model reads 48"):
        read_prompt(llava[1], Prompt((1, 5), (1,), torch.zeros(1, 7)))


def test_a_language_model_the_engine_does_not_run():
    from transformers import CLIPVisionConfig, GPTNeoXConfig, LlavaConfig, LlavaForConditionalGeneration

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=8, patch_size=8),
        text_config=GPTNeoXConfig(**small, vocab_size=20),
    )
    with pytest.raises(ModelError, match="GPTNeoXModel in this LlavaForConditionalGeneration"):
        Decoder(LlavaForConditionalGeneration(config))
