"""LLaVA-OneVision without its language model: what the encoder reads is what transformers reads."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from vision_checkpoints import onevision_processor, pictures, save

from tokenprune.engine.sampling import SamplingParams
from tokenprune.errors import ModelError
from tokenprune.vision.encoder import VisionEncoder, load_vision_encoder
from tokenprune.vision.engine import VisionEngine
from tokenprune.vision.export import CARD, export_full, export_vision
from tokenprune.vision.items import film
from tokenprune.vision.methods import vision_method
from tokenprune.vision.show import KEPT, as_seen, marked, states

# Width and height of pictures, and the views of each: all of it, and its tiles put together without padding.
VIEWS = {
    (56, 56): ((4, 4), (4, 4)),
    (112, 56): ((4, 4), (4, 8)),
    (50, 90): ((4, 4), (8, 4)),
    (100, 70): ((4, 4), (6, 8)),
    (120, 110): ((4, 4), (8, 8)),
}


@pytest.fixture(scope="module")
def model(onevision_folder):
    return onevision_folder[1]


@pytest.fixture(scope="module")
def encoder(onevision_folder):
    return load_vision_encoder(str(onevision_folder[0]), "cpu", "float32")


@torch.no_grad()
def read_by(model, images):
    """What transformers reads of pictures that are alone in their prompts, a list of [n, d]."""
    given = onevision_processor()(images=[[image] for image in images], return_tensors="pt")
    return model.get_image_features(**given, return_dict=True).pooler_output


@torch.no_grad()
def watched_by(model, frames):
    """What transformers reads of a video, [n, d]; its frames are pictures without tiles."""
    given = onevision_processor()(images=frames, image_grid_pinpoints=[[56, 56]], return_tensors="pt")
    pixels = given["pixel_values"][:, 0]
    return model.get_video_features(pixels[None], return_dict=True).pooler_output[0]


@pytest.mark.parametrize("size", VIEWS)
def test_pictures_are_read_as_transformers_reads_them(model, encoder, size):
    image = pictures(1, size=size)[0]
    (item,), (expected,) = encoder.items([image]), read_by(model, [image])
    torch.testing.assert_close(item.whole().features, expected, atol=1e-5, rtol=1e-5)
    assert item.tokens.views == VIEWS[size]
    assert len(expected) == len(item) == len(item.tokens) + VIEWS[size][1][0]


def test_pictures_of_different_sizes_and_videos_go_through_together(model, encoder):
    """Each with its tiles, however many there are: so vLLM has it. Twenty need more than one batch."""
    images = [pictures(1, seed, size)[0] for seed, size in enumerate(list(VIEWS) * 4)]
    frames = pictures(3, seed=50)
    *items, video = encoder.items(images, [frames])
    for item, expected in zip(items, read_by(model, images), strict=True):
        torch.testing.assert_close(item.whole().features, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(video.whole().features, watched_by(model, frames), atol=1e-5, rtol=1e-5)
    assert (video.tokens.grid, len(video)) == ((3, 2, 2), 13)


@pytest.mark.parametrize("size", [(400, 4), (4, 400), (57, 5), (300, 9)])
def test_of_a_picture_that_is_next_to_a_line_all_tiles_may_be_padding(model, encoder, size):
    image = pictures(1, size=size)[0]
    (item,), (expected,) = encoder.items([image]), read_by(model, [image])
    torch.testing.assert_close(item.whole().features, expected, atol=1e-5, rtol=1e-5)
    left = vision_method("random").reduce(item.tokens, 3)
    assert len(item.read(left)[1]) == 3 + len(item.lines)
    seen = as_seen(encoder, [image])
    assert [marked(one, of_view).ndim for one, of_view in zip(seen, states(item.tokens, left), strict=True)]


def test_frames_that_were_encoded_one_by_one_are_the_video(encoder):
    frames = pictures(3)
    (whole,) = encoder.items([], [frames])
    parts = [encoder.encode_prepared([encoder.prepare(frame, frame=True)])[0] for frame in frames]
    mine = film(parts)
    for name in ("features", "received", "keys"):
        torch.testing.assert_close(getattr(mine.tokens, name), getattr(whole.tokens, name))
    torch.testing.assert_close(mine.whole().features, whole.whole().features)
    assert mine.lines == whole.lines == [(0, 12)]


def test_pictures_and_frames_may_be_in_one_batch(encoder):
    images = pictures(2, size=(112, 56))
    ready = [encoder.prepare(image, frame=frame) for image in images for frame in (True, False)]
    made = encoder.encode_prepared(ready)
    assert [item.tokens.grid[1:] for item in made] == [(2, 2), (4, 8)] * 2
    (alone,) = encoder.items(images[1:])
    torch.testing.assert_close(made[3].tokens.features, alone.tokens.features)


@pytest.mark.parametrize("size", VIEWS)
def test_each_view_is_seen_as_it_is_tiled(encoder, size):
    """A quarter of the picture is white: so it is in each view."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = 255
    seen = as_seen(encoder, [Image.fromarray(pixels)])
    assert [one.shape for one in seen] == [(rows * 14, cols * 14, 3) for rows, cols in VIEWS[size]]
    for one in seen:
        high, wide = one.shape[0] // 2, one.shape[1] // 2
        quarters = one[:high, :wide], one[:high, wide:], one[high:, :wide], one[high:, wide:]
        assert [round(quarter.mean() / 255, 1) for quarter in quarters] == pytest.approx(
            [1, 0, 0, 0], abs=0.11
        )


