import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tokenprune.models.once import Once, state_of


def test_one_load_for_all_threads():
    loads: list[int] = []
    models: Once[object] = Once()

    def load() -> object:
        loads.append(1)
        time.sleep(0.05)
        return object()

    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(models.get("a", load))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1 and len(found) == 5 and len({id(one) for one in found}) == 1
    assert models.get("b", load) is not found[0]


def test_a_load_that_fails_is_tried_again():
    models: Once[int] = Once()
    with pytest.raises(OSError, match="gone"):
        models.get(1, lambda: (_ for _ in ()).throw(OSError("gone")))
    assert models.get(1, lambda: 7) == 7


def _gated(opened: threading.Event, begun: threading.Event, value: object) -> object:
    begun.set()
    if not opened.wait(10):
        raise TimeoutError
    return value


def test_nobody_waits_for_the_load_of_another_model():
    models: Once[object] = Once()
    models.get("loaded", lambda: "here")
    with ThreadPoolExecutor(3) as pool:
        opened, begun = threading.Event(), threading.Event()
        slow = pool.submit(models.get, "slow", lambda: _gated(opened, begun, "slow"))
        assert begun.wait(10)
        try:
            assert pool.submit(models.get, "loaded", object).result(5) == "here"
            assert pool.submit(models.get, "new", lambda: "new").result(5) == "new"
        finally:
            opened.set()
        assert slow.result(10) == "slow"
    assert not models._loading


def test_who_waits_for_a_load_that_fails_loads_by_himself():
    models: Once[int] = Once()
    opened, begun = threading.Event(), threading.Event()

    def fail() -> int:
        _gated(opened, begun, 0)
        raise OSError("gone")

    with ThreadPoolExecutor(3) as pool:
        failing = pool.submit(models.get, 1, fail)
        assert begun.wait(10)
        waiting = [pool.submit(models.get, 1, lambda: 7) for _ in range(2)]
        opened.set()
        with pytest.raises(OSError, match="gone"):
            failing.result(10)
        assert [one.result(10) for one in waiting] == [7, 7]
    assert not models._loading


def test_files_that_change_are_another_model(tmp_path):
    assert state_of("minilm-l6") == state_of(str(tmp_path)) == ()
    file = tmp_path / "model.safetensors"
    states = []
    for content in (b"one", b"three"):
        file.write_bytes(content)
        states.append(state_of(str(tmp_path)))
    assert states[0] != states[1] == state_of(str(tmp_path))
    file.unlink()
    assert state_of(str(tmp_path)) == ()
