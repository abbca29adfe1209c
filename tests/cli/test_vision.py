"""``tokenprune vision`` as a person runs it."""

import pytest
from PIL import Image
from typer.testing import CliRunner
from vision_checkpoints import image_processor, pictures, save, save_onevision, tiny_llava

from tokenprune.cli.main import app
from tokenprune.errors import (
    BudgetError,
    ConfigError,
    ImageError,
    ModelError,
    UnknownNameError,
    VisionError,
)
from tokenprune.vision import list_vision_methods


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save(tiny_llava(), image_processor(), tmp_path_factory.mktemp("llava")))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, image in enumerate(pictures(3)):
        image.save(f"{number}.png")
    first, *others = pictures(4, seed=1)
    first.save("moving.gif", save_all=True, append_images=others)
    return tmp_path


def run(*args):
    return CliRunner().invoke(app, ["vision", *map(str, args)])


def test_methods_are_listed_and_described():
    lines = run("methods").stdout.splitlines()
    infos = list_vision_methods()
    assert [line.split()[0] for line in lines] == [info.name for info in infos]
    assert all(info.paper in line for line, info in zip(lines, infos, strict=True))
    one = run("methods", "holitom").stdout
    assert "2505.21334" in one and "works: before the language model" in one and "  beta=0.6" in one
    assert isinstance(run("methods", "nope").exception, UnknownNameError)


def test_methods_are_drawn_side_by_side(here, folder):
    done = run(
        "show", "0.png", "--method", "fopru", "--method", "fopru:strategy=row", "--method", "visionzip",
        "--keep", "0.5", "--model", folder, "--out", "out.png",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "fopru: 8 of 16 rows (50%), 8 dropped" in done.stdout
    row = done.stdout.split("fopru:strategy=row:")[1].splitlines()[1:5]
    assert sorted(row) == ["····", "····", "████", "████"]
    assert "written: out.png" in done.stdout
    with Image.open("out.png") as image:
        assert image.width > image.height


def test_a_question_is_answered_under_each_method_and_inside_the_model(here):
    """llava-mini has 196 patches and 6 layers; FastV acts behind the second."""
    asked = ("show", "0.png", "--keep", "49", "-q", "how many digits are there ?", "--model", "llava-mini")
    done = run(*asked, "--method", "none", "--method", "visionzip", "--method", "fastv")
    assert done.exit_code == 0, (done.output, done.exception)
    lines = [line for line in done.stdout.splitlines() if "rows (" in line]
    assert [line.split(":")[0] for line in lines] == ["none", "visionzip", "fastv"]
    assert "196 of 196 rows" in lines[0] and "49 of 196 rows" in lines[1] and "49 of 196 rows" in lines[2]
    from tokenprune.engine.sampling import SamplingParams
    from tokenprune.vision.engine import VisionEngine

    engine = VisionEngine("llava-mini")
    seen = engine.see(engine.chat("how many digits are there ?"), [Image.open("0.png")])
    steps = engine.generate(seen, SamplingParams(max_tokens=48, temperature=0))
    answer = "".join(step.text_delta for step in steps).strip()
    assert lines[0].endswith(f"; answer: {answer}" if answer else "rows (100%)")


def test_methods_inside_the_model_that_need_more_words(here, folder):
    """ATP-LLaVA finds the thresholds beside the model's weights; merging is no dropping."""
    asked = ("show", "0.png", "-q", "how many digits are there ?", "--model", "llava-mini")
    done = run(*asked, "--method", "atp-llava:weights=llava-mini", "--method", "holitom-merge")
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.count("rows (") == 2
    assert "note: what is drawn as dropped was averaged" in done.stderr
    assert "averaged" not in run(*asked, "--method", "fastv").stderr
    lacking = run(*asked, "--method", f"atp-llava:weights={folder}")
    assert isinstance(lacking.exception, ModelError) and "atp.safetensors" in str(lacking.exception)


def test_both_views_of_onevision_are_drawn(here, tmp_path_factory):
    """The picture and its tiles; a video is pooled; questions are answered, fastv is inside."""
    model = str(save_onevision(tmp_path_factory.mktemp("onevision"))[0])
    pictures(1, size=(112, 56))[0].save("wide.png")
    asked = ("show", "wide.png", "--keep", "0.25", "--model", model, "--method", "fopru")
    done = run(*asked, "--method", "fopru:strategy=row")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "fopru: 12 of 48 rows (25%), 36 dropped" in done.stdout
    lines = done.stdout.split("fopru: 12")[1].splitlines()[1:5]
    assert [(len(line), line[4:7]) for line in lines] == [(15, "   ")] * 4
    assert "".join(lines).count("█") == 12
    with Image.open("wide.kept.png") as image:
        assert image.width < 1.8 * image.height  # three columns; a row for each view, of 1:1 and 2:1
    done = run(*asked, "-q", "how many ?", "--method", "fastv:layers=1")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "fopru: 12 of 48 rows" in done.stdout and "fastv:layers=1: " in done.stdout
    done = run(
        "show", "0.png", "1.png", "--video", "--method", "evs", "--keep", "5", "--model", model, "-q", "?"
    )
    assert "evs: 5 of 8 rows" in done.stdout, (done.output, done.exception)


@pytest.mark.parametrize(("keep", "rows"), [("3", 3), ("25%", 4), ("1.0", 16), ("1", 1)])
def test_budgets(here, folder, keep, rows):
    done = run("show", "0.png", "--method", "divprune", "--keep", keep, "--model", folder)
    assert f"divprune: {rows} of 16 rows" in done.stdout
    assert (here / "0.kept.png").is_file()


def test_a_method_may_count_itself(here, folder):
    assert "rows" in run("show", "0.png", "--method", "prumerge", "--keep", "auto", "--model", folder).stdout
    done = run("show", "0.png", "--method", "fopru", "--keep", "auto", "--model", folder)
    assert isinstance(done.exception, BudgetError)


def test_frames_and_animations_are_videos(here, folder):
    options = ("--video", "--method", "holitom", "--method", "evs", "--model", folder, "--keep", "20")
    assert "holitom: 20 of 48 rows" in run("show", "0.png", "1.png", "2.png", *options).stdout
    moving = run("show", "moving.gif", *options)
    assert "evs: 20 of 64 rows" in moving.stdout, moving.output
    still = run("show", "moving.gif", "--method", "uniform", "--model", folder)
    assert "only its first frame is read" in still.stderr and "uniform: 4 of 16" in still.stdout


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("no.png", "--method", "fopru"), ImageError),
        (("0.png", "--method", "nope"), UnknownNameError),
        (("0.png", "--method", "fopru:strategy=column"), ConfigError),
        (("0.png", "--method", "fopru:row"), ConfigError),
        (("0.png", "--method", "fastv"), ConfigError),
        (("0.png", "--method", "fopru", "--keep", "0"), BudgetError),
        (("0.png", "--method", "fopru", "--keep", "much"), BudgetError),
        (("0.png", "--method", "fastv:keep=much"), BudgetError),
        (("0.png", "--method", "atp_llava"), ConfigError),
        (("0.png", "--method", "fopru", "--out", "."), VisionError),
        (("0.png", "--method", "fopru", "--out", "no/such/folder/a.png"), VisionError),
    ],
)
def test_what_is_wrong_is_said(here, folder, args, error):
    done = run("show", *args, "--model", folder)
    assert isinstance(done.exception, error)


