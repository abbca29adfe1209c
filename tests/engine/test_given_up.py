"""Work that is given up ends between two layers."""

import threading

import pytest

from tokenprune.engine.methods.gemfilter import GemFilter
from tokenprune.given_up import GivenUpError, look, when


def test_only_work_within_ends(tiny_lm):
    _, decoder = tiny_lm("llama")
    told = threading.Event()
    with when(told):
        assert len(GemFilter(2, 20).select(decoder, list(range(60))).positions) == 20
        told.set()
        with pytest.raises(GivenUpError):
            GemFilter(2, 20).select(decoder, list(range(60)))
        with when(threading.Event()):
            look()
    look()
    assert len(GemFilter(2, 20).select(decoder, list(range(60))).positions) == 20


@pytest.mark.parametrize("method", ["bm25-sentences", "provence"])
def test_pipelines_end(method):
    import tokenprune as tp

    told = threading.Event()
    told.set()
    with when(told), pytest.raises(GivenUpError):
        tp.Pipeline(method).prune("When?", ["It was lit in 1871. Boats pass by."])
