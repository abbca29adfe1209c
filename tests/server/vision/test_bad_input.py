"""Pictures and rows that cannot be used: a clear answer, and nothing goes upstream."""

import base64
import io
import json
import zipfile

import httpx
import numpy as np
import pytest
import torch
from bad_pictures import BAD_PICTURES, GOOD
from vision_world import SIZE, chat, data_url, part, rows_in

from tokenprune.errors import VisionError
from tokenprune_server.vision.wire import check_payload


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_picture_that_cannot_be_used(door, name):
    url, says = BAD_PICTURES[name]
    door = door(max_image_bytes=1_000_000)
    answer = door.post(chat(part(data_url(GOOD)), part(url)))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert says in error["message"]
    assert "messages.0.content.1" in error["message"]
    assert error["param"] == "messages.0.content.1"
    assert not door.posts


def test_too_many_pictures(door):
    door = door(max_images=2)
    answer = door.post(chat(*[part(data_url(GOOD))] * 3))
    assert answer.status_code == 400
    assert "max_images" in answer.json()["error"]["message"]
    assert not door.posts


@pytest.mark.parametrize(
    "content",
    [
        [
            None,
            7,
            "text",
            [],
            {"type": 3},
            {"type": "image_url"},
            {"image_url": 5},
            {"type": "image_url", "image_url": []},
        ],
        {"type": "image_url"},
        None,
    ],
)
def test_odd_parts_are_the_upstreams_business(door, content):
    door = door()
    body = {"model": "m", "messages": [{"role": "user", "content": content}, None, 3]}
    assert door.post(body).status_code == 200
    assert json.loads(door.chats[-1].body) == body


def saved(tensor):
    with io.BytesIO() as file:
        torch.save(tensor, file)
        return file.getvalue()


def npy(array):
    with io.BytesIO() as file:
        np.save(file, array)
        return file.getvalue()


def rows(n=3, size=SIZE):
    return torch.ones(n, size)


def zip_bomb():
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(50_000_000))
        return file.getvalue()


