"""Pictures that cannot be used, and words of what is said of them."""

import io
import struct
import zlib

from vision_world import data_url, picture_bytes


def png_of(width, height):
    """A small file that claims to be a large picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    lines = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def animated(kind):
    from PIL import Image

    frames = [Image.new("RGB", (64, 64), (20 * n, 0, 0)) for n in range(3)]
    with io.BytesIO() as file:
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=50)
        return file.getvalue()


GOOD = picture_bytes()
BAD_PICTURES = {
    "corrupt": (data_url(GOOD[:200]), "damaged"),
    "corrupt-middle": (data_url(GOOD[:300] + b"\0" * 40 + GOOD[340:]), "damaged"),
    "no-picture": (data_url(b"hello, world"), "none of PNG"),
    "empty": (data_url(b""), "empty"),
    "1x1": (data_url(picture_bytes(0, (1, 1))), "1 x 1"),
    "8000x8000": (data_url(png_of(8000, 8000)), "8,000 x 8,000"),
    "bomb": (data_url(png_of(60_000, 60_000)), "pixels"),
    "thread": (data_url(picture_bytes(0, (2000, 8))), "times the other"),
    "gif": (data_url(animated("GIF"), "image/gif"), "animated GIF; send its frames as pictures"),
    "webp": (data_url(animated("WEBP"), "image/webp"), "it is an animated WEBP"),
    "wrong-type": (data_url(GOOD, "image/jpeg"), "sent as 'image/jpeg'"),
    "text-type": (data_url(GOOD, "text/html"), "text/html"),
    "svg": (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "none of PNG"),
    "no-base64": ("data:image/png;base64,@@@@", "base64"),
    "cut-base64": (data_url(GOOD)[:-3], "base64"),
    "percent": ("data:image/png,%89PNG", "base64"),
    "large": (data_url(bytes(3_000_000)), "bytes"),
    "file": ("file:///etc/passwd", "data URL"),
    "ftp": ("ftp://example.com/a.png", "data URL"),
    "nothing": ("picture.png", "data URL"),
}
