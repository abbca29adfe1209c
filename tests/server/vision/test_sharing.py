"""Pictures of one client beside those of others: who waits for whom, and what one request may ask for."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from patience import is_given_up
from vision_world import chat, data_url, part, parts_in, picture_bytes

from tokenprune.given_up import GivenUpError, when
from tokenprune.vision.encoder import VisionEncoder
from tokenprune_server.errors import RequestError
from tokenprune_server.options import VisionOptions
from tokenprune_server.vision import reduce
from tokenprune_server.vision.files import open_files
from tokenprune_server.vision.parts import Picture
from tokenprune_server.vision.plan import plan
from tokenprune_server.vision.reduce import PictureReducer
from tokenprune_server.vision.settings import VisionSettings

URLS = [data_url(picture_bytes(seed)) for seed in range(8)]


class Held:
    """Encodings of pictures that have begun and do not end before they are let go."""

    def __init__(self, monkeypatch):
        self.begun, self.going = threading.Event(), threading.Event()
        plain = VisionEncoder.encode_prepared

        def encode(encoder, pixels):
            self.begun.set()
            assert self.going.wait(30)
            return plain(encoder, pixels)

        monkeypatch.setattr(VisionEncoder, "encode_prepared", encode)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.going.set()


@pytest.mark.parametrize("others", [1, 3])
def test_a_known_picture_waits_for_nobody(door, monkeypatch, others):
    door = door(server={"workers": 2})
    assert door.post(chat(part(URLS[0]))).headers["x-tokenprune-vision-stage"] == "embeds"
    with monkeypatch.context() as patch, ThreadPoolExecutor() as threads, Held(patch) as held:
        slow = [threads.submit(door.post, chat(part(url))) for url in URLS[1 : 1 + others]]
        assert held.begun.wait(10)
        for vision in ({}, {"method": "uniform"}):
            answer = door.post({**chat(part(URLS[0]), text="and now ?"), "tokenprune": {"vision": vision}})
            assert answer.headers["x-tokenprune-vision-stage"] == "embeds"
        assert not any(one.done() for one in slow)
        held.going.set()
        assert {one.result().headers["x-tokenprune-vision-stage"] for one in slow} == {"embeds"}


def test_texts_do_not_wait_for_pictures(door, monkeypatch):
    door = door(server={"workers": 1, "gate": "off"})
    door.post(chat(part(URLS[0])))
    lines = "\n".join(f"Line {n} says nothing of use to anyone." for n in range(60))
    text = (
        f"Context:\n{lines}\nThe lighthouse is orange.\n\nQuestion: What colour has the lighthouse?\nAnswer:"
    )
    with monkeypatch.context() as patch, ThreadPoolExecutor() as threads, Held(patch) as held:
        slow = threads.submit(door.post, chat(part(URLS[1])))
        assert held.begun.wait(10)
        answer = door.post({"model": "m", "messages": [{"role": "user", "content": text}]})
        assert answer.headers["x-tokenprune-decision"] == "pruned"
        assert not slow.done()
        held.going.set()


def test_a_known_picture_does_not_wait_for_texts(door, monkeypatch):
    """Nor do rows of a client, whose check is short."""
    from tokenprune_server.rewrite import Rewriter

    begun, going, plain = threading.Event(), threading.Event(), Rewriter.__call__

    def rewrite(rewriter, request, **how):
        begun.set()
        assert going.wait(120)
        return plain(rewriter, request, **how)

    door = door(server={"workers": 1, "gate": "off", "timeout_s": 120, "min_document_tokens": 200})
    assert door.post(chat(part(URLS[0]))).headers["x-tokenprune-vision-stage"] == "embeds"
    monkeypatch.setattr(Rewriter, "__call__", rewrite)
    long = {"model": "m", "messages": [{"role": "user", "content": "Context:\n" + "a word or two. " * 300}]}
    with ThreadPoolExecutor() as threads:
        try:
            slow = threads.submit(door.post, long)
            assert begun.wait(10)
            for picture in (URLS[0], URLS[1]):
                answer = threads.submit(door.post, chat(part(picture), text="and now ?")).result(timeout=60)
                assert answer.headers["x-tokenprune-vision-stage"] == "embeds"
            (rows,) = parts_in(door.chats[-1].body, "image_embeds")
            given = threads.submit(door.post, chat({"type": "image_embeds", "image_embeds": rows}))
            assert given.result(timeout=60).headers["x-tokenprune-vision-stage"] == "skipped:embeds-given"
            assert not slow.done()
        finally:
            going.set()


def test_files_are_decoded_beside_the_encoder(door, monkeypatch):
    door = door(server={"workers": 2})
    door.post(chat(part(URLS[0])))
    decoded, plain = threading.Semaphore(0), reduce.decode

    def decode(*args):
        decoded.release()
        return plain(*args)

    monkeypatch.setattr(reduce, "decode", decode)
    with monkeypatch.context() as patch, ThreadPoolExecutor() as threads, Held(patch) as held:
        slow = [threads.submit(door.post, chat(part(url))) for url in URLS[1:3]]
        assert held.begun.wait(10)
        assert decoded.acquire(timeout=10) and decoded.acquire(timeout=10)
        held.going.set()
    assert {one.result().headers["x-tokenprune-vision-stage"] for one in slow} == {"embeds"}


def test_too_many_requests_with_new_pictures(door, monkeypatch):
    door = door(server={"workers": 1, "queue": 0})
    while httpx.get(f"{door.url}/readyz").status_code != 200:
        time.sleep(0.05)  # the start takes the only thread
    assert door.post(chat(part(URLS[0]))).headers["x-tokenprune-vision-stage"] == "embeds"
    with monkeypatch.context() as patch, ThreadPoolExecutor() as threads, Held(patch) as held:
        slow = threads.submit(door.post, chat(part(URLS[1])))
        assert held.begun.wait(10)
        answer = door.post(chat(part(URLS[2])))
        assert answer.headers["x-tokenprune-vision-stage"] == "skipped:overloaded"
        assert door.post(chat(part(URLS[0]))).headers["x-tokenprune-vision-stage"] == "embeds"
        held.going.set()
        assert slow.result().headers["x-tokenprune-vision-stage"] == "embeds"


SETTINGS = VisionSettings(model="llava-mini", dtype="float32")


def opened(urls, settings=SETTINGS):
    pictures = [Picture(("messages", 0, "content", n), url) for n, url in enumerate(urls)]
    return open_files(pictures, [None] * len(urls), settings)


def reduced(reducer, urls, given_up):
    files = opened(urls)
    with when(given_up):
        return reducer(files, [[n] for n in range(len(files))], plan(SETTINGS, VisionOptions(keep=9)))


def test_work_that_nobody_waits_for_ends_between_two_pictures(encoder, monkeypatch):
    given_up, decoded, plain = threading.Event(), [], reduce.decode

    def decode(file, settings):
        decoded.append(file.place)
        if len(decoded) == 2:
            given_up.set()
        return plain(file, settings)

    monkeypatch.setattr(reduce, "decode", decode)
    with pytest.raises(GivenUpError):
        reduced(PictureReducer(SETTINGS), URLS, given_up)
    assert len(decoded) == 2


def test_work_that_nobody_waits_for_does_not_wait_for_the_encoder(encoder, monkeypatch):
    reducer, given_up = PictureReducer(SETTINGS), threading.Event()
    with monkeypatch.context() as patch, ThreadPoolExecutor() as threads, Held(patch) as held:
        first = threads.submit(reduced, reducer, URLS[:1], threading.Event())
        assert held.begun.wait(10)
        second = threads.submit(reduced, reducer, URLS[1:2], given_up)
        assert not second.done()
        given_up.set()
        with pytest.raises(GivenUpError):
            second.result(timeout=10)
        assert not first.done()
        held.going.set()
        assert first.result().encoded == 1


def test_what_is_kept_holds_no_other_picture_of_its_batch(encoder):
    """Its tensors are no views of larger ones, so that their bytes are what they hold in memory."""
    reducer = PictureReducer(SETTINGS)
    reduced(reducer, URLS, threading.Event())
    kept = [value.tokens for _, value in reducer._cache.items() if hasattr(value, "tokens")]
    assert len(kept) == len(URLS)
    for tokens in kept:
        for name in reduce._TENSORS:
            tensor = getattr(tokens, name)
            assert tensor is None or tensor.untyped_storage().nbytes() == tensor.nbytes


def test_a_request_that_took_too_long_is_given_up(door, monkeypatch):
    seen, done = [], threading.Event()

    def work(self, files, groups, how):
        seen.append(is_given_up(20))
        done.set()

    monkeypatch.setattr(PictureReducer, "__call__", work)
    answer = door(timeout_s=0.2).post(chat(part(URLS[0])))
    assert answer.headers["x-tokenprune-decision"] == "failed:timeout"
    assert done.wait(10) and seen == [True]


def test_pixels_of_all_pictures_are_limited(door):
    """A picture counts once, and also where it is known from before."""
    door = door(max_total_pixels=2 * 224 * 224)
    for url in URLS[:3]:
        assert door.post(chat(part(url))).status_code == 200
    assert door.post(chat(part(URLS[0]), part(URLS[1]), part(URLS[0]))).status_code == 200
    before = len(door.chats)
    answer = door.post(chat(*map(part, URLS[:3])))
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert "150,528 pixels" in message and "server.vision.max_total_pixels" in message
    assert len(door.chats) == before


def test_pixels_are_counted_before_any_is_decoded():
    """Of these files no pixel can be decoded."""
    broken = [data_url(picture_bytes(seed, (900, 900))[:60]) for seed in range(3)]
    assert [file.pixels for file in opened(broken)] == [810_000] * 3
    with pytest.raises(RequestError, match="pixels in all"):
        opened([*broken, URLS[0]], SETTINGS.model_copy(update={"max_total_pixels": 800_000}))


def test_a_wrong_media_type_is_refused_whatever_is_known(door):
    """It was accepted once the same bytes were known under their right type."""
    door, data = door(), picture_bytes(3, (64, 64), "BMP")
    for _ in range(2):
        assert door.post(chat(part(data_url(data, "image/jpeg")))).status_code == 400
        assert door.post(chat(part(data_url(data, "image/bmp")))).status_code == 200
    assert 'source="cached"} 1.0' in httpx.get(f"{door.url}/metrics").text