@pytest.mark.parametrize(
    "args",
    [("0.png",), ("0.png", "1.png", "--method", "fopru")],
)  # fmt: skip
def test_usage_errors(here, folder, args):
    assert run("show", *args, "--model", folder).exit_code == 2


def test_the_file_that_is_written_is_told(here, folder):
    done = run("show", "0.png", "--method", "fopru", "--model", folder, "--out", "noext")
    assert "written: noext.png" in done.stdout
    assert (here / "noext.png").is_file() and not (here / "noext").exists()


def test_more_than_asked_for_is_noted(here, folder):
    """EVS is for videos: of one, it always leaves the first frame."""
    done = run("show", "0.png", "--method", "evs", "--method", "fopru", "--model", folder)
    assert "evs: 16 of 16 rows" in done.stdout
    assert done.stderr.count("note:") == 1
    assert "note: 16 of 16 tokens stay, and keep asks for 4; what 'evs' keeps: video: the" in done.stderr
    few = run("show", "moving.gif", "--video", "--method", "evs", "--model", folder, "--keep", "5")
    assert "note: 16 of 64 tokens stay, and keep asks for 5" in few.stderr
    moving = run("show", "moving.gif", "--video", "--method", "evs", "--model", folder)
    assert "note:" not in moving.stderr


def test_questions_of_any_characters(here):
    """Bytes that are no text, LaTeX, characters of no font; what stands for a picture is refused."""
    asked = ("show", "0.png", "--method", "uniform", "--model", "llava-mini", "-q")
    done = run(*asked, "bad \udcff\udcfe $\\frac{$ \ue123 ?")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "U+E123" in done.stderr and (here / "0.kept.png").is_file()
    refused = run(*asked, "what is in <image> ?")
    assert isinstance(refused.exception, VisionError) and "question holds '<image>'" in str(refused.exception)


def test_a_question_needs_more_than_the_vision_part(here):
    assert run("export", "llava-mini", "part").exit_code == 0
    assert run("show", "0.png", "--method", "uniform", "--model", "part").exit_code == 0
    done = run("show", "0.png", "--method", "uniform", "--model", "part", "-q", "what is it ?")
    assert isinstance(done.exception, ModelError) and "export --full" in str(done.exception)


def test_help_has_examples():
    for command in (("show",), ("methods",)):
        done = run(*command, "--help")
        assert done.exit_code == 0 and "Example" in done.stdout
