"""The encoder against transformers' own LLaVA, on tiny random checkpoints."""

import json
import shutil
import threading

import pytest
import torch
from vision_checkpoints import image_processor, pictures, save, tiny_llava

from tokenprune.errors import ModelError, VisionError
from tokenprune.vision import vision_method
from tokenprune.vision.encoder import VisionEncoder, load_vision_encoder

CASES = [("clip", -2), ("clip", -1), ("clip", 3), ("clip", [-3, -1]), ("siglip", -1), ("siglip", -2)]


def prepared(encoder, images):
    """Pixel values of pictures, [b, channels, height, width]."""
    return torch.cat([encoder.prepare(image).pixels for image in images])


def reference_attention(model, pixels):
    """Attention of every layer, [b, heads, n, n], by transformers' eager path."""
    before = model.config.vision_config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model.model.vision_tower(pixels, output_attentions=True).attentions
    model.set_attn_implementation(before)
    return found


@pytest.mark.parametrize(("tower", "layer"), CASES)
def test_features_and_attention_are_those_of_transformers(tower, layer):
    model = tiny_llava(tower, layer)
    encoder = VisionEncoder.of(model, image_processor(tower))
    images = pictures(5)
    pixels = prepared(encoder, images)
    with torch.no_grad():
        expected = model.get_image_features(pixels).pooler_output
    encoded = encoder.encode(images[:2], [images[2:]])
    assert [t.grid for t in encoded] == [(1, 4, 4), (1, 4, 4), (3, 4, 4)]
    torch.testing.assert_close(
        torch.cat([t.features for t in encoded]), torch.cat(list(expected)), atol=1e-5, rtol=1e-5
    )

    states = [n + 5 if n < 0 else n for n in ([layer] if isinstance(layer, int) else layer)]
    attention = reference_attention(model, pixels)[max(states) - 1]
    first = 1 if tower == "clip" else 0
    received = attention.mean(dim=(1, 2))[:, first:].flatten()
    torch.testing.assert_close(torch.cat([t.received for t in encoded]), received, atol=1e-5, rtol=1e-5)
    if tower == "clip":
        cls = attention[:, :, 0, 1:].mean(1).flatten()
        torch.testing.assert_close(torch.cat([t.cls for t in encoded]), cls, atol=1e-5, rtol=1e-5)
    else:
        assert all(t.cls is None for t in encoded)


@pytest.mark.parametrize(("layer", "read"), [(0, -2), (2, -2), (-1, -2), (-1, -3), (-1, -4), (-1, [-5, -3])])
def test_keys_and_attention_of_another_layer(layer, read):
    """Also of one that the projector does not need."""
    model = tiny_llava(layer=read)
    encoder = VisionEncoder.of(model, image_processor())
    images = pictures(2)
    pixels = prepared(encoder, images)
    captured = []
    with torch.no_grad():
        handle = model.model.vision_tower.encoder.layers[layer].self_attn.k_proj.register_forward_hook(
            lambda module, args, output: captured.append(output)
        )
        expected = model.get_image_features(pixels).pooler_output
        handle.remove()
    encoded = encoder.encode(images, attention_layer=layer)
    torch.testing.assert_close(torch.stack([t.keys for t in encoded]), captured[0][:, 1:])
    received = reference_attention(model, pixels)[layer].mean(dim=(1, 2))[:, 1:]
    torch.testing.assert_close(torch.stack([t.received for t in encoded]), received, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.stack([t.features for t in encoded]), torch.stack(list(expected)))
    assert encoded[0].heads == 4
    for wrong in (4, -5):
        with pytest.raises(ModelError, match="has 4 layers"):
            encoder.encode(images, attention_layer=wrong)


