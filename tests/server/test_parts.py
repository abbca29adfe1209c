"""Receipts, metrics, settings and the thread pool."""

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import is_given_up

from tokenprune.document import Document
from tokenprune.errors import ConfigError
from tokenprune.receipt import PruneResult, Receipt, UnitRecords
from tokenprune_server.body import ClientGone, Replay, decoded, read_body
from tokenprune_server.metrics import Metrics
from tokenprune_server.pool import PrunePool
from tokenprune_server.receipts import ReceiptStore
from tokenprune_server.settings import ServerSettings


def result(text="original text", kept="text"):
    document = Document(text, kind="text", id="a")
    units = UnitRecords.whole(len(text), 2, kept=True, stage="s", reason="r")
    receipt = Receipt("a", units, 2, 1)
    return PruneResult([document.with_text(kept)], [receipt], 2, 1, 0.1, {}, {"a": document})


class TestReceipts:
    def test_give_back_what_was_put(self):
        store = ReceiptStore(10, 10**6)
        stored = store.get(store.put("q", [result()]))
        assert stored.to_dict()["results"][0]["originals"] == {"a": "original text"}
        assert stored.to_dict()["results"][0]["documents"][0]["text"] == "text"
        assert store.get("rcpt_unknown") is None

    def test_count_is_bounded_and_the_oldest_leaves(self):
        store = ReceiptStore(2, 10**6)
        first, second = store.put("1", [result()]), store.put("2", [result()])
        assert store.get(first) is not None
        third = store.put("3", [result()])
        assert store.get(second) is None
        assert store.get(first) is not None
        assert store.get(third) is not None
        assert len(store) == 2

    @given(st.lists(st.text(max_size=50).map(lambda t: t * 200), max_size=12))
    def test_bytes_are_bounded(self, texts):
        store = ReceiptStore(100, 40_000)
        for text in texts:
            store.put("q", [result(text)])
            assert store.bytes <= 40_000
            assert (store.bytes == 0) == (len(store) == 0)

    @pytest.mark.parametrize(("count", "size"), [(0, 10**6), (10, 10)])
    def test_too_large_is_not_kept(self, count, size):
        store = ReceiptStore(count, size)
        assert store.get(store.put("q", [result()])) is None
        assert (len(store), store.bytes) == (0, 0)

    def test_ids_differ(self):
        store = ReceiptStore(1000, 10**7)
        assert len({store.put("q", [result()]) for _ in range(200)}) == 200


def test_metrics():
    metrics = Metrics()
    metrics.decided("pruned", 0.02, tried=True)
    metrics.decided("skipped:no-query", 0.0002, tried=False)
    metrics.pruned(1000, 250, 77)
    metrics.first_byte("skipped:no-query", 0.3)
    metrics.upstream_error("broken")
    lines = set(metrics.render().decode().splitlines())
    assert lines >= {
        'tokenprune_requests_total{decision="pruned"} 1.0',
        'tokenprune_requests_total{decision="skipped:no-query"} 1.0',
        "tokenprune_document_tokens_before_total 1000.0",
        "tokenprune_document_tokens_after_total 250.0",
        "tokenprune_prune_seconds_count 1.0",
        "tokenprune_proxy_seconds_count 1.0",
        'tokenprune_time_to_first_byte_seconds_count{outcome="skipped"} 1.0',
        'tokenprune_upstream_errors_total{kind="broken"} 1.0',
        "tokenprune_receipt_bytes 77.0",
    }


