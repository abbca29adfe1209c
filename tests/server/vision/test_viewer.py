"""``/v1/prune/picture``: what a method keeps of one picture."""

import base64
import io
import threading
import time

import httpx
import numpy as np
import pytest
from bad_pictures import BAD_PICTURES, GOOD
from patience import is_given_up
from PIL import Image
from vision_world import PATCHES, chat, data_url, part, picture_bytes

from tokenprune.errors import ConfigError, ModelError
from tokenprune.vision import vision_method
from tokenprune.vision.export import export_vision
from tokenprune.vision.look import Chosen
from tokenprune.vision.show import as_seen, marked, states
from tokenprune_server.app import create_app


def look(door, **body):
    return httpx.post(
        f"{door.url}/v1/prune/picture", json={"image": data_url(GOOD), "method": "fopru"} | body
    )


def pixels(url):
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("method", "keep"),
    [("fopru", 49), ("fopru:strategy=row", "50%"), ("visionzip", 0.1), ("prumerge", "auto")],
)
def test_what_is_shown_is_what_the_library_keeps(door, encoder, method, keep):
    door = door()
    shown = look(door, method=method, keep=keep).json()
    image = Image.open(io.BytesIO(GOOD))
    (tokens,) = encoder.encode([image])
    chosen = Chosen.of(method, {"50%": 0.5, "auto": None}.get(keep, keep))
    left = chosen.method.reduce(tokens, chosen.keep)
    assert shown["kept"] == left.keep.tolist()
    assert (shown["tokens_before"], shown["tokens_after"]) == (PATCHES, len(left))
    assert (shown["method"], shown["grid"], shown["answer"], shown["note"]) == (method, [14, 14], "", "")
    seen = as_seen(encoder, [image])[0]
    assert np.array_equal(pixels(shown["picture"]), seen)
    assert np.array_equal(pixels(shown["marked"]), marked(seen, states(tokens, left)[0]))


def test_the_budget_is_that_of_the_settings_unless_said(door):
    door = door(keep=20)
    assert look(door).json()["tokens_after"] == 20
    assert look(door, keep=1).json()["tokens_after"] == 1
    assert look(door, keep="100%").json()["tokens_after"] == PATCHES


def test_a_picture_is_encoded_once_for_the_page_and_for_chats(door):
    door = door()
    look(door)
    look(door, method="visionzip")
    door.post(chat(part(data_url(GOOD))))
    text = httpx.get(f"{door.url}/metrics").text
    assert 'source="cached"} 1.0' in text and 'source="encoded"} 0.0' in text


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_pictures_are_refused_as_those_of_chats_are(door, name):
    url, says = BAD_PICTURES[name]
    answer = look(door(max_image_bytes=1_000_000), image=url)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert says in error["message"] and error["message"].startswith("the picture at image ")
    assert error["param"] == "image"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"method": "magic"}, "magic"),
        ({"method": "fopru:strategy=column"}, "strategy"),
        ({"keep": 0}, "keep must leave"),
        ({"keep": "much"}, "keep must leave"),
        ({"keep": "auto"}, "needs a budget"),
        ({"method": "fastv"}, "server.vision.questions"),
        ({"question": "what is it ?"}, "server.vision.questions"),
        ({"method": "atp-llava:weights=/etc/passwd"}, "a file of its own"),
        ({"image": 3}, "fields: image, method, keep, question"),
        ({"picture": "x"}, "fields: image, method, keep, question"),
    ],
)
def test_wrong_requests(door, body, says):
    answer = look(door(), **body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_questions(door):
    door = door(questions=True)
    inside = look(door, method="fastv", keep="25%", question="how many digits are there ?").json()
    assert inside["tokens_after"] == PATCHES // 4
    assert look(door, method="none", question="how many digits are there ?").json()["answer"]
    refused = look(door, method="fastv")
    assert (refused.status_code, "give a question" in refused.text) == (400, True)
    refused = look(door, method="none", question="what is in <image> ?")
    assert (refused.status_code, "stands for a picture" in refused.text) == (400, True)
    listed = httpx.get(f"{door.url}/playground/names").json()["pictures"]
    names = {method["name"]: method["inside"] for method in listed["methods"]}
    assert listed["questions"] and names["fastv"] and not names["fopru"] and "atp-llava" not in names


def test_a_model_that_cannot_answer_is_told_to_who_asks(door, monkeypatch, caplog):
    """The server is ready all the same: chats need no answers."""
    from tokenprune.vision.engine import VisionEngine

    def broken(self, *_, **__):
        raise ModelError("the weights are damaged")

    monkeypatch.setattr(VisionEngine, "__init__", broken)
    door = door(questions=True)
    while "loading" in (ready := httpx.get(f"{door.url}/readyz")).text:
        time.sleep(0.05)
    assert ready.status_code == 200
    assert "questions about pictures cannot be answered: the weights are damaged" in caplog.text
    refused = look(door, question="what is it ?")
    assert (refused.status_code, "the weights are damaged" in refused.text) == (503, True)
    assert look(door).status_code == 200


def test_questions_take_a_whole_checkpoint(door, tmp_path):
    export_vision("llava-mini", tmp_path / "part")
    with pytest.raises(ConfigError, match=r"server\.vision\.questions: .*vision part of a checkpoint"):
        door(model=str(tmp_path / "part"), questions=True)


def test_without_a_vision_model(stub, serve, stand_in):
    url = serve(create_app(stand_in(), stub.url))
    answer = httpx.post(f"{url}/v1/prune/picture", json={"image": data_url(GOOD), "method": "fopru"})
    assert answer.status_code == 400
    assert "no server.vision" in answer.json()["error"]["message"]
    assert httpx.get(f"{url}/playground/names").json()["pictures"] is None


def test_it_needs_a_key_where_there_are_keys(door):
    door = door(server={"api_keys": ["sk-1"]})
    assert look(door).status_code == 401


def test_work_that_takes_too_long_is_given_up(door, monkeypatch):
    from tokenprune_server.vision.reduce import PictureReducer

    seen, done = [], threading.Event()

    def item(self, file):
        seen.append(is_given_up(20))
        done.set()
        return vision_method("none")

    monkeypatch.setattr(PictureReducer, "item", item)
    answer = look(door(timeout_s=0.2), image=data_url(picture_bytes(77)))
    assert (answer.status_code, "longer than 0.2 s" in answer.text) == (504, True)
    assert done.wait(10) and seen == [True]
