"""benchmarks/rag_quality --sections formats: the same network in ONNX Runtime."""

import argparse
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rich.progress import Progress  # noqa: E402

from benchmarks.common.context import Context  # noqa: E402
from benchmarks.rag_quality import formats  # noqa: E402
from benchmarks.rag_quality.onnx_encoder import OnnxNetwork  # noqa: E402
from tests.training.tiny import item, maker, network  # noqa: E402
from tokenprune.models.labeler.checkpoint import Place  # noqa: E402
from tokenprune.models.labeler.mini import MiniRunner  # noqa: E402
from tokenprune.training.windows import batch  # noqa: E402


def test_without_onnxruntime_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = formats.run(Context(argparse.Namespace(), tmp_path, Progress(disable=True)))
    assert found == {"skipped": "onnxruntime is not installed (the extra `bench` has it)"}
    assert "TOKENPRUNE_DATA" in formats.run(Context(argparse.Namespace(), None, Progress()))["skipped"]


def test_the_graph_says_what_the_network_says():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    net, made = network(), maker()
    net.add_fusion()
    torch.nn.init.normal_(net.fuse.weight)
    for place in (net.words.weight, net.places.weight, net.cross):
        torch.nn.init.normal_(place, std=0.5)
    short = item(9).passages[0]
    short = replace(short, sentences=short.sentences[:1], labels=short.labels[:1])
    items = [*(item(n) for n in range(3)), item(9, passages=[short])]
    one = batch([row for i in items for row in made.make(i).rows], made.reader.pad)
    assert not one.mask.all(), "some rows must be padded"
    theirs = OnnxNetwork(net, 1).run(one)
    ours = MiniRunner(net, Place("cpu", torch.float32)).run(one)
    np.testing.assert_allclose(theirs.rank, ours.rank, atol=1e-4)
    np.testing.assert_allclose(theirs.keep_rank, ours.keep_rank, atol=1e-4)
    np.testing.assert_allclose(theirs.keep[one.mask == 1], ours.keep[one.mask == 1], atol=1e-5)
    assert np.ptp(ours.keep[one.sentence >= 0]) > 1e-4, "a network that says something"
