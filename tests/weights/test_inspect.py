"""What ``tokenprune weights inspect`` shows."""

import io
import json

import pytest
import torch
import typer
from pruned_models import LAYERS, WIDTH, finer, layer, tiny, way
from rich.console import Console
from typer.testing import CliRunner

from tokenprune.cli.weights_inspect import inspect
from tokenprune.errors import ModelError
from tokenprune.weights.card import read_card
from tokenprune.weights.export import export
from tokenprune.weights.inspect import picture, report, shares
from tokenprune.weights.kept import Kept
from tokenprune.weights.sites import matrices


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    dense = tiny()
    kept, added = way(dense, "finer-biased")
    return export(
        dense,
        kept,
        tmp_path_factory.mktemp("inspect") / "out",
        biases=added,
        recipe={"name": "finercut"},
        perplexity={"dense": 9.4},
    )


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """A dropped layer, and half of the weights of the second that is left are zero."""
    dense = tiny()
    with torch.no_grad():
        for name, weight in matrices(dense.model.layers[2]).items():
            weight[:, 1 if name == "q_proj" else 0 :: 2] = 0
    kept = Kept((layer(), layer((), ()), layer(), layer()))
    recipe = {"name": "mine", "sparsity": 0.5, "paper": "a title " * 20}
    return export(dense, kept, tmp_path_factory.mktemp("inspect") / "out", recipe=recipe)


def shown(folder, width=140):
    out = io.StringIO()
    Console(file=out, width=width).print(report(folder))
    return out.getvalue()


def test_shares(folder):
    assert shares(read_card(folder)) == [(0, 50 / 96), (0.5, 93 / 96), (0, 0), (0.25, 0)]


def test_table(folder):
    lines = shown(folder).splitlines()
    assert "finercut" in lines[0] and "loads as TokenPruneLlamaForCausalLM" in shown(folder)
    rows = [line.split() for line in lines if line.strip()[:1] in {"0", "1", "2", "3"}]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert "0/4" in rows[0] and "50/96" in rows[0] and "o" in rows[0]
    assert "2/4" in rows[1] and "93/96" in rows[1] and "down" in rows[1]
    assert sum(cell.startswith("dropped") for cell in rows[2]) == 2
    assert rows[1][2 - 1].count("█") == 5


def test_zeros_are_those_of_the_dense_models_layers(halved):
    card = read_card(halved)
    assert card.zero_shares() == pytest.approx([0, 0, 0.5, 0], abs=1e-3)
    rows = [line for line in shown(halved).splitlines() if line.strip()[:1] in {"0", "1", "2", "3"}]
    assert ["50%" in row for row in rows] == [False, False, True, False]
    readme = (halved / "README.md").read_text()
    assert "| 2 | 4 of 4 | 96 of 96 | 50% | 100% |" in readme and "experts" not in readme
    assert "| 1 | dropped | dropped | 0% | 0% |" in readme
    assert "Zeros among the weights of the layers: 50.0%" in readme


def test_a_terminal_of_80_columns(folder):
    assert "…" not in shown(folder, 80)


def test_picture_of_zeros(halved, tmp_path):
    """Its title fits, whole layers are numbered, and zeros are told apart."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):  # words as words; others set it for the process
        drawn = picture(halved, tmp_path / "p.svg").read_text()
    assert "a title" not in drawn and "mine, sparsity 0.5</text>" in drawn and ">zeros</text>" in drawn
    assert ">0.5</text>" not in drawn and ">2</text>" in drawn


def test_experts(tmp_path):
    dense = tiny("mixtral")
    kept = Kept((layer((0, 1, 2, 3), range(WIDTH), (0, 4, 5)),) * LAYERS)
    folder = export(dense, kept, tmp_path / "out")
    assert "3/6" in shown(folder)
    assert shares(read_card(folder)) == [(1, 0.5)] * LAYERS


@pytest.mark.parametrize(("name", "start"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml"), ("p.pdf", b"%PDF")])
def test_picture(folder, tmp_path, name, start):
    assert picture(folder, tmp_path / name).read_bytes().startswith(start)


def test_a_picture_without_an_ending_is_png(folder, tmp_path):
    assert picture(folder, tmp_path / "drawn") == tmp_path / "drawn.png"
    assert (tmp_path / "drawn.png").exists()


def test_a_damaged_card_is_said_in_one_line(folder, tmp_path):
    (tmp_path / "pruning.json").write_text('{"layers": 3}')
    with pytest.raises(ModelError, match="layers: Input should be") as caught:
        picture(tmp_path, tmp_path / "p.png")
    assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)


def test_picture_that_cannot_be(folder, tmp_path):
    for name in ("p.doc", "none/p.png", "."):
        with pytest.raises(ModelError, match="cannot draw"):
            picture(folder, tmp_path / name)


def test_command(folder, tmp_path):
    app = typer.Typer()
    app.command()(inspect)
    run = CliRunner()
    done = run.invoke(app, [str(folder), "--picture", str(tmp_path / "p.png")])
    assert done.exit_code == 0 and "93/96" in done.stdout
    assert (tmp_path / "p.png").stat().st_size > 1000
    card = json.loads(run.invoke(app, [str(folder), "--json"]).stdout)
    assert card["layers"][3]["kv_heads"] == [3]
    missing = run.invoke(app, [str(tmp_path)])
    assert isinstance(missing.exception, ModelError)
    assert finer().layers[3].kv_heads == (3,)