BAD_ROWS = {
    "garbage": (b"garbage" * 20, "neither"),
    "empty": (saved(rows(0)), "from 1 to"),
    "hidden-size": (saved(rows(3, SIZE + 1)), "hidden size is 192"),
    "flat": (saved(torch.ones(SIZE)), "dimensions"),
    "batch": (saved(rows().unsqueeze(0)), "dimensions"),
    "nan": (saved(torch.full((2, SIZE), float("nan"))), "NaN"),
    "infinity": (npy(np.full((2, SIZE), np.inf, np.float32)), "infinity"),
    "integers": (saved(torch.ones(2, SIZE, dtype=torch.int64)), "float16"),
    "eight-bits": (saved(rows().to(torch.float8_e4m3fn)), "float16"),
    "meta": (saved(torch.ones(2, SIZE, device="meta")), "device 'meta'|one dense tensor"),
    "gradient": (saved(rows().requires_grad_()), "gradients"),
    "sparse": (saved(rows().to_sparse()), "dense"),
    "list": (saved([rows()]), "one dense tensor"),
    "cut": (saved(rows())[:-200], "cannot be read"),
    "view-of-much": (saved(torch.ones(1, SIZE).expand(500_000, SIZE)), "bytes"),
    "zip-bomb": (zip_bomb(), "unpacked"),
    "npy-hidden-size": (npy(np.ones((3, 5), np.float32)), "hidden size"),
    "npy-cut": (npy(np.ones((3, SIZE), np.float32))[:-100], ".npy"),
    "npy-objects": (npy(np.array([{}], dtype=object)), ".npy"),
    "npy-claims-much": (npy(np.ones((3, SIZE), np.float32)).replace(b"(3, 192)", b"(3e9,19)"), ".npy"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_would_make_the_upstream_fail(name):
    data, says = BAD_ROWS[name]
    with pytest.raises(VisionError, match=says):
        check_payload(base64.b64encode(data).decode(), SIZE, 10_000_000)


@pytest.mark.parametrize("payload", [None, {"a": "b"}, 3, "???", ["x"]])
def test_rows_that_are_no_base64(payload):
    with pytest.raises(VisionError, match="base64"):
        check_payload(payload, SIZE, 10_000_000)


def test_rows_of_the_client_that_would_make_the_upstream_fail(door):
    door = door()
    for data in (BAD_ROWS["empty"][0], BAD_ROWS["hidden-size"][0], BAD_ROWS["nan"][0]):
        payload = base64.b64encode(data).decode()
        answer = door.post(chat({"type": "image_embeds", "image_embeds": payload}))
        assert answer.status_code == 400
        assert "messages.0.content.0" in answer.json()["error"]["message"]
    uneven = [
        {"type": "image_embeds", "image_embeds": base64.b64encode(saved(rows(n))).decode()} for n in (2, 3)
    ]
    off = {**chat({"type": "image_embeds", "image_embeds": payload}), "tokenprune": {"enabled": False}}
    assert door.post(off).status_code == 400  # it is the upstream that is at stake
    assert "different numbers" in door.post(chat(*uneven)).json()["error"]["message"]
    assert not door.posts


@pytest.mark.parametrize(
    "data", [saved(rows(5)), saved(rows(5).bfloat16()), npy(np.ones((5, SIZE), np.float32))]
)
def test_good_rows_of_the_client_go_as_they_came(door, data):
    door = door()
    body = json.dumps(
        chat({"type": "image_embeds", "image_embeds": base64.b64encode(data).decode()})
    ).encode()
    answer = door.post(body)
    assert answer.headers["x-tokenprune-vision-stage"] == "skipped:embeds-given"
    assert door.chats[-1].body == body


def rows_part(data):
    return {"type": "image_embeds", "image_embeds": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    ("more", "options", "stage"),
    [
        (part(data_url(GOOD)), {}, "mixed"),
        (part(data_url(GOOD)), {"enabled": False}, "disabled"),
        (part(data_url(GOOD)), {"vision": {"enabled": False}}, "disabled"),
        ({"type": "image_pil", "image_pil": 1}, {}, "mixed"),
        (part("https://example.com/a.png"), {}, "mixed"),
    ],
)
def test_rows_beside_pictures_are_checked_too(door, more, options, stage):
    door = door()
    options = {"tokenprune": options} if options else {}
    for name in ("empty", "hidden-size", "garbage"):
        data, says = BAD_ROWS[name]
        answer = door.post({**chat(more, rows_part(data)), **options})
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == "messages.0.content.1"
    assert not door.posts
    body = chat(more, rows_part(saved(rows(5))))
    answer = door.post({**body, **options})
    assert answer.headers["x-tokenprune-vision-stage"] == f"skipped:{stage}"
    assert json.loads(door.chats[-1].body) == body


def test_rows_are_checked_when_no_thread_is_free(door, monkeypatch):
    from tokenprune_server.pool import PrunePool

    monkeypatch.setattr(PrunePool, "waiting", property(lambda pool: pool.max_waiting))
    door = door(server={"min_document_tokens": 1})
    answer = door.post(chat(rows_part(BAD_ROWS["empty"][0]), text="word " * 300))
    assert answer.status_code == 400
    answer = door.post(chat(part(data_url(GOOD)), text="word " * 300))
    assert answer.headers["x-tokenprune-vision-stage"] == "skipped:overloaded"


@pytest.mark.parametrize(("headers", "reason"), [({}, "too-large"), ({"content-encoding": "br"}, "encoding")])
def test_a_body_that_is_not_read_says_so(door, headers, reason):
    door = door(server={"max_body_bytes": 1000 if reason == "too-large" else 10**6})
    body = json.dumps(chat(part(data_url(GOOD)), text="word " * 300)).encode()
    answer = door.post(body, headers)
    assert answer.headers["x-tokenprune-decision"] == f"skipped:{reason}"
    assert answer.headers["x-tokenprune-vision-stage"] == f"skipped:{reason}"
    assert door.chats[-1].body == body


@pytest.mark.parametrize("where", ["first", "across", "last"])
@pytest.mark.parametrize("key", ["image_embeds", "image\\u005fembeds", "\\u0069mage_embeds"])
def test_rows_in_a_body_that_is_not_read_do_not_pass(door, where, key):
    """Wherever they stand in what streams through, and however their name is written."""
    door = door(server={"max_body_bytes": 1000})
    before, behind = {"first": (0, 9000), "across": (4000, 9000), "last": (9000, 0)}[where]
    name = key.encode()
    body = b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "%s"}, ' % (b"x" * before)
    body += b'{"type": "%s", "%s": "UEsDBA=="}, {"type": "text", "text": "%s"}]}]}' % (
        name,
        name,
        b"x" * behind,
    )
    pieces = [body]
    if where == "across":
        first = body.index(name) + 4
        second = body.index(name, first) + 4
        pieces = [body[:first], body[first:second], body[second:]]
    answer = door.post_in_pieces(pieces)
    assert answer.status_code == 413
    assert "server.max_body_bytes" in answer.json()["error"]["message"]
    assert answer.headers["x-tokenprune-vision-stage"] == "skipped:too-large"
    assert not any(
        request.finished.is_set() or request.body.endswith(b"]}") for request in door.stub.requests
    )


def test_a_large_body_that_speaks_of_rows_passes(door):
    door = door(server={"max_body_bytes": 1000})
    body = json.dumps(
        chat(part(data_url(GOOD)), text='what are "image_embeds", image_embeds ? ' * 90)
    ).encode()
    answer = door.post(body)
    assert (answer.status_code, answer.headers["x-tokenprune-vision-stage"]) == (200, "skipped:too-large")
    assert door.chats[-1].body == body


@pytest.mark.parametrize("odd", ['"seed": 1, "seed": 1', '"temperature": NaN', '"temperature": 1e999'])
def test_rows_in_json_that_cannot_be_written_again_do_not_pass(door, odd):
    door = door()
    body = json.dumps(chat(rows_part(BAD_ROWS["empty"][0])))[:-1] + f", {odd}}}"
    answer = door.post(body.encode())
    assert answer.status_code == 400
    assert "image_embeds, which cannot be checked here" in answer.json()["error"]["message"]
    assert not door.posts
    plain = json.dumps(chat(part(data_url(GOOD))))[:-1] + f", {odd}}}"
    assert door.post(plain.encode()).headers["x-tokenprune-vision-stage"] == "skipped:encoding"


def test_an_encoder_whose_numbers_cannot_be_used(door, monkeypatch):
    """Rows that are not finite never go; the picture does."""
    from dataclasses import replace

    from tokenprune.vision.encoder import VisionEncoder

    plain = VisionEncoder.encode_prepared

    def broken(self, pixels):
        made = plain(self, pixels)
        wild = [replace(item.tokens, features=item.tokens.features * float("inf")) for item in made]
        return [replace(item, tokens=tokens) for item, tokens in zip(made, wild, strict=True)]

    monkeypatch.setattr(VisionEncoder, "encode_prepared", broken)
    door = door()
    body = chat(part(data_url(GOOD)))
    answer = door.post(body)
    assert answer.headers["x-tokenprune-vision-stage"] == "failed:VisionError"
    assert json.loads(door.chats[-1].body) == body
    assert not any(rows_in(request.body) for request in door.posts)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32-le"])
def test_rows_in_other_encodings_do_not_pass(door, encoding):
    door = door()
    body = json.dumps(chat(rows_part(BAD_ROWS["empty"][0])))[:-1] + ', "seed": 1, "seed": 1}'
    answer = door.post(body.encode(encoding))
    assert (answer.status_code, door.chats) == (400, [])
    assert "image_embeds" in answer.json()["error"]["message"]


def test_rows_without_a_key_of_this_server_do_not_pass(door):
    door = door(server={"api_keys": ["sk-1"]})
    answer = door.post(json.dumps(chat(rows_part(BAD_ROWS["empty"][0]))).encode())
    assert (answer.status_code, door.chats) == (400, [])


@pytest.mark.parametrize("rows", [True, False])
def test_rows_do_not_pass_where_nothing_is_read(door, rows):
    door = door()
    body = chat(rows_part(BAD_ROWS["empty"][0])) if rows else chat(part(data_url(GOOD)))
    answer = httpx.post(f"{door.url}/upstream/v1/chat/completions", json=body, timeout=20)
    assert (answer.status_code, len(door.chats)) == ((400, 0) if rows else (200, 1))
