"""Pictures that are given by URL: fetched only from where that is allowed, and only as much as is allowed."""

import asyncio
import socket

import pytest
from vision_world import chat, data_url, part, picture_bytes, rows_in

from tokenprune_server.errors import RequestError
from tokenprune_server.vision.parts import Picture
from tokenprune_server.vision.sources import Fetcher, is_public

GOOD = picture_bytes()


@pytest.fixture
def files(serve):
    """A server of pictures: path -> (status, headers, chunks)."""
    known = {}
    asked = []

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        asked.append(scope)
        status, headers, chunks = known.get(scope["path"], (404, [], [b"no"]))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for chunk in chunks:
            if isinstance(chunk, float):
                await asyncio.sleep(chunk)
            else:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    url = serve(app)
    known["/good.png"] = (200, [(b"content-type", b"application/octet-stream")], [GOOD[:100], GOOD[100:]])
    return url, known, asked


def test_a_fetched_picture_is_as_good_as_one_in_the_request(door, files):
    url, _, asked = files
    door = door(allow_remote=True, allow_private=True)
    answer = door.post(chat(part(f"{url}/good.png")), {"authorization": "Bearer secret", "cookie": "a=b"})
    assert answer.headers["x-tokenprune-vision-stage"] == "embeds"
    door.post(chat(part(data_url(GOOD))))
    one, two = (rows_in(r.body)[0] for r in door.chats)
    assert one.equal(two)
    sent = dict(asked[0]["headers"])
    assert b"authorization" not in sent
    assert b"cookie" not in sent


def fetch(url, **options):
    settings = {"max_bytes": 100_000, "timeout_s": 1.0, "allow_private": True} | options
    return asyncio.run(Fetcher(**settings)(Picture(("messages", 0, "content", 1), url)))


def test_limits(files):
    url, known, _ = files
    assert fetch(f"{url}/good.png") == GOOD
    known["/large"] = (200, [], [bytes(60_000)] * 3)
    known["/slow"] = (200, [], [b"a", 5.0, b"b"])
    known["/empty"] = (200, [], [])
    known["/loop"] = (302, [(b"location", b"/loop")], [])
    known["/once"] = (301, [(b"location", b"/good.png")], [])
    known["/file"] = (302, [(b"location", b"file:///etc/passwd")], [])
    assert fetch(f"{url}/once") == GOOD
    for path, says in [
        ("/large", "more than 100000 bytes"),
        ("/slow", "within 1 s"),
        ("/empty", "empty"),
        ("/loop", "redirects"),
        ("/file", "only http and https"),
        ("/nothing", "answered 404"),
    ]:
        with pytest.raises(RequestError, match=says) as caught:
            fetch(url + path)
        assert caught.value.status == 400
        assert caught.value.param == "messages.0.content.1"
    with pytest.raises(RequestError, match="could not be fetched"):
        fetch("http://127.0.0.1:1/a.png")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0",
        "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1",  # yarl maps both to 127.0.0.1
    ],
)  # fmt: skip
def test_private_addresses_are_not_asked(files, host):
    url, _, asked = files
    port = url.rsplit(":", 1)[1]
    with pytest.raises(RequestError, match=r"could not be fetched|not public"):
        fetch(f"http://{host}:{port}/good.png", allow_private=False)
    assert not asked


def test_a_public_name_that_leads_to_a_private_address(files, monkeypatch):
    url, _, asked = files
    port = int(url.rsplit(":", 1)[1])

    def lead(host, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", lead)
    with pytest.raises(RequestError, match="not public"):
        fetch(f"http://pictures.example:{port}/good.png", allow_private=False)
    assert not asked


def test_a_redirect_to_a_private_address(files, monkeypatch):
    url, known, asked = files
    port = url.rsplit(":", 1)[1]
    known["/away"] = (302, [(b"location", f"http://127.0.0.1:{port}/good.png".encode())], [])
    monkeypatch.setattr("tokenprune_server.vision.sources.is_public", lambda host: host != "127.0.0.1")
    with pytest.raises(RequestError, match="not public"):
        fetch(f"http://[::ffff:127.0.0.1]:{port}/away", allow_private=False)
    assert [scope["path"] for scope in asked] in ([], ["/away"])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700:4700::1111", True), ("10.1.2.3", False), ("192.168.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False), ("fe80::1%eth0", False),
        ("fd00::1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a9fe:a9fe", False), ("2002:7f00:1::", False),
        ("0.0.0.0", False), ("::", False),
    ],
)  # fmt: skip
def test_public(address, public):
    assert is_public(address) is public
