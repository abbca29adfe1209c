import base64
import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokenprune.errors import ImageError, TokenPruneError
from tokenprune.vision.images import (
    FORMATS,
    Header,
    ImageLimits,
    data_url_bytes,
    read_data_url,
    read_file,
    read_header,
    read_image,
    read_video_file,
)


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def colours(size=(20, 10), mode="RGB"):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)


def url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png_of_size(width, height):
    """A PNG whose header promises a size and whose pixels are one short run of zeros."""

    def chunk(name, body):
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_as_rgb(kind):
    image = colours()
    read = read_image(encoded(image, kind), FORMATS[kind])
    assert (read.kind, read.image.mode, read.image.size, read.notes) == (kind, "RGB", (20, 10), ())
    if kind in ("PNG", "BMP"):
        assert np.array_equal(np.asarray(read.image), np.asarray(image))


def test_a_header_says_what_the_picture_is_before_a_pixel_is_decoded():
    for kind in FORMATS:
        assert read_header(encoded(colours(), kind), FORMATS[kind]) == Header(kind, 20, 10, False)
    frames = [colours(), colours(mode="L")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert read_header(data).animated
    cut = encoded(colours())[:60]
    assert read_header(cut).pixels == 200
    with pytest.raises(ImageError, match="damaged"):
        read_image(cut)
    with pytest.raises(ImageError, match="media type"):
        read_header(encoded(colours()), "image/jpeg")


def test_data_url_and_file_give_the_same_picture(tmp_path):
    data = encoded(colours())
    (tmp_path / "a.png").write_bytes(data)
    for read in (read_data_url(url(data)), read_file(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(read.image), np.asarray(colours()))
    folded = url(data)[:60] + "\r\n " + url(data)[60:]
    assert data_url_bytes(folded) == (data, "image/png")
    assert data_url_bytes(url(data).replace("+", "%2B").replace("image/png", "IMAGE/PNG;name=x"))[0] == data


def test_transparency_lies_on_white_whatever_carries_it():
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    clear.paste((200, 0, 0, 255), (0, 0, 4, 8))
    grey = Image.new("LA", (8, 8), (50, 0))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    for image, options in ((clear, {}), (grey, {}), (palette, {"transparency": 1})):
        read = np.asarray(read_image(encoded(image, **options)).image)
        assert (read[:, 5] == 255).all()
    assert (np.asarray(read_image(encoded(clear)).image)[:, 1] == [200, 0, 0]).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "I;16"])