class TestSettings:
    def test_environment_wins_over_the_file(self, monkeypatch):
        monkeypatch.setenv("TOKENPRUNE_SERVER_TIMEOUT_S", "3")
        settings = ServerSettings.load({"timeout_s": 7, "fail": "closed"})
        assert (settings.timeout_s, settings.fail) == (3, "closed")

    @pytest.mark.parametrize(
        ("server", "word"),
        [
            ({"fail": "ajar"}, "fail"),
            ({"timeout": 1}, "timeout_s"),
            ({"workers": 0}, "workers"),
            ({"queue": "x"}, "queue"),
        ],
    )
    def test_wrong_values_are_named(self, server, word):
        with pytest.raises(ConfigError, match=word):
            ServerSettings.load(server)

    @pytest.mark.parametrize(
        ("server", "known"),
        [
            ({"tokens": {"keeep": 3}}, "known settings of tokens: model, "),
            ({"vision": {"keeep": 3}}, "known settings of vision: "),
            (
                {"tokens": {"model": "m", "method": "specprefill", "layer": 3}},
                "'specprefill' has no layer: leave it out, or use gemfilter-q or gemfilter; known settings of ",
            ),
            ({"tokens": {"model": "m", "method": "lazyllm", "near": 3}}, "'lazyllm' has no near: "),
            ({"tokens": {"model": "m", "method": "gemfilter", "kernel": 3}}, "or use gemfilter-q; known "),
            ({"tokens": {"keeep": 3}, "fail": "ajar"}, "known settings: "),
        ],
    )
    def test_what_is_known_is_said_of_the_part_that_is_wrong(self, server, known):
        with pytest.raises(ConfigError, match=known):
            ServerSettings.load(server)

    def test_a_list_in_the_environment_is_json(self, monkeypatch):
        monkeypatch.setenv("TOKENPRUNE_SERVER_API_KEYS", "secret")
        with pytest.raises(ConfigError, match=r"api_keys.*must be JSON"):
            ServerSettings.load()
        monkeypatch.setenv("TOKENPRUNE_SERVER_API_KEYS", '["secret"]')
        assert len(ServerSettings.load().api_keys) == 1

    def test_keys_are_not_shown(self):
        assert "sk-secret" not in repr(ServerSettings.load({"api_keys": ["sk-secret"]}))

    def test_every_field_is_described(self):
        assert all(field.description for field in ServerSettings.model_fields.values())


class TestPool:
    async def test_counts_what_runs_and_waits(self):
        pool = PrunePool(1, 1)
        release = threading.Event()
        futures = [pool.submit(release.wait) for _ in range(2)]
        assert pool.waiting == pool.max_waiting == 2
        futures[1].cancel()
        release.set()
        assert await futures[0] is True
        await asyncio.sleep(0.05)
        assert pool.waiting == 0
        pool.shutdown()

    async def test_an_abandoned_failure_is_silent(self):
        pool = PrunePool(1, 1)

        def fail():
            time.sleep(0.05)
            raise ValueError("late")

        future = pool.submit(fail)
        await asyncio.wait({future}, timeout=0.01)
        future.cancel()
        await asyncio.sleep(0.1)
        with pytest.raises(ValueError, match="late"):
            await pool.submit(fail)
        pool.shutdown()

    async def test_shutdown_ends_what_runs(self):
        pool = PrunePool(1, 1)
        ended = threading.Event()

        def work():
            if is_given_up(20):
                ended.set()

        futures = [pool.submit(work) for _ in range(2)]
        await asyncio.sleep(0.05)
        pool.shutdown()
        assert await asyncio.to_thread(ended.wait, 5)
        await asyncio.wait(futures, timeout=5)
        assert pool.waiting == 0


class TestBody:
    async def test_parts_are_joined_and_limited(self):
        parts = [{"type": "http.request", "body": b"ab", "more_body": n < 2} for n in range(3)]

        def receiver():
            return Replay(list(parts), None)

        assert await read_body(receiver(), 6) == (b"ababab", [])
        body, messages = await read_body(receiver(), 3)
        assert (body, messages) == (b"", parts[:2])

    async def test_leaving_is_noticed(self):
        with pytest.raises(ClientGone):
            await read_body(Replay([{"type": "http.disconnect"}], None), 6)

    def test_decoded(self):
        assert decoded(b"x", b"", 1) == decoded(b"x", b"identity", 1) == b"x"
        assert decoded(b"x", b"zstd", 9) is None
