"""What is remembered of the requests that were sent."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune_server.ledger import (
    Ledger,
    Record,
    Sent,
    block_keys,
    digest,
    place_keys,
    prompt_bytes,
    turn_keys,
)
from tokenprune_server.protocols.base import Span, Turn

SEED = digest("m")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(clock):
    return Ledger(10**7, 60, clock)


def turn(text, n=0, role="user"):
    return Turn(("messages", n), role, ((("messages", n, "content"), text),))


def prompt(text):
    return prompt_bytes([turn(text)])


TEXT = "".join(f"Sentence {n} of a long text. " for n in range(100))


class TestKeys:
    def test_every_turn_depends_on_all_before_it(self):
        turns = [turn("a"), turn("b", 1), turn("c", 2)]
        other = [turn("x"), turn("b", 1), turn("c", 2)]
        assert turn_keys(SEED, turns)[:2] == turn_keys(SEED, turns[:2])
        assert not set(turn_keys(SEED, turns)) & set(turn_keys(SEED, other))
        assert not set(turn_keys(SEED, turns)) & set(turn_keys(digest("m", "salt"), turns))

    @given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
    def test_parts_do_not_run_together(self, a, b):
        assert (digest(*a) == digest(*b)) == (a == b)

    def test_a_place_is_all_up_to_the_end_of_the_document(self):
        first, second = turn("Context: doc\n\nQuestion: one"), turn("Context: doc\n\nQuestion: two")
        moved = turn("Context: dog\n\nQuestion: one")
        span = Span(("messages", 0, "content"), 9, 12, "doc", "text")
        assert place_keys(SEED, first, [span]) == place_keys(SEED, second, [span])
        assert place_keys(SEED, first, [span]) != place_keys(SEED, moved, [span])
        assert place_keys(SEED, first, [span]) != place_keys(digest("n"), first, [span])

    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 9)), max_size=6))
    def test_places_do_not_depend_on_the_others(self, wanted):
        pieces = tuple(
            (("m", n), text) for n, text in enumerate(("abcdefghij", "klmno\ud800qrst", "0123456789"))
        )
        whole = Turn((), "user", pieces)
        spans = {Span(("m", n), min(a, b), max(a, b), "", "text") for n, a, b in wanted}
        together = place_keys(SEED, whole, spans)
        assert together == {span: place_keys(SEED, whole, [span])[span] for span in spans}
        assert len(set(together.values())) == len({(span.path, span.end) for span in spans})

    @given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300))
    def test_blocks_agree_as_far_as_the_text_does(self, common, a, b):
        first, second = (block_keys(SEED, prompt(common + end)) for end in (a, b))
        same = 0
        for x, y in zip(prompt(common + a), prompt(common + b), strict=False):
            if x != y:
                break
            same += 1
        agree = next((n for n, (x, y) in enumerate(zip(first, second, strict=False)) if x != y), None)
        agree = min(len(first), len(second)) if agree is None else agree
        assert agree == same // 64


class TestTurns:
    def test_the_known_beginning(self, ledger):
        keys = turn_keys(SEED, [turn("a"), turn("b", 1), turn("c", 2)])
        pruned = Sent(((("content",), "b'"),), 100, 10)
        ledger.commit(Record(((keys[0], Sent()), (keys[1], pruned))))
        known = ledger.sent(keys)
        assert [sent.edits for sent in known] == [(), pruned.edits]
        assert ledger.sent(keys[2:]) == []
        ledger.commit(Record(((keys[2], Sent()),)))
        assert len(ledger.sent(keys)) == 3

    def test_they_are_not_recent_for_ever(self, ledger, clock):
        key = turn_keys(SEED, [turn("a")])
        ledger.commit(Record(((key[0], Sent()),)))
        assert ledger.recent(ledger.sent(key)[0])
        clock.now += 61
        assert not ledger.recent(ledger.sent(key)[0])


APP = (b"all", b"app")


class TestDocuments:
    def commit(self, ledger, place, question):
        ledger.commit(Record((), (place,), question, place, APP))

    def test_seen_with_another_question(self, ledger, clock):
        assert not ledger.seen(b"d", b"1")
        self.commit(ledger, b"d", b"1")
        assert not ledger.seen(b"d", b"1")
        assert ledger.seen(b"d", b"2")
        self.commit(ledger, b"d", b"2")
        assert ledger.seen(b"d", b"1"), "once shared, it stays shared"
        clock.now += 61
        assert not ledger.seen(b"d", b"3")

    def test_reuse_is_learned_and_forgotten(self, ledger):
        assert ledger.reuse(APP, 0.25) == 0.25
        for n in range(4):
            for question in (b"1", b"2", b"3"):
                self.commit(ledger, b"shared %d" % n, question)
        assert ledger.reuse(APP, 0.25) > 0.85
        assert ledger.reuse((b"other", b"other"), 0.25) == 0.25
        assert ledger.reuse((b"all", b"other"), 0.25) > 0.85, "what others do is the prior"
        for n in range(8):
            self.commit(ledger, b"new %d" % n, b"1")
        assert ledger.reuse(APP, 0.25) < 0.15

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40), st.floats(0, 1))
    def test_reuse_is_a_probability(self, sent, prior):
        ledger = Ledger(10**6, 60)
        for document, question in sent:
            self.commit(ledger, b"%d" % document, b"%d" % question)
            assert 0 <= ledger.reuse(APP, prior) <= 1


class TestCache:
    def fill(self, ledger, text):
        ledger.commit(Record(blocks=block_keys(SEED, prompt(text))))

    def test_only_what_was_answered_in_whole_blocks(self, ledger, clock):
        assert ledger.cached_bytes(SEED, prompt(TEXT)) == 0
        self.fill(ledger, TEXT[:1000])
        assert ledger.cached_bytes(SEED, prompt(TEXT)) == 960
        assert ledger.cached_bytes(digest("salt"), prompt(TEXT)) == 0
        assert ledger.cached_bytes(SEED, prompt("x" + TEXT)) == 0
        clock.now += 61
        assert ledger.cached_bytes(SEED, prompt(TEXT)) == 0

    def test_the_beginning_is_forgotten_last(self, clock):
        ledger = Ledger(30_000, 60, clock)
        self.fill(ledger, TEXT * 4)
        assert 0 < ledger.cached_bytes(SEED, prompt(TEXT * 4)) < len(TEXT * 4) // 64 * 64


def test_tokens_are_counted_once(ledger):
    asked = []

    def count(texts):
        asked.append(texts)
        return [len(text) for text in texts]

    assert ledger.tokens(["a", "bb", "a"], count) == [1, 2, 1]
    assert ledger.tokens(["bb", "ccc"], count) == [2, 3]
    assert ledger.tokens(["a"], count) == [1]
    assert asked == [["a", "bb"], ["ccc"]]


@given(
    st.integers(0, 30_000),
    st.lists(st.text(max_size=30).map(lambda t: t * 40), max_size=15),
)
def test_memory_is_bounded(limit, texts):
    ledger = Ledger(limit, 60)
    for n, text in enumerate(texts):
        key = digest(text)
        edits = ((("content",), text),)
        blocks = block_keys(SEED, prompt(text))
        record = Record(((key, Sent(edits)),), (key,), b"%d" % n, key, (b"all", key), blocks)
        ledger.commit(record)
        ledger.tokens([text], lambda found: [1] * len(found))
        assert ledger.size <= limit


def test_threads(ledger):
    def work(n):
        for k in range(300):
            key = digest(str(k % 50), str(n % 2))
            ledger.commit(Record(((key, Sent()),), (key,), b"%d" % k, key, APP))
            ledger.sent([key])
            ledger.seen(key, b"x")
            ledger.reuse(APP, 0.5)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 <= ledger.reuse(APP, 0.5) <= 1
