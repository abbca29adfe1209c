"""What was sent upstream: how each turn went, where documents were seen, what the prefix cache holds."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tokenprune.lru import ByteLru, text_bytes
from tokenprune_server.protocols.base import Path, Span, Turn

T = TypeVar("T")

_BLOCK_BYTES = 64  # of text, for the 16 tokens of a block of vLLM's cache
_DIGEST = 16
_ENTRY_BYTES = 400  # a key, a record and the mapping around them, generously
_BLOCK_ENTRY_BYTES = 250
_SHARE = {"turns": 0.5, "places": 0.1, "blocks": 0.3, "sizes": 0.05, "scopes": 0.05}  # of the bytes
_REUSE_FORGETTING = 0.7  # per new document
_REUSE_WEIGHT = 0.25  # documents that the prior counts for


@dataclass(frozen=True, slots=True)
class Sent:
    """How a turn was sent.

    Attributes:
        edits: its strings that were not sent as they came: path inside the turn, and the text sent.
        before: tokens of its documents as they came.
        after: the same as they were sent.
        options: what the request asked for, as `tokenprune_server.gate` writes it.
        query: the query that the request named.
        receipt: id of the receipt of the request that sent it first, if anything was pruned.
        tail: key of the last turn of that request: what the turn was pruned for stands at or before it.
        at: when it was sent last, seconds of the ledger's clock.
    """

    edits: tuple[tuple[Path, str], ...] = ()
    before: int = 0
    after: int = 0
    options: str = ""
    query: str | None = None
    receipt: str | None = None
    tail: bytes = b""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Record:
    """What a request adds to the ledger once it is answered.

    Attributes:
        turns: chained keys of its turns as they came, and how they go.
        places: keys of its new documents at their places.
        question: key of the question.
        identity: the place of the last of them, that is of all of them together; None when there are none.
        scopes: keys of what asks: all applications of its kind, and the one.
        blocks: chained hashes of the prompt as it goes.
    """

    turns: tuple[tuple[bytes, Sent], ...] = ()
    places: tuple[bytes, ...] = ()
    question: bytes = b""
    identity: bytes | None = None
    scopes: tuple[bytes, ...] = ()
    blocks: tuple[bytes, ...] = ()


@dataclass(slots=True)
class _Place:
    question: bytes
    at: float
    again: bool = False  # it came with another question as well


class _UnderWay:
    """How requests without an answer so far were sent; what was sent last stands last."""

    def __init__(self) -> None:
        self.turns: dict[bytes, list[Sent]] = {}
        self.questions: dict[bytes, list[bytes]] = {}

    def add(self, record: Record) -> None:
        for key, sent in record.turns:
            self.turns.setdefault(key, []).append(sent)
        for place in record.places:
            self.questions.setdefault(place, []).append(record.question)

    def remove(self, record: Record) -> None:
        for key, sent in record.turns:
            _take(self.turns, key, sent)
        for place in record.places:
            _take(self.questions, place, record.question)


def _take(lists: dict[bytes, list[T]], key: bytes, value: T) -> None:
    left = lists[key]
    left.remove(value)
    if not left:
        del lists[key]


@dataclass(slots=True)
class _Scope:
    """New documents of an application, and those of them that came again; older ones count less."""

    new: float = 0.0
    again: float = 0.0


def digest(*parts: str | bytes, start: bytes = b"") -> bytes:
    """A hash of the parts, chained to ``start``; where one part ends is part of it."""
    said = [start]
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        said += (b"%d:" % len(raw), raw)
    return hashlib.blake2b(b"".join(said), digest_size=_DIGEST).digest()


def turn_keys(seed: bytes, turns: Sequence[Turn]) -> list[bytes]:
    """One key per turn: the hash of everything up to its end, and of where in a turn each text stands."""
    keys = []
    for turn in turns:
        pieces = ((repr(path[len(turn.path) :]), text) for path, text in turn.pieces)
        seed = digest(*(part for piece in pieces for part in piece), start=seed)
        keys.append(seed)
    return keys


def place_keys(before: bytes, turn: Turn, spans: Iterable[Span]) -> dict[Span, bytes]:
    """For each document of a turn the hash of all up to its end; ``before`` is the key of the turn before."""
    by_path: dict[Path, list[Span]] = {}
    for span in spans:
        by_path.setdefault(span.path, []).append(span)
    keys: dict[Span, bytes] = {}
    start = digest(b"place", start=before)
    for path, text in turn.pieces:
        h, at = hashlib.blake2b(start, digest_size=_DIGEST), 0
        for span in sorted(by_path.pop(path, ()), key=lambda span: span.end):
            h.update(text[at : span.end].encode("utf-8", "surrogatepass"))
            at = span.end
            keys[span] = h.digest()
        if not by_path:
            break
        start = digest(text, start=start)
    return keys


def prompt_bytes(turns: Iterable[Turn]) -> bytes:
    """The text of a prompt as one string, for `block_keys`."""
    text = "\x00".join(text for turn in turns for _, text in turn.pieces)
    return text.encode("utf-8", "surrogatepass")


def _blocks(seed: bytes, prompt: bytes) -> Iterable[bytes]:
    h = hashlib.blake2b(seed, digest_size=_DIGEST)
    for at in range(0, len(prompt) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        h.update(prompt[at : at + _BLOCK_BYTES])
        yield h.digest()


def block_keys(seed: bytes, prompt: bytes) -> tuple[bytes, ...]:
    """Chained hashes of the whole blocks of a prompt, as vLLM's prefix cache has them."""
    return tuple(_blocks(seed, prompt))


