"""Pictures of chats on their way through the proxy: what arrives upstream, and what the client is told."""

import asyncio
import json
import re
import shutil
import threading
import time

import httpx
import pytest
import torch
from vision_world import (
    PATCHES,
    SIZE,
    TEXT_TOKENS,
    Reads,
    chat,
    data_url,
    part,
    picture_bytes,
    reading,
    rows_in,
)

from tokenprune.errors import ConfigError
from tokenprune.vision.images import read_image
from tokenprune.vision.methods import vision_method


@pytest.fixture
def tokens_of(encoder):
    return lambda data: encoder.encode([read_image(data).image])[0]


def test_the_rows_of_the_method_arrive_and_nothing_else_changes(door, tokens_of):
    data = picture_bytes()
    door = door()
    body = chat(part(data_url(data)), temperature=0, seed=7)
    answer = door.post(body)
    assert answer.status_code == 200
    sent = json.loads(door.chats[-1].body)
    (rows,) = rows_in(door.chats[-1].body)
    wanted = vision_method("fopru").reduce(tokens_of(data), 49)
    assert torch.equal(rows, wanted.features)
    assert not rows.requires_grad
    content = sent["messages"][0]["content"]
    assert [p["type"] for p in content] == ["image_embeds", "text"]
    assert set(content[0]) == {"type", "image_embeds"}
    assert {**sent, "messages": None} == {**body, "messages": None}
    assert answer.headers["x-tokenprune-decision"] == "pruned"
    assert answer.headers["x-tokenprune-vision-stage"] == "embeds"
    assert answer.headers["x-tokenprune-vision-method"] == "fopru"
    assert answer.headers["x-tokenprune-image-tokens-before"] == str(PATCHES)
    assert answer.headers["x-tokenprune-image-tokens-after"] == "49"
    assert "tp-vision-encode" in answer.headers["server-timing"]
    assert answer.json()["usage"]["prompt_tokens"] == TEXT_TOKENS + 49
    (picture,) = door.receipt(answer)["pictures"]
    assert picture["kept"] == wanted.keep.tolist()
    assert (picture["place"], picture["grid"]) == ("messages.0.content.0", [14, 14])
    assert (picture["tokens_before"], picture["tokens_after"], picture["merged"]) == (PATCHES, 49, 0)


def test_the_upstream_is_asked_once(door):
    door = door()
    for seed in range(3):
        door.post(chat(part(data_url(picture_bytes(seed)))))
    assert len(door.chats) == 3
    # fewer rows, all rows, the picture itself
    assert door.probes == 3


def test_a_picture_is_encoded_once(door):
    door = door()
    url = data_url(picture_bytes(3))
    door.post(chat(part(url)))
    door.post(chat(part(url), part(url), text="and now ?"))
    door.post({**chat(part(url)), "tokenprune": {"vision": {"method": "uniform"}}})
    metrics = httpx.get(f"{door.url}/metrics").text
    assert 'tokenprune_images_total{source="encoded"} 1.0' in metrics
    assert 'tokenprune_images_total{source="cached"} 3.0' in metrics
    assert f"tokenprune_image_tokens_before_total {4 * PATCHES}.0" in metrics
    one, two = rows_in(door.chats[1].body)
    assert torch.equal(one, two)


