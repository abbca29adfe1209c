"""Units, offset maps, records and receipts."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.document import Document
from tokenprune.errors import DocumentError
from tokenprune.receipt import PruneResult, Receipt, UnitRecord, UnitRecords, compose
from tokenprune.tokens import get_counter
from tokenprune.units import OffsetMap, Pieces, Units


def ints(*values):
    return np.array(values, dtype=np.int64)


def records(*rows):
    """UnitRecords from (start, end, kept, stage) rows."""
    return UnitRecords(
        start=ints(*(r[0] for r in rows)),
        end=ints(*(r[1] for r in rows)),
        tokens=ints(*(r[1] - r[0] for r in rows)),
        score=np.array([math.nan if not r[2] else float(r[0]) for r in rows]),
        kept=np.array([r[2] for r in rows], dtype=bool),
        stage=tuple(r[3] for r in rows),
        reason=tuple("kept" if r[2] else "low-score" for r in rows),
    )


def rows(units):
    return [(u.start, u.end, u.kept, u.stage) for u in units]


# -- offset maps --------------------------------------------------------------------------------------


def test_offset_map():
    offsets = OffsetMap(ints(0, 3, 8), ints(10, 20, 40), ints(13, 24, 50))
    assert offsets.to_source(ints(0, 2, 3, 6, 7, 8, 9, 30)).tolist() == [10, 12, 20, 23, 24, 40, 41, 50]
    assert offsets.to_source(ints()).tolist() == []


def test_empty_offset_map():
    assert OffsetMap(ints(), ints(), ints()).to_source(ints(0, 5)).tolist() == [0, 0]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6),
    st.lists(st.integers(0, 40), max_size=8),
)
def test_offset_map_is_monotone_and_inside(pieces, asked):
    """Pieces of (gap in the source, length in the source, length in the output)."""
    out, src, end, at_out, at_src = [], [], [], 0, 0
    for gap, length, written in pieces:
        at_src += gap
        out.append(at_out)
        src.append(at_src)
        end.append(at_src + length)
        at_out, at_src = at_out + written, at_src + length
    mapped = OffsetMap(ints(*out), ints(*src), ints(*end)).to_source(ints(*sorted(asked))).tolist()
    assert mapped == sorted(mapped)
    assert all(src[0] <= m <= end[-1] for m in mapped)


# -- units --------------------------------------------------------------------------------------------


def test_units_from_starts():
    counter = get_counter()
    units = Units.from_starts(Document("One two. Three.", kind="text"), [0, 9], counter)
    assert len(units) == 2
    assert units.texts == ["One two. ", "Three."]
    assert units.context == ["", ""]
    assert units.range_start.tolist() == [0, 9]
    assert int(units.cost.sum()) == counter.count("One two. Three.")
    rendered = units.pieces.join(units.piece_mask(np.array([False, True])))
    assert rendered.text == "Three."
    assert rendered.offsets.to_source(ints(0, 3)).tolist() == [9, 12]


def test_no_units():
    units = Units.from_starts(Document("", kind="text"), [], get_counter())
    assert len(units) == 0
    assert units.pieces.join(units.piece_mask(np.empty(0, dtype=bool))).text == ""


def test_wrappers_open_outwards():
    """Units 0 and 1 stand in wrapper 1 inside wrapper 0; unit 2 in wrapper 2."""
    n = np.zeros(3, dtype=np.int64)
    pieces = Pieces(
        ["<a>", "<b>", "x", "y", "</b>", "</a>", "<c>", "z", "</c>"],
        ints(-1, -2, 0, 1, -2, -1, -3, 2, -3),
        np.arange(9),
        np.arange(1, 10),
        np.array([c in "<" for c in "<<xx<<<x<"]),
    )
    units = Units(
        Document("x" * 9, kind="html"), ["x",
        "y", "z"], [""] * 3, n, ints(1, 1, 2), ints(-1, 0, -1), n, n - 1, pieces,
        ints(0, 3, 6), ints(0, 1, 2), [""] * 3,
    )  # fmt: skip

    def kept(*mask):
        keep = np.array(mask, dtype=bool)
        return units.open_wrappers(keep).tolist(), pieces.join(units.piece_mask(keep)).text

    assert kept(0, 1, 0) == ([True, True, False], "<a><b>y</b></a>")
    assert kept(0, 0, 1) == ([False, False, True], "<c>z</c>")
    assert kept(0, 0, 0) == ([False, False, False], "")
    assert kept(1, 1, 1)[1] == "<a><b>xy</b></a><c>z</c>"


# -- records ------------------------------------------------------------------------------------------


def test_records_are_a_sequence():
    units = records((0, 3, True, "s"), (3, 5, False, "s"), (5, 9, True, "t"))
    assert len(units) == 3
    assert units[0] == UnitRecord(0, 3, 3, 0.0, True, "s", "kept")
    assert units[-1].start == 5
    assert [u.start for u in units[1:]] == [3, 5]
    assert [u.end for u in reversed(units)] == [9, 5, 3]
    assert [type(v) for v in units[2]] == [int, int, int, float, bool, str, str]
    assert [u[:3] for u in units] == [units[n][:3] for n in range(3)]
    with pytest.raises(IndexError):
        units[3]


def test_whole():
    assert rows(UnitRecords.whole(7, 2, kept=True, stage="s", reason="r")) == [(0, 7, True, "s")]
    assert len(UnitRecords.whole(0, 0, kept=True, stage="s", reason="r")) == 0


def test_compose_by_hand():
    """Stage one keeps [0, 4) and [6, 10); stage two drops output [2, 6), that is [2, 4) and [6, 8)."""
    before = records((0, 4, True, "one"), (4, 6, False, "one"), (6, 10, True, "one"))
    offsets = OffsetMap(ints(0, 4), ints(0, 6), ints(4, 10))
    after = records((0, 2, True, "two"), (2, 6, False, "two"), (6, 8, True, "two"))
    got = compose(before, offsets, after, 10)
    assert rows(got) == [
        (0, 2, True, "two"),
        (2, 4, False, "two"),
        (4, 6, False, "one"),
        (6, 8, False, "two"),
        (8, 10, True, "two"),
    ]
    assert got[0].score == 0.0
    assert math.isnan(got[2].score)


def test_compose_with_nothing_left():
    before = records((0, 4, False, "one"))
    assert compose(before, OffsetMap(ints(), ints(), ints()), records(), 4) is before


@given(data=st.data())
def test_compose_equals_a_plain_loop(data):
    """Two stages over plain text, character by character."""
    length = data.draw(st.integers(1, 20))
    cuts = sorted({0, *data.draw(st.lists(st.integers(0, length - 1), max_size=5))})
    first = [(a, b, data.draw(st.booleans()), "one") for a, b in zip(cuts, [*cuts[1:], length], strict=True)]
    before = records(*first)
    places = [c for a, b, kept, _ in first if kept for c in range(a, b)]
    kept_rows = [r for r in first if r[2]]
    lengths = [b - a for a, b, _, _ in kept_rows]
    out = np.cumsum([0, *lengths])[:-1]
    offsets = OffsetMap(ints(*out), ints(*(r[0] for r in kept_rows)), ints(*(r[1] for r in kept_rows)))
    n = len(places)
    cuts2 = sorted({0, *data.draw(st.lists(st.integers(0, max(0, n - 1)), max_size=5))}) if n else []
    second = (
        [(a, b, data.draw(st.booleans()), "two") for a, b in zip(cuts2, [*cuts2[1:], n], strict=True)]
        if n
        else []
    )
    got = compose(before, offsets, records(*second), length)
    expected = [(False, "one")] * length
    for a, b, kept, stage in second:
        for c in range(a, b):
            expected[places[c]] = (kept, stage)
    assert [u.start for u in got] == [0, *[u.end for u in got]][:-1]
    assert got[-1].end == length
    assert [(u.kept, u.stage) for u in got for _ in range(u.start, u.end)] == expected


# -- receipts and results -----------------------------------------------------------------------------


def test_receipt_to_dict():
    receipt = Receipt("a", records((0, 3, True, "s"), (3, 5, False, "s")), 5, 3, ("note",))
    assert receipt.to_dict() == {
        "document_id": "a",
        "tokens_before": 5,
        "tokens_after": 3,
        "rank": None,
        "notes": ["note"],
        "units": [
            {"start": 0, "end": 3, "tokens": 3, "score": 0.0, "kept": True, "stage": "s", "reason": "kept"},
            {
                "start": 3,
                "end": 5,
                "tokens": 2,
                "score": None,
                "kept": False,
                "stage": "s",
                "reason": "low-score",
            },
        ],
    }


def test_result_restores_and_serialises():
    document = Document("abc", kind="text", id="a", metadata={"k": 1})
    receipt = Receipt("a", records((0, 3, True, "s")), 3, 1)
    result = PruneResult(
        [document.with_text("b")], [receipt], 3, 1, 0.1234567, {"select": 0.5}, {"a": document}
    )
    assert result.restore("a") == "abc"
    with pytest.raises(DocumentError, match="no document 'b' in this result; ids: a"):
        result.restore("b")
    loaded = json.loads(json.dumps(result.to_dict()))
    assert set(loaded) == {"documents", "receipts", "tokens_before", "tokens_after", "seconds", "stages"}
    assert loaded["documents"] == [
        {"id": "a", "kind": "text", "title": None, "text": "b", "metadata": {"k": 1}}
    ]
    assert (loaded["seconds"], loaded["stages"]) == (0.123457, {"select": 0.5})


def test_the_same_call_gives_equal_results():
    documents = [tp.Document("Cats sleep. Dogs bark at night.", id="a"), tp.Document("", id="b")]
    pipeline = tp.Pipeline(["bm25-sentences"])
    first, second = (pipeline.prune("Who barks?", documents, tp.Budget(max_tokens=6)) for _ in range(2))
    assert first == second and len({r.units for r in (*first.receipts, *second.receipts)}) == 2
    other = pipeline.prune("Who sleeps?", documents, tp.Budget(max_tokens=6))
    assert first != other and first.receipts[0].units != other.receipts[0].units
    assert first.receipts[0].units != list(first.receipts[0].units)