class Ledger:
    """Thread-safe, bounded in bytes; what was used least recently is forgotten first.

    Args:
        max_bytes: for everything it remembers.
        ttl_s: seconds for which the upstream is believed to keep an unused prefix, and for which a document
            counts as seen.
        clock: seconds, monotonic.
    """

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s, self._clock = ttl_s, clock
        self._lock = threading.Lock()
        share = {name: int(part * max_bytes) for name, part in _SHARE.items()}
        self._turns: ByteLru[bytes, Sent] = ByteLru(share["turns"])
        self._places: ByteLru[bytes, _Place] = ByteLru(share["places"])
        self._under_way = _UnderWay()
        self._cached: ByteLru[bytes, float] = ByteLru(share["blocks"])
        self._sizes: ByteLru[bytes, int] = ByteLru(share["sizes"])
        self._scopes: ByteLru[bytes, _Scope] = ByteLru(share["scopes"])

    @property
    def size(self) -> int:
        """Estimated bytes held."""
        return sum(
            store.bytes for store in (self._turns, self._places, self._cached, self._sizes, self._scopes)
        )

    def tokens(self, texts: Sequence[str], count: Callable[[list[str]], list[int]]) -> list[int]:
        """Tokens of each text; counts only those that were not counted lately."""
        keys = [digest(b"size", text) for text in texts]
        with self._lock:
            known = {key: self._sizes.get(key) for key in keys}
        new = {key: text for key, text in zip(keys, texts, strict=True) if known[key] is None}
        counted = dict(zip(new, count(list(new.values())) if new else [], strict=True))
        with self._lock:
            for key, size in counted.items():
                self._sizes.put(key, size, _BLOCK_ENTRY_BYTES)
        return [counted[key] if key in counted else known[key] or 0 for key in keys]

    def sent(self, keys: Sequence[bytes]) -> list[Sent]:
        """How the first turns were sent last, up to the first one that is not known."""
        known: list[Sent] = []
        now = self._clock()
        with self._lock:
            for key in keys:
                under_way = self._under_way.turns.get(key)
                sent = replace(under_way[-1], at=now) if under_way else self._turns.get(key)
                if sent is None:
                    break
                known.append(sent)
        return known

    def recent(self, sent: Sent) -> bool:
        """Whether the upstream may still have a turn in its cache."""
        return self._clock() - sent.at <= self._ttl_s

    def seen(self, place: bytes, question: bytes) -> bool:
        """Whether a document was sent lately, at this place and with another question."""
        with self._lock:
            if any(other != question for other in self._under_way.questions.get(place, ())):
                return True
            known = self._places.get(place)
            if known is None or self._clock() - known.at > self._ttl_s:
                return False
            return known.again or known.question != question

    def reuse(self, scopes: Sequence[bytes], prior: float) -> float:
        """Probability that a new document comes again with another question.

        Args:
            scopes: keys of what asks, the widest first; what is known of one is the prior of the next.
            prior: of the first.
        """
        with self._lock:
            for scope in scopes:
                known = self._scopes.get(scope) or _Scope()
                prior = (known.again + _REUSE_WEIGHT * prior) / (known.new + _REUSE_WEIGHT)
        return prior

    def cached_bytes(self, seed: bytes, prompt: bytes) -> int:
        """Bytes at the beginning of a prompt that the upstream should have in its cache."""
        since = self._clock() - self._ttl_s
        found = 0
        with self._lock:
            for key in _blocks(seed, prompt):
                at = self._cached.get(key)
                if at is None or at < since:
                    break
                found += _BLOCK_BYTES
        return found

    def begin(self, record: Record) -> None:
        """A request goes to the upstream: until its `end` others see how it was sent, but nothing is kept."""
        with self._lock:
            self._under_way.add(record)

    def end(self, record: Record) -> None:
        """A request that was begun is answered (and committed before), or has failed."""
        with self._lock:
            self._under_way.remove(record)

    def commit(self, record: Record) -> None:
        """Remember a request that the upstream answers: its prompt is in the upstream's cache."""
        now = self._clock()
        with self._lock:
            last, stamped, size = None, Sent(), 0
            for key, sent in record.turns:
                if sent is not last:  # most turns of a request share one
                    last, stamped = sent, replace(sent, at=now)
                    size = _ENTRY_BYTES + text_bytes(sent.options) + text_bytes(sent.query or "")
                    size += sum(_ENTRY_BYTES + text_bytes(text) for _, text in sent.edits)
                self._turns.put(key, stamped, size)
            for place in record.places:
                self._see(place, record, now)
            # The first blocks are needed by all that follow: they are forgotten last.
            for key in reversed(record.blocks):
                self._cached.put(key, now, _BLOCK_ENTRY_BYTES)

    def _see(self, key: bytes, record: Record, now: float) -> None:
        known = self._places.get(key)
        fresh = known is None or now - known.at > self._ttl_s
        if known is None or fresh:
            known = _Place(record.question, now)
            self._places.put(key, known, _ENTRY_BYTES)
        again = known.question != record.question and not known.again
        known.at, known.again = now, known.again or again
        if key == record.identity and (fresh or again):
            for name in record.scopes:
                scope = self._scopes.get(name) or _Scope()
                if fresh:
                    scope.new, scope.again = (
                        1 + _REUSE_FORGETTING * scope.new,
                        _REUSE_FORGETTING * scope.again,
                    )
                else:
                    scope.again = min(scope.again + 1, scope.new)
                self._scopes.put(name, scope, _ENTRY_BYTES)
