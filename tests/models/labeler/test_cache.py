import threading
from dataclasses import replace

import numpy as np

from tokenprune.models.labeler import Labeler, Passage
from tokenprune.models.labeler.cache import LabelCache, cache_of


def counting(tiny):
    """A labeler that counts the passages it reads."""
    labeler = Labeler.load(str(tiny("open-modernbert").folder), device="cpu", dtype="float32")

    class Counting:
        rows = 0

        def run(self, batch):
            Counting.rows += len(batch.ids)
            return labeler.network.run(batch)

    return replace(labeler, network=Counting()), Counting


def passages(*texts):
    return [Passage(text) for text in texts]


def test_what_is_known_is_not_read_again(tiny):
    labeler, seen = counting(tiny)
    cache = LabelCache(10**6)
    first = cache.label(labeler, "Q?", passages("One tower.", "Two towers.", "One tower."))
    assert seen.rows == 2
    again = cache.label(labeler, "Q?", passages("Two towers.", "Three towers.", "One tower."))
    assert seen.rows == 3
    assert [len(x.keep) for x in again] == [
        len(x.keep) for x in labeler.label("Q?", passages("Two towers.", "Three towers.", "One tower."))
    ]
    assert again[0] is first[1]
    assert again[2] is first[0] is first[2]
    assert (cache.hits, cache.misses, len(cache)) == (3, 3, 3)
    assert not first[0].keep.flags.writeable


def test_all_that_matters_is_in_the_key(tiny):
    labeler, seen = counting(tiny)
    cache = LabelCache(10**6)
    variants = [
        ("Q?", Passage("One tower.")),
        ("R?", Passage("One tower.")),
        ("Q?", Passage("One tower.", title="T")),
        ("Q?", Passage("One tower.", breaks=(4,))),
        ("Q?T", Passage("One tower.")),
        ("Q?", Passage("TOne tower.")),
    ]
    for query, passage in variants:
        cache.label(labeler, query, [passage])
    assert seen.rows == len(cache) == len(variants)


def test_bounded_by_bytes_and_least_recent_first(tiny):
    labeler, seen = counting(tiny)
    cache = LabelCache(1)
    cache.label(labeler, "Q?", passages("One tower."))
    entry = LabelCache(10**6)
    entry.label(labeler, "Q?", passages("One tower."))
    assert (len(cache), cache.size) == (0, 0)
    cache = LabelCache(2 * entry.size + entry.size // 2)
    for text in ("One tower.", "Two tower.", "One tower.", "Six tower."):
        cache.label(labeler, "Q?", passages(text))
        assert cache.size <= cache.max_bytes
    before = seen.rows
    cache.label(labeler, "Q?", passages("One tower."))
    assert seen.rows == before
    cache.label(labeler, "Q?", passages("Two tower."))
    assert seen.rows == before + 1


def test_off(tiny):
    labeler, seen = counting(tiny)
    cache = LabelCache(0)
    for _ in range(2):
        cache.label(labeler, "Q?", passages("One tower."))
    assert (seen.rows, len(cache)) == (2, 0)


def test_shared_by_size(tiny):
    labeler, _ = counting(tiny)
    other, _ = counting(tiny)
    assert cache_of(labeler, 100) is cache_of(labeler, 100)
    assert cache_of(labeler, 100) is not cache_of(labeler, 200)
    assert cache_of(labeler, 100) is not cache_of(other, 100)


def test_threads(tiny):
    labeler, _ = counting(tiny)
    cache = LabelCache(20_000)
    texts = [f"Tower {n} was finished." for n in range(40)]
    expected = [x.keep for x in labeler.label("Q?", passages(*texts))]
    faults = []

    def work(start):
        for n in range(start, start + 40):
            i = n % 40
            if not np.allclose(
                cache.label(labeler, "Q?", passages(texts[i]))[0].keep, expected[i], atol=1e-6
            ):
                faults.append(i)

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 7, 13, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert 0 < cache.size <= 20_000
