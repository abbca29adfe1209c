"""Pictures of chats through the proxy, in front of a LLaVA-OneVision: tiles, ends of lines, and videos."""

import json

import httpx
import pytest
import torch
from vision_checkpoints import save_onevision
from vision_world import Reads, chat, data_url, part, picture_bytes, rows_in

from tokenprune.vision.encoder import load_vision_encoder
from tokenprune.vision.export import export_vision
from tokenprune.vision.images import read_image
from tokenprune.vision.items import film
from tokenprune.vision.methods import vision_method
from tokenprune_server.vision.reduce import probe_picture

SIZE = 64
WIDE, TALL = (112, 56), (50, 90)  # with these views, of rows and columns of patches:
VIEWS = {WIDE: [[4, 4], [4, 8]], TALL: [[4, 4], [8, 4]]}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The vision part of a tiny checkpoint."""
    place = tmp_path_factory.mktemp("onevision")
    return str(export_vision(str(save_onevision(place / "whole")[0]), place / "part"))


@pytest.fixture(scope="session")
def encoder(folder):
    return load_vision_encoder(folder, dtype="float32")


@pytest.fixture
def onevision(door, folder, encoder):
    """Start a proxy in front of a stub that counts the tokens of our probe as this model does."""
    probe = len(encoder.items([probe_picture()])[0])
    return lambda **vision: door(Reads(size=SIZE, pixels=probe), model=folder, **vision)


def image(data):
    return read_image(data).image


def kept_of(item, method, keep):
    left = vision_method(method).reduce(item.tokens, keep)
    return left, item.read(left)[1].features


@pytest.mark.parametrize("size", VIEWS)
@pytest.mark.parametrize(("method", "keep"), [("fopru", 7), ("none", 1.0), ("fopru:strategy=row", 0.5)])
def test_the_rows_of_a_picture_arrive_with_the_ends_of_their_lines(onevision, encoder, size, method, keep):
    data = picture_bytes(1, size)
    proxy = onevision(method=method, keep=keep)
    answer = proxy.post(chat(part(data_url(data))))
    (item,) = encoder.items([image(data)])
    left, wanted = kept_of(item, method, keep)
    (rows,) = rows_in(proxy.chats[-1].body)
    assert torch.equal(rows, wanted)
    headers = answer.headers
    assert headers["x-tokenprune-vision-stage"] == "embeds", answer.headers
    assert headers["x-tokenprune-image-tokens-before"] == str(len(item))
    assert headers["x-tokenprune-image-tokens-after"] == str(len(wanted))
    (told,) = proxy.receipt(answer)["pictures"]
    assert told["views"] == VIEWS[size] and told["grid"] == [4, 4]
    assert told["kept"] == left.keep.tolist()
    assert told["ends"] == len(wanted) - len(left)
    assert (told["tokens_before"], told["tokens_after"]) == (len(item), len(wanted))


def test_frames_are_a_video_and_pictures_are_not(onevision, encoder):
    """The same file as a frame and as a picture, in one request and in the next."""
    proxy = onevision(video=True, method="uniform", keep=6, unequal_rows=True)
    one, two = (picture_bytes(seed, WIDE) for seed in (1, 2))
    text = {"type": "text", "text": "and"}
    body = chat(part(data_url(one)), part(data_url(two)), text, part(data_url(one)))
    for _ in range(2):
        answer = proxy.post(body)
        video, picture = rows_in(proxy.chats[-1].body)
        frames = [encoder.items([], [[image(data)]])[0] for data in (one, two)]
        left, wanted = kept_of(film(frames), "uniform", 6)
        assert torch.equal(video, wanted) and len(wanted) == 7
        assert torch.equal(picture, kept_of(encoder.items([image(one)])[0], "uniform", 6)[1])
        told = proxy.receipt(answer)["pictures"]
        assert [p["grid"] for p in told] == [[2, 2], [2, 2], [4, 4]]
        assert [p["ends"] for p in told[:2]] == [0, 1]
        assert [p["tokens_before"] for p in told[:2]] == [4, 5]
        assert told[0]["kept"] == [place for place in left.keep.tolist() if place < 4]
    metrics = httpx.get(f"{proxy.url}/metrics").text
    assert 'tokenprune_images_total{source="encoded"} 3.0' in metrics
    sent = json.loads(proxy.chats[-1].body)["messages"][0]["content"]
    assert [p["type"] for p in sent] == ["image_embeds", "text", "image_embeds", "text"]


def test_pictures_of_one_request_may_have_other_numbers_of_rows(onevision):
    """Ends of lines come on top of the budget: which, differs from picture to picture."""
    body = chat(*(part(data_url(picture_bytes(seed, size))) for seed, size in ((1, WIDE), (2, TALL))))
    answer = onevision(keep=1.0).post(body)
    assert answer.headers["x-tokenprune-vision-stage"] == "failed:unequal-rows"
    proxy = onevision(keep=1.0, unequal_rows=True)
    assert proxy.post(body).headers["x-tokenprune-vision-stage"] == "embeds"
    assert [len(rows) for rows in rows_in(proxy.chats[-1].body)] == [16 + 32 + 4, 16 + 32 + 8]


def test_many_tiles_go_through_in_several_batches(onevision, encoder):
    files = [picture_bytes(seed, (112, 100 + seed)) for seed in range(6)]  # five tiles each
    proxy = onevision(keep=0.25, unequal_rows=True)
    proxy.post(chat(*(part(data_url(data)) for data in files)))
    for data, rows in zip(files, rows_in(proxy.chats[-1].body), strict=True):
        wanted = kept_of(encoder.items([image(data)])[0], "fopru", 0.25)[1]
        torch.testing.assert_close(rows, wanted, atol=1e-5, rtol=1e-5)


def test_an_upstream_with_another_model_is_found_out(door, folder):
    """Such as would count as many tokens for each picture."""
    answer = door(Reads(size=SIZE, pixels=196), model=folder).post(chat(part(data_url(picture_bytes()))))
    assert answer.headers["x-tokenprune-vision-stage"] == "failed:grid-mismatch"


def test_the_playground_shows_both_views(onevision):
    body = {"image": data_url(picture_bytes(1, WIDE)), "method": "uniform", "keep": 12}
    shown = httpx.post(f"{onevision().url}/v1/prune/picture", json=body).json()
    assert (shown["grid"], shown["views"]) == ([4, 4], VIEWS[WIDE])
    assert (shown["tokens_before"], shown["tokens_after"], len(shown["kept"])) == (48, 12, 12)
    assert shown["picture"] != shown["marked"]
