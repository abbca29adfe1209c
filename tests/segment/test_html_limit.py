"""Blocks of a page under a limit of tokens: what is larger is cut, by the rule of texts."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.sentences import Sentences, split_costly
from tokenprune.tokens import get_counter

COUNTER = get_counter()

LONG = {
    "Thai": "".join(f"ห้องหมายเลข{i}มีอุณหภูมิ{i}องศาและมีหน้าต่างทางทิศเหนือ" for i in range(40)),
    "Burmese": "".join(f"အခန်းနံပါတ်{i}၏အပူချိန်မှာ{i}ဒီဂရီဖြစ်ပြီးပြတင်းပေါက်သည်မြောက်ဘက်တွင်ရှိသည်။" for i in range(20)),
    "Russian": " ".join(f"Температура комнаты {i} равна {i} градусам." for i in range(60)),
    "URLs": " ".join(f"https://example.com/a/b/c?x={i * 7919}&y={i}#frag{i}" for i in range(60)),
    "digits": "".join(f"{i * 7919:08x}" for i in range(400)),
    "both": "word " * 80 + "ห้องหมายเลขมีอุณหภูมิองศา" * 9 + " word" * 80,
}
AROUND = {
    "paragraph": "<p>{}</p>",
    "code": "<pre><code>{}</code></pre>",
    "in a line": "<p>See <code>{}</code>, which is long.</p>",
    "cell": "<table><tr><td>a<td>{}</table>",
    "meaning": "<dl><dt>term<dd>{}</dl>",
    "item": "<ul><li>{}<li>b</ul>",
}


def blocks(page, limit, max_words=64):
    cut = replace(HtmlBlocks(max_words).finer(limit), max_tokens=limit)  # below a sentence's tokens, too
    return cut.segment(tp.Document(page, kind="html"), COUNTER)


@pytest.mark.parametrize("limit", [24, 60, 200])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", LONG)
def test_no_block_has_more_tokens(name, around, limit, read_html):
    page = AROUND[around].format(LONG[name].replace("&", "&amp;"))
    units = blocks(page, limit)
    assert units.cost.max() <= limit
    assert units.cost.sum() + units.wrapper_cost.sum() > 2 * limit
    everything = units.pieces.join(np.ones(len(units.pieces.text), dtype=bool))
    assert read_html.text(everything.text) == read_html.text(page)
    for start, owner, end in zip(
        units.range_start, units.range_owner, [*units.range_start[1:], len(page)], strict=True
    ):
        if owner >= 0:
            there = read_html.text(page[start:end]).replace(" ", "")
            assert "".join(units.texts[owner].split()) in there


def test_a_sentence_that_fits_stays_whole():
    sentence = "The red valve in the north hall is not to be opened while the pump of room {} runs at night."
    page = "<p>" + " ".join(sentence.format(n) for n in range(40)) + "</p>"
    limit = COUNTER.count(sentence.format(11)) + 1
    for text in blocks(page, limit).texts:
        assert text.startswith("The red") and text.endswith("at night.")


@pytest.mark.parametrize("limit", [1, 15, 24, 63])
@pytest.mark.parametrize("cut", [HtmlBlocks(64), Sentences()])
def test_a_short_sentence_stays_whole_whatever_the_budget(cut, limit):
    """Else "Part 12 costs" of one and "7000" of another stand side by side."""
    said = [f"Part AX{1000 + i} costs {20000 + i * 37} euro at depot {7000 + i * 13}." for i in range(40)]
    page = "".join(f"<p>{text}" for text in said)
    text = page if isinstance(cut, HtmlBlocks) else " ".join(said)
    units = cut.finer(limit).segment(tp.Document(text), COUNTER)
    assert [t.strip() for t in units.texts] == said


@pytest.mark.parametrize("limit", range(8, 40))
@pytest.mark.parametrize("output", ["same", "text", "markdown"])
def test_facts_of_two_sentences_are_not_joined(limit, output):
    said = {f"AX{1000 + i}": str(20000 + i * 37) for i in range(40)}
    page = "".join(f"<p>Part {name} costs {price} euro since 1987." for name, price in said.items())
    method = tp.pruner("htmlrag-bm25", output=output)
    result = tp.Pipeline([method]).prune("What does part AX1015 cost?", [tp.Document(page)], tp.Budget(limit))
    text = result.documents[0].text
    for name, price in re.findall(r"(AX\d+) costs (\w+)", text):
        assert said[name] == price
    assert set(re.findall(r"\d{3,}", text)) <= {"1987", *said.values(), *(n[2:] for n in said)}


def test_words_and_numbers_stay_whole():
    words = [f"abcdef{n * 104729}uvw" for n in range(300)]
    found = [word for text in blocks(f"<p>{' '.join(words)}</p>", 40).texts for word in text.split()]
    assert found == words


def test_lines_of_code_stay_whole():
    lines = [f"value_{n} = read_value({n * 7919}, 'row {n}')" for n in range(60)]
    for page in ("<pre>{}</pre>", "<pre><code>{}</code></pre>"):
        source = page.format("\n".join(lines))
        texts = blocks(source, 60).texts
        assert len(texts) > 10
        assert re.findall(r"value_\d+ = .*?'\)", " ".join(texts)) == lines
        assert all(text.startswith("value_") and text.endswith("')") for text in texts)


def test_elements_in_a_line_stay_whole_where_they_fit():
    part = "water is H<sub>2</sub>O and <code>f(x, y)</code> is called "
    units = blocks(f"<p>{part * 60}</p>", 60)
    assert units.cost.max() <= 60
    text = "".join(units.pieces.text)
    assert text.count("<sub>2</sub>") == text.count("<code>f(x, y)</code>") == 60
    for unit in range(len(units)):
        own = "".join(t for t, o in zip(units.pieces.text, units.pieces.owner, strict=True) if o == unit)
        assert own.count("H<sub>2</sub>O") == own.count("<sub>") == own.count("</sub>")


@pytest.mark.parametrize(
    "part", ["a<sub>2 b</sub>", "ab<sub>2</sub>", "<q>a</q>", "<code>x()</code>" + "0" * 50]
)
def test_elements_in_words_of_any_length(part):
    assert blocks(f"<p>{part * 200}</p>", 60).cost.max() <= 60


def test_a_limit_that_nothing_reaches_changes_nothing(samples):
    document = tp.Document(samples.page(3), kind="html")
    free = HtmlBlocks(32).segment(document, COUNTER)
    bound = HtmlBlocks(32, max_tokens=10**6).segment(document, COUNTER)
    assert bound.texts == free.texts and bound.cost.tolist() == free.cost.tolist()


def test_parts_where_tokens_stand_closer_are_cut_again():
    text = LONG["both"]
    places = COUNTER.starts(text)
    bounds = [*split_costly(text, [0], 60, places), len(text)]
    assert np.diff(np.searchsorted(places, bounds)).max() <= 60


@given(data=st.data(), limit=st.integers(1, 60), size=st.sampled_from([4, 40]))
def test_blocks_of_any_page(data, limit, size, strategies, read_html):
    source = data.draw(strategies.nested_html)
    units = blocks(source, limit, size)
    starts = units.range_start.tolist()
    assert starts == sorted(set(starts))
    assert (np.diff(units.pieces.src_start) >= 0).all()
    free = HtmlBlocks(size).segment(tp.Document(source, kind="html"), COUNTER)
    assert "".join(units.pieces.text) == "".join(free.pieces.text)
    for text, cost in zip(units.texts, units.cost.tolist(), strict=True):
        assert cost <= limit + 1 or limit < 40 or not text  # one token of white space in front


@pytest.mark.parametrize("name", ["Thai", "URLs", "digits"])
@pytest.mark.parametrize("limit", [200, 400])
def test_the_answer_in_a_large_paragraph_is_found(name, limit, check):
    inside = {"Thai": "ห้องหมายเลข33", "URLs": "x=261327", "digits": "ANSWER: 4711"}[name]
    text = LONG[name] if name != "digits" else f"{LONG[name]} {inside} {LONG[name]}"
    document = tp.Document(f"<h1>x</h1><p>{text}</p>", kind="html")
    query = {"Thai": "ห้องหมายเลข33มีอุณหภูมิเท่าไร", "URLs": "Which link has x=261327?"}.get(
        name, "What is the answer?"
    )
    result = tp.Pipeline(["bm25-sentences"]).prune(query, [document], tp.Budget(limit))
    check(result, [document], limit)
    assert inside in result.documents[0].text
