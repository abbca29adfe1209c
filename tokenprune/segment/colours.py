"""Colours of inline styles and old attributes as RGB: to see whether text stands out from its ground."""

from __future__ import annotations

import colorsys
import re

Colour = tuple[int, int, int]
CLEAR = (-1, -1, -1)  # fully transparent

# The named colours of CSS Color Module Level 4, section 6.1.
_WORDS = (
    "aliceblue f0f8ff antiquewhite faebd7 aqua 00ffff aquamarine 7fffd4 azure f0ffff beige f5f5dc"
    " bisque ffe4c4 black 000000 blanchedalmond ffebcd blue 0000ff blueviolet 8a2be2 brown a52a2a"
    " burlywood deb887 cadetblue 5f9ea0 chartreuse 7fff00 chocolate d2691e coral ff7f50"
    " cornflowerblue 6495ed cornsilk fff8dc crimson dc143c cyan 00ffff darkblue 00008b darkcyan 008b8b"
    " darkgoldenrod b8860b darkgray a9a9a9 darkgreen 006400 darkgrey a9a9a9 darkkhaki bdb76b"
    " darkmagenta 8b008b darkolivegreen 556b2f darkorange ff8c00 darkorchid 9932cc darkred 8b0000"
    " darksalmon e9967a darkseagreen 8fbc8f darkslateblue 483d8b darkslategray 2f4f4f"
    " darkslategrey 2f4f4f darkturquoise 00ced1 darkviolet 9400d3 deeppink ff1493 deepskyblue 00bfff"
    " dimgray 696969 dimgrey 696969 dodgerblue 1e90ff firebrick b22222 floralwhite fffaf0"
    " forestgreen 228b22 fuchsia ff00ff gainsboro dcdcdc ghostwhite f8f8ff gold ffd700 goldenrod daa520"
    " gray 808080 green 008000 greenyellow adff2f grey 808080 honeydew f0fff0 hotpink ff69b4"
    " indianred cd5c5c indigo 4b0082 ivory fffff0 khaki f0e68c lavender e6e6fa lavenderblush fff0f5"
    " lawngreen 7cfc00 lemonchiffon fffacd lightblue add8e6 lightcoral f08080 lightcyan e0ffff"
    " lightgoldenrodyellow fafad2 lightgray d3d3d3 lightgreen 90ee90 lightgrey d3d3d3 lightpink ffb6c1"
    " lightsalmon ffa07a lightseagreen 20b2aa lightskyblue 87cefa lightslategray 778899"
    " lightslategrey 778899 lightsteelblue b0c4de lightyellow ffffe0 lime 00ff00 limegreen 32cd32"
    " linen faf0e6 magenta ff00ff maroon 800000 mediumaquamarine 66cdaa mediumblue 0000cd"
    " mediumorchid ba55d3 mediumpurple 9370db mediumseagreen 3cb371 mediumslateblue 7b68ee"
    " mediumspringgreen 00fa9a mediumturquoise 48d1cc mediumvioletred c71585 midnightblue 191970"
    " mintcream f5fffa mistyrose ffe4e1 moccasin ffe4b5 navajowhite ffdead navy 000080 oldlace fdf5e6"
    " olive 808000 olivedrab 6b8e23 orange ffa500 orangered ff4500 orchid da70d6 palegoldenrod eee8aa"
    " palegreen 98fb98 paleturquoise afeeee palevioletred db7093 papayawhip ffefd5 peachpuff ffdab9"
    " peru cd853f pink ffc0cb plum dda0dd powderblue b0e0e6 purple 800080 rebeccapurple 663399"
    " red ff0000 rosybrown bc8f8f royalblue 4169e1 saddlebrown 8b4513 salmon fa8072 sandybrown f4a460"
    " seagreen 2e8b57 seashell fff5ee sienna a0522d silver c0c0c0 skyblue 87ceeb slateblue 6a5acd"
    " slategray 708090 slategrey 708090 snow fffafa springgreen 00ff7f steelblue 4682b4 tan d2b48c"
    " teal 008080 thistle d8bfd8 tomato ff6347 turquoise 40e0d0 violet ee82ee wheat f5deb3 white ffffff"
    " whitesmoke f5f5f5 yellow ffff00 yellowgreen 9acd32"
).split()
NAMES = {name: int(code, 16) for name, code in zip(_WORDS[::2], _WORDS[1::2], strict=True)}
_HEX = re.compile(r"#([0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})(?![\w-])")
_FUNCTION = re.compile(r"(rgb|hsl)a?\(([^()]*)\)")
_WORD = re.compile(r"[a-z]+")
_NUMBER = re.compile(r"(-?\d*\.?\d+)(%?)")
# How far the channels of two colours may differ and still look the same; white on #fafafa: contrast 1.04.
_NEAR = 6


def same(a: Colour, b: Colour) -> bool:
    """Whether nobody can tell two colours apart."""
    return all(abs(x - y) <= _NEAR for x, y in zip(a, b, strict=True))


def colour(value: str, *, legacy: bool = False) -> Colour | None:
    """Read one colour; None where it is not known.

    Args:
        value: lower-cased CSS value.
        legacy: whether it is the value of ``color`` or ``bgcolor``, where "#" may be missing.
    """
    value = value.strip()
    if legacy and re.fullmatch("[0-9a-f]{6}", value) and value not in NAMES:
        value = "#" + value
    if value == "transparent":
        return CLEAR
    if value in NAMES:
        return _split(NAMES[value])
    if (code := _HEX.fullmatch(value)) is not None:
        digits = code[1] if len(code[1]) > 4 else "".join(d + d for d in code[1])
        return _seen(_split(int(digits[:6], 16)), int(digits[6:] or "ff", 16) / 255)
    if (call := _FUNCTION.fullmatch(value)) is not None:
        numbers = [(float(n), bool(percent)) for n, percent in _NUMBER.findall(call[2])]
        if len(numbers) not in (3, 4):
            return None
        alpha = numbers[3][0] / (100 if numbers[3][1] else 1) if len(numbers) == 4 else 1.0
        if call[1] == "hsl":
            h, s, light = (n for n, _ in numbers[:3])
            channels = [255 * c for c in colorsys.hls_to_rgb(h / 360 % 1, _unit(light), _unit(s))]
        else:
            channels = [n * 2.55 if percent else n for n, percent in numbers[:3]]
        r, g, b = (round(min(max(c, 0), 255)) for c in channels)
        return _seen((r, g, b), alpha)
    return None


def ground(value: str) -> Colour | None:
    """Read the colour in a ``background`` shorthand; None where it is not known or an image may cover it."""
    if "url(" in value or "gradient(" in value or "image" in value or "var(" in value:
        return None
    for pattern in (_FUNCTION, _HEX):
        if (found := pattern.search(value)) is not None:
            return colour(found[0])
    for word in _WORD.findall(value):
        if word in NAMES or word == "transparent":
            return colour(word)
    return CLEAR if value.strip() in ("none", "initial", "unset") else None


def _unit(percent: float) -> float:
    return min(max(percent, 0), 100) / 100


def _split(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255


def _seen(rgb: Colour, alpha: float) -> Colour | None:
    """A colour that lets through some of what is behind it is not known."""
    return CLEAR if alpha <= 0.05 else rgb if alpha >= 0.99 else None
