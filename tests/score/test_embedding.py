"""The embedding scorer against the encoder itself."""

import numpy as np
import pytest

from tokenprune.document import Document
from tokenprune.pipeline import Pipeline
from tokenprune.registry import pruner
from tokenprune.score.embedding import Embedding
from tokenprune.segment.html_blocks import HtmlBlocks
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
