"""The embedding scorer against the encoder itself."""

import numpy as np
import pytest

from tokenprune.document import Document
from tokenprune.models.encoder import Encoder
from tokenprune.pipeline import Pipeline
from tokenprune.registry import pruner
from tokenprune.score.embedding import Embedding
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.passages import Passages
from tokenprune.segment.sentences import Sentences
from tokenprune.tokens import get_counter

pytestmark = pytest.mark.models

TEXT = (
    "The cat sleeps on the sofa. Paris is the capital of "
    "France. Stock prices fell on Monday. Rust is a language."
)


def sentences(text, **fields):
    return Sentences().segment(Document(text, kind="text", **fields), get_counter())


@pytest.mark.parametrize(
    ("query", "right"),
    [
        ("What is the main city of France?", 1),
        ("Where does the kitten nap?", 0),
        ("How did shares do?", 2),
        ("Which programming tool is that?", 3),
    ],
)
def test_right_sentence_first(query, right):
    scores = Embedding().score(query, [sentences(TEXT)])[0]
    assert int(scores.argmax()) == right
    assert (np.abs(scores) <= 1 + 1e-3).all()
    assert scores.dtype == np.float64


def test_equals_cosines_of_the_encoder():
    """Tolerance 1e-2: bfloat16 sums depend on how a batch is laid out."""
    from tokenprune.models.encoder import Encoder

    documents = [sentences(TEXT), sentences("One more. And two.", title="A title")]
    query = "capital city"
    vectors = Encoder.load("minilm-l6").encode(
        [query, *documents[0].texts, "A title\nOne more. ", "A title\nAnd two."], max_length=256
    )
    got = np.concatenate(Embedding().score(query, documents))
    np.testing.assert_allclose(got, vectors[1:] @ vectors[0], atol=1e-2)
    assert np.ptp(got) > 0.1


def test_headings_are_read_unless_told_otherwise():
    page = (
        "<h1>Eruption of the volcano</h1><p>It happened in "
        "spring.</p><h1>Bread fair</h1><p>It was held in May.</p>"
    )
    units = HtmlBlocks(8).segment(Document(page, kind="html"), get_counter())
    query = "When did the volcano erupt?"
    with_headings, without = (Embedding(context=c).score(query, [units])[0] for c in (True, False))
    assert with_headings[1] > without[1]


def test_the_end_of_a_long_unit_is_read():
    filler = "Bread and butter are sold here on every day of the week but for Sunday. " * 30
    told = "The launch code of the reactor is 4711."
    units = [
        Passages(10**6).segment(Document(text, kind="text"), get_counter())
        for text in (filler, filler + told, told + " " + filler)
    ]
    plain, end, begin = np.concatenate(Embedding().score("What is the launch code of the reactor?", units))
    assert end > plain + 0.2 and begin > plain + 0.2


def test_each_window_has_the_title():
    filler = "It is said that this was so for a while and then it was not so. " * 60
    units = [
        Passages(10**6).segment(Document(filler, kind="text", title=title), get_counter())
        for title in ("The eruption of the volcano", None)
    ]
    vectors = Encoder.load("minilm-l6").encode_windows(
        [f"{units[0].document.title}\n{filler}", filler], ["The eruption of the volcano\n", ""]
    )
    asked = Encoder.load("minilm-l6").encode(["When did the volcano erupt?"])[0]
    titled, bare = np.split(vectors[0] @ asked, vectors[1][1:])
    assert len(titled) > 2 and titled.min() > bare.max() + 0.1
    got = np.concatenate(Embedding().score("When did the volcano erupt?", units))
    np.testing.assert_allclose(got, [titled.max(), bare.max()], atol=1e-2)


def test_nothing_to_score():
    assert Embedding().score("q", []) == []
    assert [
        len(s)
        for s in Embedding().score("q", [HtmlBlocks().segment(Document("", kind="html"), get_counter())])
    ] == [0]


@pytest.mark.parametrize("method", ["embed-sentences", "htmlrag-embed"])
def test_methods_keep_the_answer(method, samples, check):
    kind = "html" if method == "htmlrag-embed" else "text"
    document = Document(samples.page(1) if kind == "html" else samples.prose(1), kind=kind)
    result = Pipeline([pruner(method, top_k=3)]).prune("How is the cache of a function emptied?", [document])
    check(result, [document])
    assert "cache_clear" in result.documents[0].text
    assert 0 < result.tokens_after < result.tokens_before / 2
