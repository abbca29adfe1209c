"""The work grows with the page, not with its square: counted exactly on small pages, timed on large ones."""

import sys
import time
from pathlib import Path

import pytest

import tokenprune as tp
import tokenprune.segment
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.html_clean import clean
from tokenprune.segment.html_repair import marked
from tokenprune.segment.html_source import scan
from tokenprune.tokens import get_counter

FOLDER = str(Path(tokenprune.segment.__file__).parent)

REPEATED = {
    "unclosed divs": "<div>a ",
    "less than": "<",
    "ampersands": "&",
    "entities": "&amp;&#8203",
    "quotes": "<a b='",
    "double quotes": "<a b=\"c' ",
    "nested tables": "<table><tr><td>a",
    "cells that span": "<table><tr><td rowspan=0 colspan=9>a<td>b<tr><td>c</table>",
    "nested cells that span": "<table><tr><td rowspan=2 colspan=2>a",
    "comment starts": "<!--",
    "comments": "<!-- a --!>",
    "unclosed attributes": "<p a=b ",
    "links": "<a ",
    "links to places": "<li><a href='#a'>a</a>",
    "links not ended": "<a href=#a>a ",
    "attributes of a link": "href=#a ",
    "signs of a link": "#",
    "zero-width": "\u200b",
    "zero-width words": "a\u200b ",
    "joiners": "م\u200c",
    "tag characters": "\U000e0041",
    "inline": "<b><i>a",
    "kept inline": "<code>a ",
    "hidden": "<i hidden>a",
    "not visible": "<i style='visibility:hidden'>a<b style='visibility:visible'>b",
    "hidden formatting": "<b hidden><p>a",
    "hidden formatting across blocks": "<b hidden><div><p>a</b>",
    "hidden formatting in cells": "<b style='color:red'><table><tr><td><b hidden>a",
    "hidden forms": "<form hidden><div></form><b>",
    "hidden and ended": "<i hidden><p></span></div></b></p>",
    "colours": "<font color=white style='background:#fff'>a</font>",
    "long style": "<p style='" + "a" * 200 + ":(" + "'>a",
    "templates": "<template>",
    "scripts in templates": "<template><script>a</script>",
    "raw text": "<xmp>a&#8203;</xmp>",
    "end tags": "</p>",
    "paragraphs held apart": "<p><b><div>a</div></b>",
    "lists held apart": "<ul><b><form>a</form></b>",
    "terms held apart": "<dl><dt><b><dd>a",
    "cdata": "<![CDATA[",
    "foreign": "<svg><math>a",
}


BEGINNINGS = {"attributes of a link": "<a # ", "signs of a link": "<a href="}


def lines(run, source):
    """How many lines of the segmenters are executed."""
    count = 0

    def local(frame, event, arg):
        nonlocal count
        count += event == "line"
        return local

    def trace(frame, event, arg):
        return local if frame.f_code.co_filename.startswith(FOLDER) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run(source)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", REPEATED)
def test_lines_executed_grow_with_the_page(name):
    part = REPEATED[name]
    clean(part)  # caches and imports are not the page's work

    def work(repeats):
        return lines(clean, part * repeats)

    few, many = work(250), work(1000)
    assert many <= 4.4 * few + 400


@pytest.mark.parametrize(
    "part",
    [
        "<td rowspan=65534 colspan=1000>a",
        "<tr>" + "<td rowspan=65534>a" * 9,
        "<tr><td colspan=1000>a<td>b",
        "<tr><td rowspan=0>a<td>b",
        "<tr><td>a",
    ],
)
def test_a_table_with_spans_grows_with_the_page(part):
    head = "<table><tr>" + "<td rowspan=65534>head" * 200

    def work(repeats):
        return lines(clean, head + part * repeats)

    clean(head + part)
    few, many = work(250), work(1000)
    assert many <= 4.4 * few + 400
    small, large = (sum(map(len, clean(head + part * n).text)) for n in (250, 1000))
    assert large <= 4.4 * small + 400


@pytest.mark.parametrize("name", REPEATED)
def test_marked_source_grows_with_the_page(name):
    part = REPEATED[name]
    few, many = (len(marked(scan(part * n))) for n in (250, 1000))
    assert many <= 4.8 * few + 400  # numbers get longer


@pytest.mark.parametrize(
    "name",
    [
        "unclosed divs",
        "nested tables",
        "cells that span",
        "zero-width words",
        "inline",
        "hidden",
        "terms held apart",
    ],
)
def test_lines_executed_by_the_block_tree(name):
    counter = get_counter()

    def work(repeats):
        document = tp.Document(REPEATED[name] * repeats, kind="html")
        return lines(lambda d: HtmlBlocks(8).segment(d, counter), document)

    work(10)
    few, many = work(250), work(1000)
    assert many <= 4.6 * few + 400


@pytest.mark.parametrize(
    "part", ["<b><i>a", "<code>a ", "a<sub>2 b</sub>", "<dt>a", "<td>a", "&amp;", "0123abcd", "อุณหภูมิ"]
)
@pytest.mark.parametrize("blocks", [HtmlBlocks(8), HtmlBlocks(8).finer(40)])
def test_lines_executed_where_a_line_is_cut(part, blocks):
    counter = get_counter()

    def work(repeats):
        document = tp.Document("<p>" + part * repeats, kind="html")
        return lines(lambda d: blocks.segment(d, counter), document)

    work(10)
    few, many = work(250), work(1000)
    assert many <= 4.6 * few + 400


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", REPEATED)
def test_time_per_megabyte(name):
    """Ten times the page may take thirty times as long, never the hundred times of a square."""

    def seconds(size):
        page = REPEATED[name] * (size // len(REPEATED[name]))
        start = time.process_time()
        clean(page)
        return time.process_time() - start

    seconds(10_000)
    small, medium, large = (seconds(n) for n in (100_000, 1_000_000, 10_000_000))
    assert medium <= 30 * small + 0.5
    assert large <= 30 * medium + 0.5