def test_many_pictures_go_through_in_several_batches():
    encoder = VisionEncoder.of(tiny_llava(), image_processor())
    images = pictures(19)
    together = encoder.encode(images)
    for i in (0, 15, 16, 18):
        torch.testing.assert_close(
            together[i].features, encoder.encode([images[i]])[0].features, atol=1e-5, rtol=1e-5
        )
    assert not together[0].features.is_inference()


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize(
    "size", [(56, 56), (57, 56), (300, 201), (201, 300), (30, 700), (20, 31), (1999, 77)]
)
def test_prepared_pixels_are_those_of_the_processor(tower, size):
    """To the bit, though large pictures do not go through the processor's own arrays."""
    encoder = VisionEncoder.of(tiny_llava(tower), image_processor(tower))
    images = pictures(2, size=size)
    plain = image_processor(tower)(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(prepared(encoder, images), plain)
    made = encoder.encode_prepared([encoder.prepare(image) for image in images])
    for mine, other in zip(made, encoder.encode(images), strict=True):
        assert torch.equal(mine.tokens.features, other.features)
        assert not mine.tokens.features.is_inference()


@pytest.mark.parametrize("square", [True, False])
def test_a_processor_that_pads_first_is_given_the_whole_picture(square):
    """As LLaVA 1.5 did: what is squashed before it is padded is another picture."""
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    size = {"height": 56, "width": 56} if square else {"shortest_edge": 56}
    processor = LlavaImageProcessorPil(do_pad=True, do_center_crop=not square, size=size,
                                       crop_size={"height": 56, "width": 56})  # fmt: skip
    encoder = VisionEncoder.of(tiny_llava(), processor)
    for image in pictures(1, size=(400, 200)) + pictures(1, size=(100, 300)):
        plain = processor(images=[image], return_tensors="pt")["pixel_values"]
        assert torch.equal(prepared(encoder, [image]), plain)


def test_a_large_picture_does_not_reach_the_processor(monkeypatch):
    processor = image_processor()
    seen = []
    plain = type(processor).__call__

    def spying(self, images, **options):
        seen.extend(image.size for image in images)
        return plain(self, images, **options)

    monkeypatch.setattr(type(processor), "__call__", spying)
    VisionEncoder.of(tiny_llava(), processor).prepare(pictures(1, size=(3000, 1500))[0])
    assert seen == [(112, 56)]


def test_loading_reads_the_vision_part_only(llava_folder, tmp_path):
    folder, model = llava_folder
    images = pictures(2)
    expected = VisionEncoder.of(model, image_processor()).encode(images)
    encoder = load_vision_encoder(str(folder), "cpu", "float32")
    assert load_vision_encoder(str(folder), "cpu", "float32") is encoder
    assert (encoder.dimension, encoder.dtype, encoder.device.type) == (40, torch.float32, "cpu")
    for a, b in zip(encoder.encode(images), expected, strict=True):
        assert torch.equal(a.features, b.features)

    from safetensors.torch import load_file, save_file

    # an export without the language model, and the names of older releases
    weights = load_file(folder / "model.safetensors")
    old = {
        "model." + k.replace("vision_tower.", "vision_tower.vision_model."): v
        for k, v in weights.items()
        if "language_model" not in k and "lm_head" not in k and "post_layernorm" not in k
    }
    assert len(old) < len(weights)
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(folder / name, tmp_path)
    save_file(old, tmp_path / "model-00001-of-00001.safetensors")
    for a, b in zip(
        load_vision_encoder(str(tmp_path), "cpu", "float32").encode(images), expected, strict=True
    ):
        assert torch.equal(a.features, b.features)


def test_bfloat16_runs_and_every_method_takes_it(llava_folder):
    encoder = load_vision_encoder(str(llava_folder[0]), "cpu", "bfloat16")
    image, video = encoder.encode(pictures(1), [pictures(3, seed=1)])
    assert image.features.dtype == torch.bfloat16 and image.received.dtype == torch.float32
    for name in ("fopru", "visionzip", "divprune", "prumerge", "holitom"):
        assert len(vision_method(name).reduce(video, 11)) == 11
        assert vision_method(name).reduce(image, 0.5).features.dtype == torch.bfloat16


def test_threads_share_an_encoder(llava_folder):
    encoder = load_vision_encoder(str(llava_folder[0]), "cpu", "float32")
    images = pictures(4)
    expected, found = encoder.encode(images), {}

    def run(i):
        found[i] = encoder.encode([images[i]])[0]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        torch.testing.assert_close(found[i].features, expected[i].features)


def edited(folder, target, **changes):
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(folder / name, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2_vl"}, "'qwen2_vl' is not supported"),
        ({"model_type": "llava_next"}, "'llava_next' is not supported"),
        ({"model_type": "llama", "vision_config": None}, "'llama' is not supported: it has no vision part"),
        ({}, "holds no safetensors file"),
    ],
)
def test_checkpoints_of_another_kind(llava_folder, tmp_path, changes, message):
    edited(llava_folder[0], tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        load_vision_encoder(str(tmp_path), "cpu", "float32")


def test_checkpoints_that_lack_something(llava_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    edited(llava_folder[0], tmp_path)
    weights = load_file(llava_folder[0] / "model.safetensors")
    del weights["multi_modal_projector.linear_2.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"lacks 1 tensors of its vision part, 'multi_modal_projector.linear_2.weight'"
    ):
        load_vision_encoder(str(tmp_path), "cpu", "float32")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_vision_encoder(str(tmp_path), "cpu", "float32")


def test_settings_that_do_not_fit():
    wrong_layer, full = tiny_llava(layer=9), tiny_llava()
    with pytest.raises(ModelError, match="vision_feature_layer is 9, and the tower has 4 layers"):
        VisionEncoder.of(wrong_layer, image_processor()).encode(pictures(1))
    full.config.vision_feature_select_strategy = "full"
    with pytest.raises(ModelError, match="set vision_feature_select_strategy to 'default'"):
        VisionEncoder.of(full, image_processor()).encode(pictures(1))


def test_nothing_to_encode(llava_folder):
    encoder = load_vision_encoder(str(llava_folder[0]), "cpu", "float32")
    for images, videos in (((), ()), ((), [[]])):
        with pytest.raises(VisionError, match="no picture to encode"):
            encoder.encode(images, videos)


def test_a_folder_written_by_transformers_needs_no_torchvision(tmp_path):
    save(tiny_llava("siglip", -1), image_processor("siglip"), tmp_path)
    encoder = load_vision_encoder(str(tmp_path), "cpu", "float32")
    assert "Pil" in type(encoder.processor).__name__
    assert encoder.encode(pictures(1))[0].grid == (1, 4, 4)
