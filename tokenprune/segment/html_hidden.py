"""What an element's own attributes say about whether people see it.

Text hidden from people is a known way to inject prompts, so it is dropped and named in the receipt. One
reason each:

========================  ===========================================================================
hidden:attribute          the ``hidden`` attribute (not ``until-found``: search finds that)
hidden:display-none       ``display: none``, ``content-visibility: hidden``
hidden:visibility         ``visibility: hidden`` or ``collapse``; a visible child stays
hidden:opacity            ``opacity: 0``
hidden:zero-size          no font size, no box with its overflow cut, ``scale(0)``
hidden:off-screen         moved far out of the screen: position, margin, text indent, ``translate``
hidden:clip               clipped to nothing, as text for screen readers is
hidden:same-colour        transparent text, or text in the known colour of its ground
hidden:closed             a ``dialog`` without ``open``, a ``popover``
hidden:fallback           what stands in ``video``, ``audio``, ``canvas``, and an ``object`` with a shown file
hidden:annotated          the signs of a formula of which the TeX is kept
hidden:not-rendered       ``datalist``; titles, descriptions and annotations in SVG and MathML
hidden:zero-width, hidden:bidi, hidden:tag-characters    characters; see ``invisible``
========================  ===========================================================================

Inline styles and attributes are read, and the plainest rules of the page's own style elements (see
``html_sheets``), unless a rule would hide more than half of the words: a script undoes that one. It is the
same with all that is hidden by its opacity, in several elements or to the last word: pages that fade in what
scrolls into view are sent so.
``aria-hidden`` hides nothing from people who look, closed ``<details>`` open at a click, and a page that is
hidden whole (``<body style="opacity:0">``) is shown by a script: all of these stay.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

from tokenprune.segment.colours import CLEAR, Colour, colour, ground, same
from tokenprune.segment.css import FONT, PX, declarations, in_px, numbers
from tokenprune.segment.entities import unescape
from tokenprune.segment.html_tags import attributes

ATTRIBUTE, DISPLAY, VISIBILITY = "hidden:attribute", "hidden:display-none", "hidden:visibility"
OPACITY, SIZE, OFF_SCREEN = "hidden:opacity", "hidden:zero-size", "hidden:off-screen"
CLIP, COLOUR = "hidden:clip", "hidden:same-colour"
CLOSED, FALLBACK, NOT_RENDERED = "hidden:closed", "hidden:fallback", "hidden:not-rendered"
ANNOTATED = "hidden:annotated"
# Why texts are hidden that a script may show: pages fade in what scrolls into view. Not by their visibility,
# which is also set so: it is a known way to hide words from people and not from models.
UNDONE = frozenset((OPACITY,))

_FAR = -900.0  # px; layouts move things by less, hiding tricks use -999 or -9999
TINY = 1.0  # px; a font of this size is a line of dots

_TELLING = re.compile(
    r"display|visib|opacity|font|width|height|color|background|clip|indent|position|trans|scale|margin"
    r"|\\|&",
    re.I,
)
_TELL = ("style", "hidden", "color", "text", "background", "popover", "data")
_RELATIVE = {"em": 1.0, "ex": 0.5, "ch": 0.5, "%": 0.01}
_SCALE = re.compile(r"scale(?:x|y|3d)?\(\s*+([^,()]*+)(?:,\s*+([^,()]*+))?")
_TRANSLATE = re.compile(r"translate(?:x|y|3d)?\(([^()]*+)\)")
_CLEAR_FILTER = re.compile(r"opacity\(\s*+(?:0++\.?0*+|\.0++)%?\s*+\)")
_NO_AREA = re.compile(
    r"inset\(\s*+(?:5\d|[6-9]\d|\d{3})(?:\.\d++)?%|(?:circle|ellipse)\(\s*+0(?:px|%)?[\s)]"
    r"|polygon\(\s*+0(?:px|%)?(?:[\s,]++0(?:px|%)?)*+\s*+\)|rect\(\s*+(?:[01](?:px)?[\s,]*+){4}\)"
)


class Look(NamedTuple):
    """What one start tag says.

    Attributes:
        reason: why the whole element is hidden; "" when it is not.
        visible: of its text and that of its children: False hides, True shows again.
        font: (factor, px): font size as ``factor * parent + px``; None as the parent.
        flat: whether lines have no height in a box that cuts what sticks out.
        ink: colour of the text; "unknown" when it is set to something not known.
        ground: colour behind it; likewise.
    """

    reason: str = ""
    visible: bool | None = None
    font: tuple[float, float] | None = None
    flat: bool | None = None
    ink: Colour | str | None = None
    ground: Colour | str | None = None

    def without(self, doubted: Collection[str]) -> Look:
        """Return the look without what is hidden for some of the reasons of ``UNDONE``."""
        return self._replace(reason="") if self.reason in doubted else self

    @property
    def may_hide(self) -> bool:
        """Whether anything can be unseen because of it: backgrounds and unknown colours hide nothing."""
        return bool(self.reason or self.visible is False or self.font or self.flat) or isinstance(
            self.ink, tuple
        )


class State(NamedTuple):
    """What is known of a place in the page: the looks of all elements around it put together."""

    visible: bool = True
    font: float = FONT
    flat: bool = False
    ink: Colour | None = None
    ground: Colour | None = None

    def inside(self, look: Look) -> State:
        """Return the state inside an element."""
        factor, px = look.font or (1.0, 0.0)
        return State(
            self.visible if look.visible is None else look.visible,
            factor * self.font + px,
            self.flat if look.flat is None else look.flat,
            _latest(self.ink, look.ink),
            self.ground if look.ground == CLEAR else _latest(self.ground, look.ground),
        )

    @property
    def reason(self) -> str:
        """Why text here is not seen; "" when it is."""
        if not self.visible:
            return VISIBILITY
        if self.font <= TINY or self.flat:
            return SIZE
        if self.ink is None:
            return ""
        return COLOUR if self.ink == CLEAR or (self.ground and same(self.ink, self.ground)) else ""


def _latest(old: Colour | None, new: Colour | str | None) -> Colour | None:
    return old if new is None else None if isinstance(new, str) else new


_PLAIN = Look()
_MEDIA = frozenset(("audio", "canvas", "video"))
# What browsers show in an ``object``; of anything else (plug-ins that are gone, say) they show the fallback.
_SHOWN_TYPE = re.compile(r"\s*(?:image/|video/|audio/|text/html|application/(?:pdf|xhtml\+xml))")
_SHOWN_NAME = re.compile(r"\.(?:svg|png|jpe?g|gif|webp|avif|pdf|html?|mp4|webm)(?:[?#]|\s*\Z)")
# Elements that hide what is in them without a word in their attributes.
SILENT = _MEDIA | {"datalist", "dialog"}
# Attributes of SVG that mean what the style property of that name means.
_SVG_STYLES = ("display", "visibility", "opacity", "font-size", "clip-path", "fill", "fill-opacity", "stroke")
# Browsers give these a colour of their own, whatever is around them.
_OWN_INK = frozenset("a button input mark select textarea".split())


def look(tag: str, source: str) -> Look | None:
    """Read a start tag; None when it says nothing about what people see.

    Args:
        tag: lower-cased name.
        source: its attributes as they are written.
    """
    low = source.lower()
    if tag not in SILENT:
        for attribute in _TELL:  # several times as fast as one regular expression
            if attribute in low:
                break
        else:
            return None
    return _cached(tag, source) if len(source) < 300 else _look(tag, source)


def painted(tag: str, said: Look | None, source: str) -> Look | None:
    """Add what is painted anyway: links and controls by browsers, header cells by style sheets."""
    if tag == "th" and (said is None or said.ground is None):
        return (said or _PLAIN)._replace(ground="unknown")
    if tag not in _OWN_INK or (tag == "a" and "href" not in source.lower()):
        return said
    said = said or _PLAIN
    behind = said.ground if tag == "a" or said.ground is not None else "unknown"
    return said._replace(ink="unknown" if said.ink is None else said.ink, ground=behind)


def _look(tag: str, source: str) -> Look | None:
    found = attributes(source)
    style = found.get("style", "")
    result, displayed = _read(style) if _TELLING.search(style) else (_PLAIN, False)
    if not result.reason and not displayed:
        result = result._replace(reason=_closed(tag, found))
    if not result.reason and (tag in _MEDIA or (tag == "object" and _is_shown(found))):
        result = result._replace(reason=FALLBACK)
    ink = found.get("color" if tag == "font" else "text" if tag == "body" else "")
    if ink and result.ink is None:
        result = result._replace(ink=colour(unescape(ink).lower(), legacy=True) or "unknown")
    if result.ground is None:
        if "bgcolor" in found:
            read = colour(unescape(found["bgcolor"]).lower(), legacy=True)
            result = result._replace(ground=read or "unknown")
        if "background" in found:
            result = result._replace(ground="unknown")
    if tag in ("html", "head", "body"):
        result = result._replace(reason="", visible=None, flat=None)
    return None if result == _PLAIN else result


_cached = lru_cache(maxsize=4096)(_look)


def _closed(tag: str, found: dict[str, str]) -> str:
    """Why browsers do not display an element unless its style says so."""
    if found.get("hidden", "until-found").lower() != "until-found":
        return ATTRIBUTE
    if tag == "datalist":
        return NOT_RENDERED
    return CLOSED if ("open" not in found if tag == "dialog" else "popover" in found) else ""


def _is_shown(found: dict[str, str]) -> bool:
    """Whether an ``object`` shows what it names, and not what stands in it."""
    data, kind = found.get("data", "").lower(), found.get("type", "").lower()
    return bool(data) and bool(_SHOWN_TYPE.match(kind) if kind else _SHOWN_NAME.search(data))


@lru_cache(maxsize=4096)
def look_of_svg(tag: str, source: str) -> Look | None:
    """Read the attributes of an SVG element that say how it looks; None when there are none."""
    found = attributes(source)
    said = [f"{name}:{found[name]}" for name in _SVG_STYLES if name in found]
    if not said and "fill" not in found.get("style", ""):
        return None
    style = ";".join([*said, found.get("style", "")])
    shown = declarations(style)
    result = _read(style)[0]
    thin = numbers(shown.get("fill-opacity", "1"))
    clear = shown.get("fill") in ("none", "transparent") or (bool(thin) and not thin[0][0])
    if tag in ("text", "tspan", "textpath") and clear and shown.get("stroke", "none") == "none":
        result = result._replace(ink=CLEAR)
    elif "fill" in shown:
        result = result._replace(ink="unknown")
    return result


def hides(style: str) -> str | None:
    """Return why a rule of a style sheet hides an element, "" when it shows one, None when neither."""
    if "display" not in style.lower() and "visibility" not in style.lower():
        return None
    found = declarations(style)
    if found.get("display") == "none":
        return DISPLAY
    if found.get("visibility") in ("hidden", "collapse"):
        return VISIBILITY
    return "" if "display" in found or "visibility" in found else None


def _read(style: str) -> tuple[Look, bool]:
    """Read an inline style; also whether it sets ``display`` to something shown."""
    found = declarations(style)
    display = found.get("display", "")
    ink = found.get("-webkit-text-fill-color") or found.get("color")
    tint = None if ink is None or ink in ("inherit", "currentcolor") else colour(ink) or "unknown"
    shown_through = "text" in found.get("background-clip", "") + found.get("-webkit-background-clip", "")
    if tint == CLEAR and (shown_through or found.get("text-shadow", "none") != "none"):
        tint = "unknown"
    visibility = found.get("visibility", "")
    visible = {"hidden": False, "collapse": False, "visible": True, "initial": True}.get(visibility)
    size, flat = _font(found)
    result = Look(_reason(found, display), visible, size, flat, tint, _ground(found))
    return result, bool(display) and display != "none"


def _reason(found: dict[str, str], display: str) -> str:
    """Why a style hides the whole element."""
    if display == "none" or found.get("content-visibility") == "hidden":
        return DISPLAY
    transform = found.get("transform", "") + " " + found.get("-webkit-transform", "")
    factors = [f for pair in _SCALE.findall(transform) for f in pair]
    if any(abs(_share(n)) <= 0.01 for f in (*factors, found.get("scale", "")) for n in numbers(f)):
        return SIZE
    cut = any(
        "hidden" in found.get(name, "") or "clip" in found.get(name, "")
        for name in ("overflow", "overflow-x", "overflow-y")
    )
    if cut and _no_box(found):
        return SIZE
    position = found.get("position", "")
    moved = [found.get("text-indent", ""), *_TRANSLATE.findall(transform), found.get("translate", "")]
    if position in ("absolute", "fixed", "relative"):
        moved += [found.get(side, "") for side in ("left", "right", "top", "bottom", "inset")]
    if not any(n >= -_FAR for name in found if name.startswith("padding") for n, _ in numbers(found[name])):
        moved += [found.get(side, "") for side in ("margin-left", "margin-top", "margin")]
    if any(number * PX.get(unit, 0.0) <= _FAR for value in moved for number, unit in numbers(value)):
        return OFF_SCREEN
    indent = numbers(found.get("text-indent", ""))
    if cut and indent and indent[0][1] == "%" and indent[0][0] >= 100:
        return OFF_SCREEN
    if (position in ("absolute", "fixed") and _NO_AREA.search(found.get("clip", ""))) or any(
        _NO_AREA.search(found.get(name, "")) for name in ("clip-path", "-webkit-clip-path")
    ):
        return CLIP
    opacity = numbers(found.get("opacity", "1"))  # last: what is hidden in another way too stays so
    if (opacity and _share(opacity[0]) <= 0.01) or _CLEAR_FILTER.search(found.get("filter", "")):
        return OPACITY
    return ""


def _share(number: tuple[float, str]) -> float:
    return number[0] / (100 if number[1] == "%" else 1)


def _no_box(found: dict[str, str]) -> bool:
    """Whether a box has no area; padding gives it one (videos are set into such boxes)."""
    for name, value in found.items():
        if name.startswith("padding") and any(number for number, _ in numbers(value)):
            return False
    width, height = (
        min(
            (px for px in (in_px(found.get(n)), in_px(found.get(f"max-{n}"))) if px is not None), default=None
        )
        for n in ("width", "height")
    )
    if any((in_px(found.get(f"min-{n}")) or 0) > 1 for n in ("width", "height")):
        return False
    return width == 0 or height == 0 or (width is not None and height is not None and max(width, height) <= 1)


def _font(found: dict[str, str]) -> tuple[tuple[float, float] | None, bool | None]:
    """Font size, and whether lines have no height in a box that cuts what sticks out."""
    size: tuple[float, float] | None = None
    line = found.get("line-height")
    shorthand = found.get("font")
    value = found.get("font-size")
    if value is None and shorthand is not None and shorthand not in ("inherit", "unset"):
        before, slash, behind = shorthand.partition("/")
        lengths = [x for x in numbers(before) if x[1] or not x[0]]
        value = f"{lengths[-1][0]}{lengths[-1][1]}" if lengths else "medium"
        line = line or (behind.split(" ")[0] if slash else None)
    if value is not None and value not in ("inherit", "unset"):
        lengths = numbers(value) if "(" not in value else []
        if value in ("smaller", "larger"):
            size = (0.83 if value == "smaller" else 1.2, 0.0)
        elif len(lengths) != 1:
            size = (0.0, FONT)
        elif lengths[0][0] >= 0 and (lengths[0][1] or not lengths[0][0]):
            number, unit = lengths[0]
            size = (number * _RELATIVE[unit], 0.0) if unit in _RELATIVE else (0.0, number * PX[unit])
    flat: bool | None = None
    if line is not None:
        lengths = numbers(line)
        flat = bool(lengths) and lengths[0][0] == 0 and "hidden" in found.get("overflow", "")
        flat = flat and not (in_px(found.get("height")) or in_px(found.get("min-height")))
    return size, flat


def _ground(found: dict[str, str]) -> Colour | str | None:
    image = found.get("background-image", "none")
    if image != "none":
        return "unknown"
    value = found.get("background-color")
    shorthand = found.get("background")
    if value is None:
        return None if shorthand is None else ground(shorthand) or "unknown"
    if shorthand is not None and ("url(" in shorthand or "gradient(" in shorthand):
        return "unknown"
    return colour(value) or "unknown"