def test_large_grids_are_drawn_smaller(onevision_folder):
    """More patches than ``anyres_max_1`` allows are put together, and so are pooled those of videos."""
    from transformers import AutoConfig

    folder, model = onevision_folder
    config = AutoConfig.from_pretrained(folder)
    config.vision_aspect_ratio = "anyres_max_1"
    encoder = VisionEncoder(model.model, onevision_processor(), config)
    image = pictures(1, size=(100, 70))[0]
    (item,), (video,) = encoder.items([image]), encoder.items([], [[image]])
    for one, seen in ((item, as_seen(encoder, [image])), (video, as_seen(encoder, [image], video=True))):
        found = states(one.tokens, vision_method("random").reduce(one.tokens, 2))
        drawn = [marked(picture, of_view) for picture, of_view in zip(seen, found, strict=True)]
        sizes = one.tokens.views or ((2, 2),)
        assert [max(p.shape[0] // r, p.shape[1] // c) >= 24 for p, (r, c) in zip(drawn, sizes, strict=True)]
    assert item.tokens.views == ((4, 4), (3, 4))


@pytest.mark.parametrize("keep", [1.0, 9])
def test_a_question_is_answered_as_by_transformers(onevision_folder, keep):
    folder, model = onevision_folder
    engine = VisionEngine(str(folder), dtype="float32")
    image = pictures(1, size=(112, 56))[0]
    ids = engine.chat("what is it ?")
    seen = engine.see(ids, [image], method=vision_method("fopru"), keep=keep)
    (item,) = engine.encoder.items([image])
    rows = item.read(seen.left[0])[1].features
    at = ids.index(engine.image_token)
    embed = model.get_input_embeddings()
    parts = [embed(torch.tensor(ids[:at])), rows, embed(torch.tensor(ids[at + 1 :]))]
    with torch.no_grad():
        out = model.generate(
            inputs_embeds=torch.cat(parts)[None], max_new_tokens=6, min_new_tokens=6, do_sample=False
        )
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    assert [step.token_id for step in engine.generate(seen, params)] == out[0].tolist()


def test_what_is_left_inside_the_model_is_known_by_its_patches(onevision_folder):
    from tokenprune.vision.look import Chosen, Looking

    looking = Looking.at(
        str(onevision_folder[0]), pictures(1, size=(112, 56)), video=False, question="what ?"
    )
    left, _ = looking.look(Chosen.of("fastv:layers=1", 0.5))
    total = len(looking.item)
    assert total == 16 + 32 + 4 and total // 2 - 4 <= len(left) <= total // 2
    found = states(looking.tokens, left)
    assert [one.shape for one in found] == [(4, 4), (4, 8)]
    assert sum(int((one == KEPT).sum()) for one in found) == len(left)


def test_places_of_tokens_among_all_that_is_read(encoder):
    (item,) = encoder.items(pictures(1, size=(112, 56)))
    order = [16 + 9 * row + col for row in range(4) for col in range(8)]
    assert item.tokens_read(torch.arange(len(item))).tolist() == list(range(48))
    assert item.tokens_read(torch.tensor([3, 16 + 8, order[8], order[31], 51])).tolist() == [3, 24, 47]


def test_the_vision_part_encodes_as_the_whole(onevision_folder, tmp_path):
    folder, _ = onevision_folder
    image = pictures(1, size=(100, 70))[0]
    part, full = export_vision(str(folder), tmp_path / "part"), export_full(str(folder), tmp_path / "full")
    found = [
        load_vision_encoder(str(place), "cpu", "float32").items([image])[0].whole().features
        for place in (folder, part, full)
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    card = json.loads((part / CARD).read_text())
    assert (card["model_type"], card["hidden_size"], card["image_token_id"]) == ("llava_onevision", 64, 4)
    assert (card["vision_feature_layer"], card["vision_feature_select_strategy"]) == (-1, "full")
    from safetensors.torch import load_file

    names = set(load_file(part / "model.safetensors"))
    assert "image_newline" in names and not any("language" in name for name in names)
    assert {name for name in load_file(full / "model.safetensors") if "vision_tower" in name} <= names


def test_a_checkpoint_without_newline_is_refused(onevision_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, model = onevision_folder
    save(model, onevision_processor(), tmp_path / "bad")
    weights = load_file(folder / "model.safetensors")
    del weights["image_newline"]
    save_file(weights, tmp_path / "bad" / "model.safetensors")
    with pytest.raises(ModelError, match="lacks 1 tensors of its vision part, 'image_newline'"):
        load_vision_encoder(str(tmp_path / "bad"), "cpu", "float32")
    with pytest.raises(ModelError, match="no tensors of its image_newline"):
        export_vision(str(tmp_path / "bad"), tmp_path / "out")
    shutil.rmtree(tmp_path / "bad")