def test_modes_become_rgb(mode):
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    if mode == "I;16":
        ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
        read = read_image(encoded(Image.fromarray(ramp), kind)).image
        assert np.array_equal(np.asarray(read)[..., 0], ramp // 257)
    else:
        image = Image.new("RGB", (16, 16), (200, 40, 90)).convert(mode)
        read = read_image(encoded(image, kind)).image
        assert np.abs(np.asarray(read).astype(int) - np.asarray(image.convert("RGB"))).max() <= 3
    assert read.mode == "RGB"


def test_a_transparent_value_of_sixteen_bits_is_white():
    ramp = np.full((8, 8), 40_000, dtype=np.uint16)
    ramp[0] = 20_000
    read = read_image(encoded(Image.fromarray(ramp), transparency=40_000)).image
    assert np.asarray(read)[:2, 0, 0].tolist() == [20_000 // 257, 255]


def test_exif_orientation_is_applied_and_broken_exif_is_told(tmp_path):
    image = colours((24, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    (tmp_path / "turned.png").write_bytes(encoded(image, exif=exif))
    upright = np.rot90(np.asarray(image), -1)
    assert np.array_equal(np.asarray(read_file(tmp_path / "turned.png").image), upright)
    assert np.array_equal(np.asarray(read_video_file(tmp_path / "turned.png")[0]), upright)
    broken = read_image(encoded(image, exif=b"no EXIF at all"))
    assert np.array_equal(np.asarray(broken.image), np.asarray(image))
    assert len(broken.notes) == 1 and "EXIF data cannot be read" in broken.notes[0]


def growing_gif(*sizes):
    """A GIF of frames that stand out of what the first one says is its size; what the last one holds is missing."""
    data = bytearray(encoded(Image.new("P", (16, 16)), "GIF"))
    frame = data[data.index(b"\x2c", 13 + (3 << ((data[10] & 7) + 1) if data[10] & 128 else 0)) : -1]
    for width, height in sizes:
        frame[5:9] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
        data[-1:] = b"\x21\xf9\x04\x00\x00\x00\x00\x00" + frame + b";"
    return bytes(data)


@pytest.mark.parametrize("size", [(200, 200), (60_000, 60_000)])
def test_frames_that_grow_are_counted_as_they_are(size, tmp_path):
    (tmp_path / "a.gif").write_bytes(growing_gif((16, 16), size))
    with pytest.raises(ImageError, match="pixels"):
        read_video_file(tmp_path / "a.gif", ImageLimits(max_pixels=20_000))


def test_pillows_own_limit_is_named():
    with pytest.raises(ImageError, match="far more than 178,956,970 pixels"):
        read_image(png_of_size(30_000, 30_000), limits=ImageLimits(max_pixels=10**9))


def test_what_is_folded_or_escaped_counts_as_it_is():
    data = encoded(colours((60, 40)))
    limits = ImageLimits(max_bytes=len(data))
    plain = base64.b64encode(data).decode()
    for body in (plain, "\n".join(plain[i : i + 4] for i in range(0, len(plain), 4)),
                 "".join(f"%{ord(c):02x}" for c in plain)):  # fmt: skip
        assert data_url_bytes(f"data:image/png;base64,{body}", limits)[0] == data
    with pytest.raises(ImageError, match=f"at most {len(data) - 4:,}"):
        data_url_bytes(f"data:image/png;base64,{plain}", ImageLimits(max_bytes=len(data) - 4))


def test_only_the_first_frame_of_an_animation_is_read_and_that_is_said():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    read = read_image(data, "image/gif")
    assert read.image.getpixel((3, 3)) == (255, 0, 0)
    assert read.notes == ("animated GIF: only its first frame is read",)


@pytest.mark.parametrize(
    ("data", "declared", "message"),
    [
        (b"", "", "is empty"),
        (b"hello, this is no picture", "", "none of PNG"),
        (encoded(colours())[:200], "", "damaged"),
        (encoded(colours(), "JPEG")[:300], "", "damaged"),
        (encoded(colours()), "image/jpeg", "sent as 'image/jpeg' but is 'image/png'"),
        (encoded(colours()), "text/html", "sent as 'text/html'"),
        (encoded(Image.new("RGB", (1, 1))), "", "1 x 1 pixels; its sides must be at least 4"),
        (encoded(Image.new("RGB", (4, 3))), "", "sides must be"),
        (encoded(Image.new("L", (5000, 5))), "", "100 times"),
        (png_of_size(8000, 8000), "", "8,000 x 8,000 pixels; at most 40,000,000"),
        (png_of_size(100_000, 100_000), "", "far more than 40,000,000 pixels"),
        (png_of_size(10_000, 10_000), "", "10,000 x 10,000 pixels; at most 40,000,000"),
        (png_of_size(64, 64), "", "damaged"),
    ],
    ids=range(13),
)  # fmt: skip
def test_what_cannot_be_read_is_one_clear_error(data, declared, message):
    with pytest.raises(ImageError, match=message) as error:
        read_image(data, declared)
    assert "\n" not in str(error.value)


def test_limits_can_be_set():
    data = encoded(colours((20, 10)))
    assert read_image(data, "image/jpeg", ImageLimits(type_must_match=False)).kind == "PNG"
    assert read_image(encoded(Image.new("RGB", (1, 1))), limits=ImageLimits(min_side=1)).image.size == (1, 1)
    with pytest.raises(ImageError, match="at most 199 are read"):
        read_image(data, limits=ImageLimits(max_pixels=199))
    with pytest.raises(ImageError, match="at most 50 are read"):
        read_image(data, limits=ImageLimits(max_bytes=50))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://example.org/a.png", "not a data URL"),
        ("data:image/png;base64", "not a data URL"),
        ("data:image/png,abc", "not base64"),
        ("data:image/png;base64,a&b=", "not valid base64"),
        ("data:image/png;base64,aé==", "not valid base64"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64," + "A" * 30_000_000, "at most 20,000,000 are read"),
    ],
)
def test_data_urls_that_are_wrong(text, message):
    with pytest.raises(ImageError, match=message):
        read_data_url(text)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "none.png"):
        with pytest.raises(ImageError, match="cannot read the image"):
            read_file(path)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_damaged_bytes_are_read_or_refused_and_nothing_else(kind, draw):
    data = bytearray(encoded(colours((12, 12)), kind))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(data)))
    try:
        assert read_image(bytes(data[:cut])).image.mode == "RGB"
    except TokenPruneError as error:
        assert isinstance(error, ImageError)


def test_all_frames_of_an_animation_make_a_video(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    (tmp_path / "a.gif").write_bytes(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    (tmp_path / "a.png").write_bytes(encoded(frames[0]))
    assert [f.getpixel((2, 2)) for f in read_video_file(tmp_path / "a.gif")] == [
        (255, 0, 0),
        (0, 0, 255),
        (0, 128, 0),
    ]
    assert len(read_video_file(tmp_path / "a.png")) == 1
    for limits in (ImageLimits(max_frames=2), ImageLimits(max_pixels=191)):
        with pytest.raises(ImageError, match="3 frames of 8 x 8 pixels"):
            read_video_file(tmp_path / "a.gif", limits)
    with pytest.raises(ImageError, match="cannot read"):
        read_video_file(tmp_path / "no.gif")
