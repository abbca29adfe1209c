"""All the words that questions about the synthetic pictures and their answers are made of."""

from __future__ import annotations

COLOURS = ("red", "green", "blue", "yellow", "cyan", "pink", "orange", "white")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
DIGITS = tuple("0123456789")
KINDS = (*DIGITS, *SHAPES)
COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
WAYS = ("left", "right", "up", "down")
# The cells of a 3 x 3 raster over the picture, row by row.
PLACES = (
    *("top-left", "top", "top-right"),
    *("middle-left", "middle", "middle-right"),
    *("bottom-left", "bottom", "bottom-right"),
)
PLURALS = {shape: f"{shape}{'es' if shape == 'cross' else 's'}" for shape in SHAPES}
_OTHERS = (
    "user assistant system frame how many are there what which is the a of in colour shape digit object "
    "thing objects digits shapes where did move moved it way end start stop begin does do at to from and or "
    "not no yes picture video ? . , : first last between above below next than more less same different "
    "count name"
)
VOCABULARY = tuple(
    dict.fromkeys(
        (*KINDS, *COUNTS, *COLOURS, *PLURALS.values(), *WAYS, *PLACES, *_OTHERS.split()),
    )
)
