"""Units, their sections and their headings, each embedded apart."""

import numpy as np
import pytest

from tokenprune.document import Document
from tokenprune.score.bm25 import BM25
from tokenprune.score.neighbours import Neighbours, smoothed
from tokenprune.score.sections import Sections
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.tokens import get_counter

pytestmark = pytest.mark.models

PAGE = """<h2>Fruit</h2><div><p>Bananas are yellow and sweet.</p><p>They grow in bunches.</p></div>
<h2>Trains</h2><div><p>The express to Lyon leaves at noon.</p><p>Tickets are sold on board.</p></div>"""


def html(text, words=8):
    return HtmlBlocks(words).segment(Document(text, kind="html"), get_counter())


def encoder():
    from tokenprune.models.encoder import Encoder

    return Encoder.load("minilm-l6")


def test_by_hand():
    """One section of two paragraphs under a heading: the formula, written out."""
    units = html("<h2>Fruit</h2><div><p>Bananas are yellow and sweet.</p><p>They grow in bunches.</p></div>")
    query = "what colour are bananas"
    got = Sections(BM25(), max_tokens=None, weight=2.0, cheap_weight=0.25, coarse_words=6).score(
        query, [units]
    )[0]
    vectors = encoder().encode([query, *units.texts, *units.context])
    asked, own, heads = vectors[0], vectors[1 : 1 + len(units)], vectors[1 + len(units) :]
    cheap = BM25().score(query, [units])[0]
    unit = smoothed(units, 0.25 * cheap / cheap.max() + own @ asked)
    heading = np.where([bool(c) for c in units.context], heads @ asked, -1)
    # no element of at most 6 words holds two units, so every unit is a section of its own
    assert np.allclose(got, unit + 2 * np.maximum(own @ asked, heading), atol=0.02)


def test_a_section_is_the_mean_of_its_units():
    units = html(PAGE)
    query = "when does the train to Lyon leave"
    small = Sections(BM25(), max_tokens=None, weight=1.0, coarse_words=4).score(query, [units])[0]
    large = Sections(BM25(), max_tokens=None, weight=1.0, coarse_words=256).score(query, [units])[0]
    tickets = next(i for i, t in enumerate(units.texts) if "Tickets" in t)
    bunches = next(i for i, t in enumerate(units.texts) if "bunches" in t)
    assert large[tickets] > large[bunches]
    assert not np.allclose(small, large)


def test_a_heading_off_the_topic_takes_nothing_away():
    body = "<div><p>The express to Lyon leaves at noon.</p><p>Tickets are sold on board.</p></div>"
    scores = []
    for heading in ("Bananas and other fruit", "Bread, cheese and butter"):
        units = html(f"<h2>{heading}</h2>{body}")
        score = Sections(Neighbours(BM25()), max_tokens=None).score("when is the train to Lyon", [units])[0]
        scores.append(score[next(i for i, t in enumerate(units.texts) if "express" in t)])
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_a_heading_on_the_topic_vouches():
    query = "opening hours of the museum"
    lines = "<div><p>From nine to five.</p><p>Closed on Mondays.</p></div>"
    on = html(f"<h2>Opening hours of the museum</h2>{lines}")
    off = html(f"<h2>Bananas</h2>{lines}")
    scorer = Sections(Neighbours(BM25()), max_tokens=None)
    assert scorer.score(query, [on])[0][-1] > scorer.score(query, [off])[0][-1] + 0.2


def test_it_reads_no_more_than_it_may(monkeypatch):
    from tokenprune.models.encoder import Encoder

    read = []
    plain = Encoder.encode
    monkeypatch.setattr(
        Encoder, "encode", lambda self, texts, **k: (read.append(texts), plain(self, texts, **k))[1]
    )
    pages = [html(PAGE), html("<p>Nothing of the sort.</p>")]
    scorer = Sections(Neighbours(BM25()), max_tokens=25)
    scores = scorer.score("when does the express to Lyon leave", pages)
    assert [len(s) for s in scores] == [len(u) for u in pages]
    count = get_counter().count
    units = {t for u in pages for t in u.texts}
    assert sum(count(t) for t in read[0][1:] if t in units) <= 25
    assert int(np.argmax(scores[0])) == next(i for i, t in enumerate(pages[0].texts) if "Lyon" in t)
    everything = scorer.within(1000)
    assert everything.max_tokens == 2000
    assert Sections(BM25(), max_tokens=None).within(1000).max_tokens is None
    everything.score("when does the express to Lyon leave", pages)
    assert set(read[1][1:]) >= units


@pytest.mark.parametrize("pages", [[], [""], ["", "<p>cats</p>", ""]])
def test_little_or_nothing(pages):
    scores = Sections(BM25()).score("cats", [html(p) for p in pages])
    assert [len(s) for s in scores] == [len(html(p)) for p in pages]
    assert all(np.isfinite(s).all() for s in scores)


def test_words_help_to_choose_what_is_read_and_are_no_part_of_the_score(monkeypatch):
    from tokenprune.models.encoder import Encoder

    class Last:
        def score(self, query, documents):
            return [np.linspace(0.2, 0.4, len(u)) for u in documents]

    texts = []
    encode = Encoder.encode

    def noted(self, given, *options, **more):
        texts[:] = given
        return encode(self, given, *options, **more)

    monkeypatch.setattr(Encoder, "encode", noted)
    units = html(PAGE)
    query = "bananas"
    most = int(units.cost.max())
    Sections(BM25(), max_tokens=most).score(query, [units])
    assert "Bananas are yellow and sweet." in texts and units.texts[-1] not in texts
    Sections(BM25(), max_tokens=most, words=Last()).score(query, [units])
    assert units.texts[-1] in texts and "Bananas are yellow and sweet." not in texts
    everything = [Sections(BM25(), max_tokens=None, words=w).score(query, [units])[0] for w in (None, Last())]
    np.testing.assert_array_equal(*everything)