def test_requests_at_once_with_one_picture_share_its_encoding(door):
    door = door(server={"workers": 4})
    url = data_url(picture_bytes(4, (900, 900)))
    threads = [threading.Thread(target=door.post, args=(chat(part(url), text=str(n)),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 'tokenprune_images_total{source="encoded"} 1.0' in httpx.get(f"{door.url}/metrics").text
    assert len({rows_in(r.body)[0].numpy().tobytes() for r in door.chats}) == 1


def test_without_a_cache_it_works_as_well(door):
    door = door(cache_max_bytes=0)
    url = data_url(picture_bytes())
    assert door.post(chat(part(url))).headers["x-tokenprune-vision-stage"] == "embeds"
    door.post(chat(part(url)))
    assert 'tokenprune_images_total{source="encoded"} 2.0' in httpx.get(f"{door.url}/metrics").text


def test_options_of_the_request_win(door, tokens_of):
    data = picture_bytes(5)
    door = door()
    body = chat(part(data_url(data)))
    vision = {"method": "fopru", "options": {"strategy": "row"}, "keep": 28}
    answer = door.post({**body, "tokenprune": {"vision": vision}})
    (picture,) = door.receipt(answer)["pictures"]
    assert len({place // 14 for place in picture["kept"]}) == 2  # whole rows
    assert answer.headers["x-tokenprune-vision-method"] == picture["method"] == "fopru"
    for body_of in (
        {"vision": {"method": "fopru:strategy=row", "keep": 28}},
        {"vision": {"method": " fopru : strategy = row ", "options": {}, "keep": "28"}},
    ):
        (again,) = door.receipt(door.post({**body, "tokenprune": body_of}))["pictures"]
        assert (again["kept"], again["method"]) == (picture["kept"], "fopru")
    answer = door.post(
        body, {"x-tokenprune-vision-method": "fopru:strategy=row", "x-tokenprune-vision-keep": "28"}
    )
    assert door.receipt(answer)["pictures"][0]["kept"] == picture["kept"]
    headers = {"x-tokenprune-vision-method": "divprune", "x-tokenprune-vision-keep": "0.5"}
    answer = door.post({**body, "tokenprune": {"vision": {"keep": 10}}}, headers)
    assert answer.headers["x-tokenprune-vision-method"] == "divprune"
    assert answer.headers["x-tokenprune-image-tokens-after"] == "10"  # the body wins, key by key
    assert torch.equal(
        rows_in(door.chats[-1].body)[0], vision_method("divprune").reduce(tokens_of(data), 10).features
    )
    for keep in ("50%", "98", 0.5):
        answer = door.post({**body, "tokenprune": {"vision": {"keep": keep}}})
        assert answer.headers["x-tokenprune-image-tokens-after"] == "98"
    answer = door.post(body, {"x-tokenprune-vision-keep": "25%"})
    assert answer.headers["x-tokenprune-image-tokens-after"] == "49"
    auto = {"method": "prumerge", "keep": "auto"}
    own = door.post({**body, "tokenprune": {"vision": auto}}).headers["x-tokenprune-image-tokens-after"]
    assert int(own) == len(vision_method("prumerge").reduce(tokens_of(data)))
    answer = door.post(body, {"x-tokenprune-vision-keep": "much"})
    assert answer.status_code == 400 and "vision-keep: keep must leave something" in answer.text
    for off in ({"vision": {"enabled": False}}, {"enabled": False}):
        answer = door.post({**body, "tokenprune": off})
        assert json.loads(door.chats[-1].body) == body
    answer = door.post(body, {"x-tokenprune-vision": "off"})
    assert answer.headers["x-tokenprune-vision-stage"] == "skipped:disabled"
    answer = door.post({**body, "tokenprune": {"enabled": False, "vision": {"enabled": True}}})
    assert answer.headers["x-tokenprune-vision-stage"] == "embeds"


@pytest.mark.parametrize(
    "settings",
    [{"method": "fopru:strategy=row"}, {"method": "fopru", "options": {"strategy": "row"}}],
)
def test_options_of_the_settings_hold_for_their_own_method_only(door, tokens_of, settings):
    data = picture_bytes(5)
    proxy = door(**settings, keep=28)
    rank, row = (vision_method("fopru", strategy=s).reduce(tokens_of(data), 28) for s in ("rank", "row"))
    even = vision_method("uniform").reduce(tokens_of(data), 28)
    asked = {
        "nothing": ({}, row),
        "the same": ({"method": "fopru"}, row),
        "its options": ({"options": {"strategy": "rank"}}, rank),
        "no options": ({"options": {}}, rank),
        "both": ({"method": "fopru:strategy=rank"}, rank),
        "another": ({"method": "uniform"}, even),
    }
    for name, (vision, wanted) in asked.items():
        answer = proxy.post({**chat(part(data_url(data))), "tokenprune": {"vision": vision}})
        assert proxy.receipt(answer)["pictures"][0]["kept"] == wanted.keep.tolist(), name


@pytest.mark.parametrize(
    ("vision", "says"),
    [
        ({"keep": 0}, "keep must leave something"),
        ({"keep": 0.0}, "keep must leave something"),
        ({"keep": -3}, "keep must leave something"),
        ({"keep": 1.5}, "keep must leave something"),
        ({"keep": "nine"}, "keep must leave something"),
        ({"keep": "101%"}, "keep must leave something"),
        ({"keep": True}, "keep must leave something"),
        ({"keep": "auto"}, "needs a budget"),
        ({"method": "nobody"}, "unknown vision method"),
        ({"method": "fastv"}, "inside the language model"),
        ({"options": {"strategy": "column"}}, "strategy"),
        ({"method": "fopru:strategy=column"}, "strategy"),
        ({"method": "fopru:row"}, "options are written as name:option=value"),
        ({"method": "fopru:nothing=1"}, "its options: strategy"),
        ({"method": "fopru:strategy=row,strategy=rank"}, "'strategy' is given twice"),
        ({"method": "fopru:strategy=row", "options": {"strategy": "rank"}}, "'strategy' is given twice"),
        ({"method": "nobody:strategy=row"}, "unknown vision method"),
        ({"method": ":strategy=row"}, "unknown vision method"),
        ({"method": "prumerge:neighbours=0", "keep": 4}, "neighbours must be 1 or more"),
        ({"options": {"nothing": 1}}, "nothing"),
        ({"ratio": 0.2}, "known options: enabled, method, options, keep, video"),
        ({"keep": [1]}, "known options: enabled, method, options, keep, video"),
        ("fopru", "known options: enabled, method, options, keep, video"),
        ({"keep": None}, "needs a budget"),
    ],
)
def test_options_that_cannot_be_are_refused(door, vision, says):
    door = door()
    answer = door.post({**chat(part(data_url(picture_bytes()))), "tokenprune": {"vision": vision}})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert not door.posts


def test_null_asks_for_the_methods_own_number(door, tokens_of):
    data = picture_bytes(6)
    door = door()
    counts = {}
    for name, vision in {"own": {"keep": None}, "setting": {}, "asked": {"keep": 3}}.items():
        vision = {"method": "prumerge", **vision}
        answer = door.post({**chat(part(data_url(data))), "tokenprune": {"vision": vision}})
        counts[name] = int(answer.headers["x-tokenprune-image-tokens-after"])
    own = len(vision_method("prumerge").reduce(tokens_of(data)))
    assert counts == {"own": own, "setting": 49, "asked": 3} and own != 49


def test_a_method_that_keeps_more_than_was_asked_for_says_so(door):
    door = door(method="evs")
    url = data_url(picture_bytes())
    (picture,) = door.receipt(door.post(chat(part(url))))["pictures"]
    assert picture["tokens_after"] == PATCHES
    assert picture["note"].startswith(f"{PATCHES} of {PATCHES} tokens stay, and keep asks for 49")
    assert "the first frame" in picture["note"]
    for vision in ({"method": "fopru"}, {"keep": 1.0}):
        answer = door.post({**chat(part(url)), "tokenprune": {"vision": vision}})
        assert [p["note"] for p in door.receipt(answer)["pictures"]] == [""]


def test_without_settings_a_wish_for_pruned_pictures_is_refused(post, stub):
    body = chat(part(data_url(picture_bytes())))
    answer = post({**body, "tokenprune": {"vision": {"keep": 20}}})
    assert answer.status_code == 400
    assert "server.vision" in answer.json()["error"]["message"]
    assert not stub.requests
    answer = post({**body, "tokenprune": {"vision": {"enabled": False}}})
    assert answer.status_code == 200
    assert json.loads(stub.last.body) == body


def test_several_pictures_in_several_messages(door):
    door = door()
    urls = [data_url(picture_bytes(seed)) for seed in range(3)]
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "You look."},
            {"role": "user", "content": [{"type": "text", "text": "this"}, part(urls[0]), part(urls[1])]},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": [{"type": "input_image", "image_url": urls[2]}]},
        ],
    }
    answer = door.post(body)
    sent = json.loads(door.chats[-1].body)["messages"]
    assert [p["type"] for p in sent[1]["content"]] == ["text", "image_embeds", "image_embeds"]
    assert [p["type"] for p in sent[3]["content"]] == ["image_embeds"]
    assert sent[0] == body["messages"][0]
    assert answer.headers["x-tokenprune-image-tokens-after"] == str(3 * 49)
    places = [picture["place"] for picture in door.receipt(answer)["pictures"]]
    assert places == ["messages.1.content.1", "messages.1.content.2", "messages.3.content.0"]


def test_frames_of_a_video_share_a_budget(door):
    door = door(video=True, method="evs", keep=PATCHES + 20)
    still, other = picture_bytes(1), picture_bytes(2)
    frames = [part(data_url(data)) for data in (still, still, still, other)]
    answer = door.post(chat(*frames))
    sent = json.loads(door.chats[-1].body)["messages"][0]["content"]
    # frames that show nothing new have no rows; those of all stand in the place of the first
    assert [p["type"] for p in sent] == ["image_embeds", "text"]
    assert [len(rows) for rows in rows_in(door.chats[-1].body)] == [PATCHES + 20]
    kept = [len(picture["kept"]) for picture in door.receipt(answer)["pictures"]]
    assert kept == [PATCHES, 0, 0, 20]


def test_text_between_pictures_parts_two_videos(door):
    door = door(video=True, method="uniform", keep=30)
    frames = [part(data_url(picture_bytes(seed))) for seed in range(4)]
    text = {"type": "text", "text": "and then"}
    door.post(chat(frames[0], frames[1], text, frames[2], frames[3]))
    sent = json.loads(door.chats[-1].body)["messages"][0]["content"]
    assert [p["type"] for p in sent] == ["image_embeds", "text", "image_embeds", "text"]
    assert [len(rows) for rows in rows_in(door.chats[-1].body)] == [30, 30]


@pytest.mark.parametrize("unequal", [False, True])
def test_pictures_with_different_numbers_of_rows_in_one_request(door, unequal):
    """vLLM without our plugin would end at them."""
    door = door(video=True, method="uniform", keep=0.25, unequal_rows=unequal)
    frames = [part(data_url(picture_bytes(seed))) for seed in range(3)]
    body = chat(frames[0], frames[1], {"type": "text", "text": "and"}, frames[2])
    answer = door.post(body)
    if unequal:
        assert [len(rows) for rows in rows_in(door.chats[-1].body)] == [98, 49]
    else:
        assert answer.headers["x-tokenprune-vision-stage"] == "failed:unequal-rows"
        assert json.loads(door.chats[-1].body) == body


@pytest.mark.parametrize("unequal", [False, True])
def test_requests_with_different_numbers_of_rows_are_not_upstream_together(door, stub, unequal):
    door = door(unequal_rows=unequal)
    url = data_url(picture_bytes())
    door.post(chat(part(url)))
    answering, plain, inside, seen = threading.Event(), stub.script, [], []

    async def script(request, writer):
        inside.append(len(rows_in(request.body)[0]))
        seen.append(set(inside))
        await asyncio.to_thread(answering.wait, 30)
        inside.remove(len(rows_in(request.body)[0]))
        await plain(request, writer)

    stub.script = script
    bodies = [{**chat(part(url)), "tokenprune": {"vision": {"keep": keep}}} for keep in (49, 49, 20, 49, 20)]
    threads = [threading.Thread(target=door.post, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + (20 if unequal else 0.5)
    while len(seen) < len(bodies) and time.monotonic() < deadline:
        time.sleep(0.02)
    answering.set()
    for thread in threads:
        thread.join()
    assert len(seen) == len(bodies)
    assert (max(map(len, seen)) > 1) is unequal


def test_frames_encoded_apart_are_the_video_encoded_together(encoder):
    from tokenprune.vision.items import film

    frames = [read_image(picture_bytes(seed)).image for seed in range(3)]
    whole = encoder.encode([], [frames])[0]
    mine = film([encoder.items([image])[0] for image in frames]).tokens
    for name in ("features", "received", "cls", "keys"):
        torch.testing.assert_close(getattr(mine, name), getattr(whole, name), rtol=1e-4, atol=1e-5)
    for name in ("frame", "row", "col"):
        assert torch.equal(getattr(mine, name), getattr(whole, name))
    assert (mine.grid, mine.heads) == (whole.grid, whole.heads)


def test_a_request_without_pictures_is_untouched(door):
    door = door()
    odd = b'{ "model":"m", "messages": [{"role":"user","content":[{"type":"text","text":"h\\u0069"}]}] }'
    answer = door.post(odd)
    assert door.chats[-1].body == odd
    assert "x-tokenprune-vision-stage" not in answer.headers
    assert door.probes == 0


def test_texts_and_pictures_are_pruned_in_one_request(door):
    door = door(server={"gate": "off"})
    noise = "\n".join(f"Line {n} says nothing of use to anyone." for n in range(60))
    document = f"{noise}\nThe lighthouse is orange.\n{noise}"
    question = "What colour has the lighthouse?"
    text = {"type": "text", "text": f"Context:\n{document}\n\nQuestion: {question}\nAnswer:"}
    body = {"model": "m", "messages": [{"role": "user", "content": [part(data_url(picture_bytes())), text]}]}
    answer = door.post(body)
    sent = json.loads(door.chats[-1].body)["messages"][0]["content"]
    assert sent[0]["type"] == "image_embeds"
    assert "The lighthouse is orange." in sent[1]["text"]
    assert "nothing of use" not in sent[1]["text"]
    receipt = door.receipt(answer)
    assert len(receipt["pictures"]) == 1
    assert receipt["results"][0]["originals"]


@pytest.mark.parametrize(("fail", "status"), [("open", 200), ("closed", 503)])
def test_a_failure_with_the_texts_stays_one(door, fail, status):
    door = door(server={"gate": "off", "pipeline": "broken", "fail": fail})
    lines = "\n".join(f"Line {n} says nothing of use to anyone." for n in range(60))
    text = {"type": "text", "text": f"Context:\n{lines}\n\nQuestion: What colour has it?\nAnswer:"}
    body = {"model": "m", "messages": [{"role": "user", "content": [part(data_url(picture_bytes())), text]}]}
    answer = door.post(body)
    assert answer.status_code == status
    assert answer.headers["x-tokenprune-decision"] == "failed:ZeroDivisionError"
    assert len(door.chats) == (1 if fail == "open" else 0)
    if fail == "open":
        assert len(rows_in(door.chats[0].body)[0]) == 49


def test_a_stream_passes(door):
    door = door()
    answer = door.post(chat(part(data_url(picture_bytes())), stream=True))
    assert answer.headers["x-tokenprune-vision-stage"] == "embeds"
    assert answer.text.endswith("data: [DONE]\n\n")
    assert len(rows_in(door.chats[-1].body)) == 1


@pytest.mark.parametrize(
    ("reads", "reason"),
    [
        (Reads(embeds=False), "no-embeds"),
        (Reads(fixed=PATCHES), "fixed-placeholders"),
        (Reads(size=SIZE + 64), "hidden-size"),
        (Reads(pixels=PATCHES + 1), "grid-mismatch"),
        (Reads(logprob={True: -0.5, False: -3.0}), "answer-mismatch"),
    ],
)
@pytest.mark.parametrize("fail", ["open", "closed"])
def test_what_the_upstream_cannot_take_goes_as_it_came(door, reads, reason, fail):
    door = door(reads, {"fail": fail})
    body = json.dumps(chat(part(data_url(picture_bytes())))).encode()
    for _ in range(2):
        answer = door.post(body)
        assert answer.headers["x-tokenprune-decision"] == f"failed:{reason}"
        assert answer.headers["x-tokenprune-vision-stage"] == f"failed:{reason}"
        if fail == "open":
            assert answer.status_code == 200
            assert door.chats[-1].body == body
        else:
            assert answer.status_code == 503
            assert not door.chats
    assert 1 <= door.probes <= 3


def test_an_upstream_that_is_no_vllm(door, stub):
    door = door()
    stub.models = b'{"object":"list","data":[{"id":"m","owned_by":"somebody"}]}'

    async def script(request, writer):
        bad = b"image_embeds" in request.body
        await stub.answer(writer, b"{}", b"400 Bad Request" if bad else b"200 OK")

    stub.script = script
    answer = door.post(chat(part(data_url(picture_bytes()))))
    assert answer.headers["x-tokenprune-decision"] == "failed:not-vllm"
    assert answer.status_code == 200


def test_a_vllm_that_takes_nothing_but_rows(door):
    door = door(Reads(pixels=None))
    answer = door.post(chat(part(data_url(picture_bytes()))))
    assert answer.headers["x-tokenprune-vision-stage"] == "embeds"


def test_an_upstream_that_refuses_later_is_asked_again(door, stub, monkeypatch):
    monkeypatch.setattr("tokenprune_server.vision.support._RETRY_S", 0.0)
    door = door()
    body = chat(part(data_url(picture_bytes())))
    assert door.post(body).status_code == 200
    stub.script = reading(stub, Reads(embeds=False))
    assert door.post(body).status_code == 400
    answer = door.post(body)
    assert answer.status_code == 200
    assert answer.headers["x-tokenprune-decision"] == "failed:no-embeds"


@pytest.fixture
def broken_model(tmp_path):
    """A checkpoint that looks whole until its weights are read."""
    from tokenprune.models.catalog import SHIPPED

    shutil.copytree(SHIPPED["llava-mini"].folder, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return str(tmp_path / "broken")


def loaded(door):
    """The answer of /readyz once the start is over."""
    while "loading" in (ready := httpx.get(f"{door.url}/readyz")).json().get("reason", ""):
        time.sleep(0.05)
    return ready


@pytest.mark.parametrize(("fail", "status"), [("open", 200), ("closed", 503)])
def test_an_encoder_that_cannot_be_loaded(door, broken_model, caplog, fail, status):
    """Said once, in one line that names the setting, however many requests there are."""
    broken = door(server={"fail": fail}, model=broken_model)
    ready = loaded(broken)
    assert ready.status_code == 503
    reason = ready.json()["reason"]
    assert "server.vision.model" in reason and "pipeline" not in reason
    rows = broken.post(chat({"type": "image_embeds", "image_embeds": "UEsDBA=="}))
    assert rows.status_code == 503  # unchecked rows do not go
    assert not broken.chats
    for _ in range(3):
        answer = broken.post(chat(part(data_url(picture_bytes()))))
        assert answer.status_code == status
        assert answer.headers["x-tokenprune-decision"] == "failed:ModelError"
    assert "server.vision.model" in rows.json()["error"]["message"]
    said = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 2  # at the start, and of the requests
    assert not any(record.exc_info for record in said)
    assert all("server.vision.model" in r.getMessage() and "\n" not in r.getMessage() for r in said)


def test_an_encoder_that_can_be_loaded_by_now_is_ready(door, broken_model):
    """Texts that are pruned say nothing of it."""
    from tokenprune.models.catalog import SHIPPED

    late = door(server={"gate": "off"}, model=broken_model)
    assert loaded(late).status_code == 503
    lines = "\n".join(f"Line {n} says nothing of use to anyone." for n in range(60))
    question = "What colour has the lighthouse?"
    text = f"Context:\n{lines}\nThe lighthouse is orange.\n\nQuestion: {question}\nAnswer:"
    answer = late.post({"model": "m", "messages": [{"role": "user", "content": text}]})
    assert answer.headers["x-tokenprune-decision"] == "pruned"
    assert loaded(late).status_code == 503
    shutil.copy(SHIPPED["llava-mini"].folder / "model.safetensors", broken_model)
    answer = late.post(chat(part(data_url(picture_bytes()))))
    assert answer.headers["x-tokenprune-vision-stage"] == "embeds"
    assert loaded(late).status_code == 200


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("smollm2-135m", "'smollm2-135m' is a model for causal-lm"),
        ("no-such-model", "unknown model"),
        ("./no/such/folder", "no model folder"),
        ("{empty}", "config.json"),
        ("{text}", "is of type 'llama'"),
    ],
)
def test_a_model_without_a_vision_part_is_refused_at_the_start(door, tmp_path, model, says):
    for name in ("empty", "text"):
        (tmp_path / name).mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "llama", "vision_config": []}')
    model = model.format(empty=tmp_path / "empty", text=tmp_path / "text")
    with pytest.raises(ConfigError, match=r"^server\.vision\.model: .*" + re.escape(says)) as caught:
        door(model=model)
    assert "\n" not in str(caught.value)


def test_work_that_takes_too_long(door, monkeypatch):
    from tokenprune_server.vision.reduce import PictureReducer

    waiting = threading.Event()
    monkeypatch.setattr(PictureReducer, "__call__", lambda *_: waiting.wait(10))
    door = door(timeout_s=0.2)
    body = chat(part(data_url(picture_bytes())))
    answer = door.post(body)
    waiting.set()
    assert answer.headers["x-tokenprune-decision"] == "failed:timeout"
    assert json.loads(door.chats[-1].body) == body


def test_a_client_that_leaves_stops_the_work(door, monkeypatch):
    from tokenprune_server.vision.reduce import PictureReducer

    begun, waiting = threading.Event(), threading.Event()

    def work(*_):
        begun.set()
        waiting.wait(10)
        raise AssertionError("nobody wants to know")

    monkeypatch.setattr(PictureReducer, "__call__", work)
    door = door()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{door.url}/v1/chat/completions",
            json=chat(part(data_url(picture_bytes()))),
            timeout=httpx.Timeout(10, read=0.5),
        )
    assert begun.wait(5)
    waiting.set()
    assert door.post(b'{"messages": []}').status_code == 200
    assert len(door.chats) == 1


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ([{"type": "image_url", "uuid": "abc", "image_url": None}], "mixed"),
        ([{"type": "image_pil", "image_pil": 1}], "mixed"),
        ([part("https://example.com/a.png")], "not-fetched"),
    ],
)
def test_pictures_that_cannot_be_read_here_leave_all_as_it_is(door, more, reason):
    door = door()
    body = json.dumps(chat(part(data_url(picture_bytes())), *more)).encode()
    answer = door.post(body)
    assert answer.headers["x-tokenprune-vision-stage"] == f"skipped:{reason}"
    assert door.chats[-1].body == body


def test_a_uuid_does_not_go_with_other_rows(door):
    door = door()
    door.post(chat({**part(data_url(picture_bytes())), "uuid": "the-picture"}))
    assert b"the-picture" not in door.chats[-1].body


def test_the_picture_of_the_receipt_is_that_of_the_file(door):
    import hashlib

    data = picture_bytes(9)
    door = door()
    answer = door.post(chat(part(data_url(data))))
    assert door.receipt(answer)["pictures"][0]["sha256"] == hashlib.sha256(data).hexdigest()


def test_pillow_formats(door):
    door = door()
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        answer = door.post(chat(part(data_url(picture_bytes(1, (300, 120), kind), f"image/{kind.lower()}"))))
        assert answer.headers["x-tokenprune-vision-stage"] == "embeds", kind
