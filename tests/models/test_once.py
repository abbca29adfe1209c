import threading
import time

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
