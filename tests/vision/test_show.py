"""What becomes of patches, in states, characters and pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from vision_checkpoints import image_processor, pictures, tiny_llava

from tokenprune.errors import VisionError
from tokenprune.vision import Reduced, VisualTokens
from tokenprune.vision.encoder import VisionEncoder
from tokenprune.vision.lettering import Letters
from tokenprune.vision.show import (
    AWAY,
    CENTRE,
    DROPPED,
    KEPT,
    Panel,
    as_seen,
    count_line,
    draw,
    marked,
    states,
    text_map,
    wrapped,
)


def reduced():
    """2 frames of 1 x 3 patches: patch 0 takes in 3, 4 stays alone, the others go."""
    tokens = VisualTokens.from_grid(torch.ones(6, 2), (2, 1, 3))
    into = torch.tensor([0, -1, -1, 0, 1, -1])
    return tokens, Reduced(torch.ones(2, 2), torch.tensor([0, 4]), into)


def test_states_and_words():
    found = states(*reduced())
    assert [frame.tolist() for frame in found] == [[[CENTRE, DROPPED, DROPPED]], [[AWAY, KEPT, DROPPED]]]
    assert text_map(found) == "◆··   ░█·"
    assert count_line(found) == "2 of 6 rows (33%), 1 of them with others merged in, 1 merged away, 3 dropped"


def test_kept_patches_stay_bright_and_others_are_dimmed():
    picture = np.full((16, 24, 3), 200, dtype=np.uint8)
    found = np.array([[KEPT, DROPPED, AWAY], [CENTRE, KEPT, KEPT]], dtype=np.int8)
    out = marked(picture, found)
    assert out.shape == (48, 72, 3)
    centre = out[12::24, 12::24]
    assert centre[0, 0].tolist() == centre[1, 0].tolist() == [200] * 3
    assert centre[0, 1].tolist() == [44] * 3 and centre[0, 2].tolist() == [90] * 3
    frames = out[::24, 12::24]
    assert frames[0, 0].tolist() != frames[1, 0].tolist() != [200] * 3
    assert frames[0, 1].tolist() == [44] * 3
    with pytest.raises(VisionError, match="do not fill"):
        marked(picture, found[:, :2].repeat(3, 0))


def test_the_picture_is_the_one_the_encoder_sees():
    encoder = VisionEncoder.of(tiny_llava(), image_processor())
    [square] = pictures(1, size=(56, 56))
    seen = as_seen(encoder, [square, *pictures(1, seed=1)])
    assert [(one.shape, one.dtype) for one in seen] == [((56, 56, 3), np.uint8)] * 2
    assert np.array_equal(seen[0], np.asarray(square))


def test_long_answers_are_broken_and_cut():
    text = "49 of 196 rows (25%)\nanswer: two"
    assert wrapped(text, Letters.of([text])) == text.splitlines()
    lines = wrapped("short\n" + "word " * 200, Letters.of(["short word"]))
    assert len(lines) == 4 and lines[-1].endswith("word…")


def green_box(path):
    """Rows and columns of the pictures, and how many rows are blank above them and below the title."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    green = (pixels[..., 1] > 200) & (pixels[..., 0] < 60) & (pixels[..., 2] < 60)
    rows, cols = np.flatnonzero(green.any(1)), np.flatnonzero(green.any(0))
    written = np.flatnonzero((pixels < 128).all(2).any(1))
    above = written[written < rows[0] - 3]
    return (rows[0], rows[-1]), (cols[0], cols[-1]), above, pixels.shape[1]


@pytest.mark.parametrize("columns", [1, 3])
def test_a_title_of_any_length_stands_above_pictures_of_the_same_size(tmp_path, columns):
    picture = np.zeros((1, 24, 24, 3), dtype=np.uint8)
    picture[..., 1] = 255
    panels = [Panel("some", np.full((1, 3, 3), KEPT, dtype=np.int8), "yes")] * columns
    found = {}
    for lines, title in enumerate(("", "why ?", "what colour is it ? " * 6 * columns, "what is it ? " * 900)):
        draw(picture, panels, tmp_path / "a.png", title)
        found[lines] = green_box(tmp_path / "a.png")
    (first, _), _, _, _ = found[0]
    for lines, ((top, bottom), (left, right), above, width) in found.items():
        assert bottom - top == pytest.approx(3.08 * 150, abs=3)
        assert 0 < left < 15 and width - 20 < right < width
        assert (top - first) / 150 == pytest.approx(lines and 0.12 + lines * 10 * 1.2 / 72, abs=0.03)
        gaps = np.diff([0, *above.tolist(), top])
        assert gaps.max() < 0.3 * 150  # no large blank


@pytest.mark.parametrize("text", ["it costs $5 or $6", "$\\frac{$", "a_b^c $x$ \\$", "$\\nothing$"])
def test_dollars_are_dollars(tmp_path, text):
    tokens, left = reduced()
    panel = Panel(f"some:{text}", states(tokens, left), f"answer: {text}")
    frames = np.zeros((2, 8, 24, 3), dtype=np.uint8)
    draw(frames, [panel], tmp_path / "a.png", text)
    assert (tmp_path / "a.png").stat().st_size


def test_characters_without_a_font_are_one_note(tmp_path):
    tokens, left = reduced()
    frames = np.zeros((2, 8, 24, 3), dtype=np.uint8)
    panel = Panel("some", states(tokens, left), "answer: \udcff")
    drawn = draw(frames, [panel], tmp_path / "a.png", "\ue123 \ue124?")
    assert "has 2 of the characters" in drawn.note and "U+E123" in drawn.note
    assert not draw(frames, [panel], tmp_path / "a.png", "café, Ω ?").note.count("U+00E9")


def test_the_file_that_is_written_is_told(tmp_path):
    tokens, left = reduced()
    frames = np.zeros((2, 8, 24, 3), dtype=np.uint8)
    drawn = draw(frames, [Panel("some", states(tokens, left))], tmp_path / "noext")
    assert drawn.path == tmp_path / "noext.png" and drawn.path.is_file() and not drawn.note
    with pytest.raises(VisionError, match="is a folder"):
        draw(frames, [Panel("some", states(tokens, left))], tmp_path)


def test_a_picture_is_written_with_a_row_per_frame_and_a_column_per_method(tmp_path):
    tokens, left = reduced()
    frames = np.zeros((2, 8, 24, 3), dtype=np.uint8)
    sizes = []
    for count in (1, 3):
        draw(frames, [Panel("some", states(tokens, left), "yes")] * count, tmp_path / "a.png", "why?")
        with Image.open(tmp_path / "a.png") as image:
            sizes.append(image.size)
    assert sizes[1][0] == 2 * sizes[0][0] and sizes[0][1] == sizes[1][1]
    draw(frames, [Panel("some", states(tokens, left))], tmp_path / "a.svg")
    assert (
        "kept, with others merged in" in (tmp_path / "a.svg").read_text()
        or (tmp_path / "a.svg").stat().st_size
    )
    for path in (tmp_path / "no" / "a.png", tmp_path / "a.what"):
        with pytest.raises(VisionError, match="cannot write"):
            draw(frames, [Panel("some", states(tokens, left))], path)
