"""The method end to end, with a tiny labeler of random weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune as tp
from tokenprune.errors import ConfigError, ModelError, QueryError
from tokenprune.models.labeler import Labeler, Passage
from tokenprune.tokens import get_counter

QUERY = "When was the tower finished?"
PASSAGES = [
    "The Eiffel Tower is a lattice tower in Paris. It was finished in 1889. It is repainted every seven years.",
    "def read(path):\n    with open(path) as file:\n        return file.read()\n",
    "埃菲尔铁塔位于巴黎。它于1889年完工。日本語の文です。",
    "Where does the needle lie? In the haystack of words. Nobody has asked for it.",
    "Paris",
]


@pytest.fixture(scope="module")
def model(tiny):
    return str(tiny("open-modernbert").folder)


def documents(texts=PASSAGES):
    return [tp.Document(text, id=f"d{n}", kind="text") for n, text in enumerate(texts)]


def prune(model, docs, budget=None, **options):
    return tp.Pipeline([tp.pruner("provence", model=model, **options)]).prune(QUERY, docs, budget)


def scores_of(result):
    return np.array([u.score for r in result.receipts for u in r.units])


def test_threshold_mode(model, check):
    docs = documents()
    middle = float(np.median(scores_of(prune(model, docs))))
    result = prune(model, docs, threshold=middle)
    check(result, docs)
    units = [u for r in result.receipts for u in r.units]
    assert {u.kept for u in units} == {True, False}
    for receipt in result.receipts:
        kept = {u.kept for u in receipt.units if u.score > middle}
        assert kept <= {True}
    tokens = [prune(model, docs, threshold=t).tokens_after for t in (0.0, middle, 1.0)]
    assert tokens[0] == result.tokens_before > tokens[1] >= tokens[2] > 0


def test_a_threshold_never_empties_a_call(model, check):
    """The best sentence and those of its document that score half as much stay; other documents go."""
    docs = documents()
    result = prune(model, docs, threshold=1.0)
    check(result, docs)
    best = max((u.score, r.document_id) for r in result.receipts for u in r.units)
    for receipt in result.receipts:
        for u in receipt.units:
            stays = receipt.document_id == best[1] and u.score >= best[0] / 2
            assert (u.kept, u.reason) == (stays, "floor" if stays else "low-score")
    blank = documents(["", " \n"])
    assert not any(u.kept for r in prune(model, blank, threshold=1.0).receipts for u in r.units)
    # A document that no threshold judges is not nothing.
    method = tp.pruner("provence", model=model, threshold=1.0, kinds=["text"])
    page = tp.Document("<p>Words.</p>", id="page", kind="html")
    mixed = tp.Pipeline([method]).prune(QUERY, [docs[0], page])
    assert [d.text for d in mixed.documents] == ["", page.text]


def test_a_vague_question_leaves_something():
    docs = documents(
        [f"In week {n} the mill ground {n * 7} sacks. The roof was mended then." for n in range(9)]
    )
    pipe = tp.Pipeline([tp.pruner("provence", threshold=0.999)])
    result = pipe.prune("Who is named first in it?", docs)
    assert 0 < result.tokens_after < 40
    assert {u.reason for r in result.receipts for u in r.units if u.kept} == {"floor"}


@pytest.mark.parametrize("limit", range(2, 24))
def test_a_small_budget_begins_with_the_best_sentence(limit, check):
    docs = documents(["The Eiffel Tower. It was finished in 1889. It is repainted every seven years."])
    result = tp.Pipeline(["provence"]).prune("When was it finished?", docs, tp.Budget(max_tokens=limit))
    check(result, docs, limit)
    out, best = result.documents[0].text, "It was finished in 1889. "
    assert out.strip() and (best in out or best.startswith(out.rstrip())), "worse words stand in its place"
    # From 8 tokens on, 90 % of a budget are used: more than a whole word would.
    assert limit >= 8 or set(out.split()) <= set(docs[0].text.split()), "a word was cut"
    assert best in out or limit < 11


def test_rank_scores_are_in_the_receipts(model):
    result = prune(model, [*documents(), tp.Document("", id="empty", kind="text")])
    labeler = Labeler.load(model)
    for receipt, text in zip(result.receipts, PASSAGES, strict=False):
        expected = labeler.label(QUERY, [Passage(text)])[0].rank
        assert receipt.rank == pytest.approx(expected, abs=0.05)  # bfloat16 where the hardware has it
    assert result.receipts[-1].rank is None
    assert result.to_dict()["receipts"][0]["rank"] == round(result.receipts[0].rank, 6)
    assert tp.Pipeline(["none"]).prune(QUERY, documents()).receipts[0].rank is None


def test_budget_mode_takes_the_best_sentences(model, check):
    docs = documents()
    full = prune(model, docs, threshold=0.0)
    limit = full.tokens_before // 3
    result = prune(model, docs, tp.Budget(limit))
    check(result, docs, limit)
    units = [u for r in result.receipts for u in r.units]
    kept, dropped = ([u for u in units if u.kept is k] for k in (True, False))
    assert kept
    assert dropped
    best = max(units, key=lambda u: u.score)
    assert best.kept
    # What was passed over scored less, or did not fit in what was left.
    left = limit - result.tokens_after
    worst = min(u.score for u in kept)
    assert all(u.score <= worst or u.tokens > left for u in dropped)


def test_reorder_and_top_k(model):
    docs = documents()
    plain = prune(model, docs, threshold=0.0)
    ranks = {r.document_id: r.rank for r in plain.receipts}
    by_rank = sorted(ranks, key=ranks.get, reverse=True)
    assert by_rank != list(ranks), "the fixture must not be in order already"
    assert [d.id for d in plain.documents] == [d.id for d in docs]

    ordered = prune(model, docs, threshold=0.0, reorder=True)
    assert [d.id for d in ordered.documents] == by_rank
    assert [r.document_id for r in ordered.receipts] == by_rank
    assert {d.id: d.text for d in ordered.documents} == {d.id: d.text for d in docs}

    best = prune(model, docs, threshold=0.0, top_k=2)
    assert [d.id for d in best.documents] == [d.id for d in docs]
    assert {d.id for d in best.documents if d.text} == set(by_rank[:2])
    lost = next(r for r in best.receipts if r.document_id == by_rank[-1])
    assert {u.reason for u in lost.units} == {"low-rank"}

    both = prune(model, docs, tp.Budget(keep_ratio=0.5), reorder=True, top_k=2)
    assert [d.id for d in both.documents] == by_rank
    assert not any(d.text for d in both.documents[2:])
    # A budget that everything fits changes neither.
    roomy = prune(model, docs, tp.Budget(10**6), reorder=True, top_k=3)
    assert [d.text for d in roomy.documents] == [
        docs[int(i[1:])].text if n < 3 else "" for n, i in enumerate(by_rank)
    ]
    assert roomy.receipts[0].units[0].reason == "fits-budget"
    share = prune(model, docs, keep_ratio=0.5, top_k=2)
    assert 0 < share.tokens_after <= share.tokens_before / 2
    for wrong in (-1, 0):
        with pytest.raises(ConfigError, match=f"top_k must be 1 or more .*not {wrong}"):
            tp.pruner("provence", model=model, top_k=wrong)
    with pytest.raises(ConfigError, match="only one"):
        tp.pruner("provence", model=model, threshold=0.1, keep_ratio=0.5)


def test_documents_of_other_methods_keep_their_places(model):
    docs = documents()
    docs[1] = tp.Document("<p>The needle</p><p>lies here</p>", id="page", kind="html")
    pipeline = tp.Pipeline(
        [tp.pruner("provence", model=model, threshold=0.0, reorder=True, kinds=["text"]), "clean-html"]
    )
    result = pipeline.prune(QUERY, docs)
    assert result.documents[1].id == "page"
    ranks = [r.rank for n, r in enumerate(result.receipts) if n != 1]
    assert ranks == sorted(ranks, reverse=True)


def test_first_sentence_as_title(model):
    text = "A title sentence. The tower was finished. Paris is a lattice of words."
    scores = scores_of(prune(model, documents([text]), threshold=0.0))
    top = float(np.sort(scores)[-1])
    threshold = top - 1e-4
    if scores[0] == top:
        pytest.skip("the first sentence is the best one by itself")
    plain, with_title = (
        prune(model, documents([text]), threshold=threshold, always_select_title=t).documents[0].text
        for t in (False, True)
    )
    assert with_title == "A title sentence. " + plain
    floor = prune(model, documents([text]), threshold=1.0, always_select_title=True).documents[0].text
    assert floor.startswith("A title sentence. ") and len(floor) > len("A title sentence. ")
    own = [tp.Document(text, title="Own title", kind="text")]
    out, as_ever = (
        prune(model, own, threshold=threshold, always_select_title=t).documents[0] for t in (True, False)
    )
    assert (out.title, out.text) == ("Own title", as_ever.text)


def test_html_stays_html(model, samples, check):
    docs = [tp.Document(samples.page(1), id="page")]
    result = prune(model, docs, tp.Budget(200))
    check(result, docs, 200)
    assert result.tokens_after > 100
    assert "</" in result.documents[0].text or "<p" in result.documents[0].text


def test_odd_sizes(model, check):
    """A sentence of 10,000 characters, one word, none, and 500 passages."""
    long = "the tower of words lies in Paris and " * 271
    docs = [tp.Document(t, kind="text") for t in (long[:10_000], "Paris", "", "\n")]
    for budget in (None, tp.Budget(300)):
        result = prune(model, docs, budget)
        check(result, docs, None if budget is None else 300)
    many = [tp.Document(f"Tower {n} was finished.", kind="text") for n in range(500)]
    result = prune(model, many, tp.Budget(400), reorder=True)
    assert 0 < result.tokens_after <= 400
    ranks = [r.rank for r in result.receipts]
    assert ranks == sorted(ranks, reverse=True)


ODD = {
    "arabic": "يقع برج إيفل في باريس. اكتمل في عام 1889. القطط تنام كثيرا.",
    "thai": "หอไอเฟลตั้งอยู่ในกรุงปารีส สร้างเสร็จในปี 1889 แมวนอนหลับมาก",
    "emoji and marks": "👩\u200d👩\u200d👧 e\u0301 tower 🇩🇪 was finished in 1889 👍🏽. Cafe\u0301s close.",
    "NUL": "The tower\x00 was finished in 1889.\x00 Cats sleep.",
    "lone surrogates": "The tower \ud800 was finished in 1889. \udfff Cats sleep.",
    "CRLF": "The tower was finished in 1889.\r\nCats sleep.\r\n\r\nIt rains.\r",
    "no spaces": "x" * 10_000,
    "marks alone": "... !? — ’’",
    "the question": QUERY,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_texts(name, check):
    """The shipped model, whose vocabulary is English, on what it has no words for; source text stays exact."""
    for docs in ([tp.Document(ODD[name], kind="text")], documents([ODD[name], *PASSAGES])):
        for budget in (None, tp.Budget(12), tp.Budget(0), tp.Budget(keep_ratio=0.5)):
            result = shipped(docs, budget)
            limit = None if budget is None else budget.limit(result.tokens_before)
            check(result, docs, limit)
    alone = [tp.Document(ODD[name], kind="text")]
    least = shipped(alone, threshold=1.0)
    assert {u.reason for r in least.receipts for u in r.units if u.kept} == {"floor"}
    everything = shipped(alone, threshold=0.0)
    if name == "no spaces":  # one unknown word, which lies where it ends: the parts before it have no score
        assert everything.documents[0].text == "x" * 1000
    else:
        assert everything.tokens_after == everything.tokens_before


@pytest.mark.parametrize("question", ["\x00", "\ud800", "?!", "a" * 20_000, "塔はいつ完成した?", "👍🏽"])
def test_odd_questions(question, check):
    docs = documents()
    check(shipped(docs, question=question), docs)
    check(shipped(docs, tp.Budget(20), question=question), docs, 20)


def test_options_out_of_their_range_are_one_clear_error():
    for threshold in (-0.1, 1.5):
        with pytest.raises(ConfigError, match="0 to 1, not"):
            tp.pruner("provence", threshold=threshold)
    with pytest.raises(ConfigError, match="cache_bytes must be 0"):
        tp.pruner("provence", cache_bytes=-1)
    with pytest.raises(QueryError, match="the query is empty"):
        shipped(documents(), question=" \n")
    assert shipped(documents([""]), question="").tokens_after == 0  # nothing to ask of


def test_a_megabyte_is_read_where_bm25_points():
    filler = "Visitors can climb the stairs and look around. Cats sleep a lot, nobody knows why. " * 6000
    text = f"{filler}The tower was finished in March 1889. {filler}"
    assert len(text) > 950_000
    result = shipped([tp.Document(text, kind="text")], tp.Budget(100), read_tokens=1024)
    assert "1889" in result.documents[0].text and result.tokens_after <= 100


@given(data=st.data())
@settings(max_examples=12)
def test_invariants(data, model, strategies, check):
    texts = data.draw(st.lists(strategies.text, min_size=1, max_size=3))
    docs = [tp.Document(text, kind="text", title="A title") for text in texts]
    limit = data.draw(st.one_of(st.none(), st.integers(0, 60)))
    title = data.draw(st.booleans())
    result = prune(model, docs, None if limit is None else tp.Budget(limit), always_select_title=title)
    check(result, docs, limit)


def test_other_methods_rank_by_their_best_unit():
    """Reordering is the pipeline's: it works with any scorer."""
    from dataclasses import replace

    docs = documents(
        ["Words of nothing.", "Paris has a tower. Nothing.", "The tower was finished when Paris was."]
    )
    method = replace(tp.pruner("bm25-sentences"), reorder=True, top_documents=2)
    result = tp.Pipeline([method]).prune(QUERY, docs)
    assert [d.id for d in result.documents] == ["d2", "d1", "d0"]
    assert result.documents[2].text == ""
    best = [max(u.score for u in r.units) for r in result.receipts]
    assert [r.rank for r in result.receipts] == best


def test_a_beaten_document_stays_beaten():
    """What a first stage left out by rank does not come back when everything would fit the budget."""
    from dataclasses import replace

    docs = documents(["Words of nothing.", "The tower was finished."])
    first = replace(tp.pruner("bm25-sentences"), top_documents=1)
    result = tp.Pipeline([first, "bm25-sentences"]).prune(QUERY, docs, tp.Budget(1000))
    assert [d.text for d in result.documents] == ["", "The tower was finished."]
    assert {u.reason for u in result.receipts[0].units} == {"low-rank"}
    assert get_counter().count(docs[1].text) == result.tokens_after


def test_a_model_that_cannot_be_had_is_one_clear_error():
    missing = tp.pruner("provence", model="hotchpotch/open-provence-reranker-xsmall-v1")
    with pytest.raises(ModelError, match="cannot get 'hotchpotch/open-provence-reranker-xsmall-v1'"):
        tp.Pipeline([missing]).prune(QUERY, ["A text. Another one."])


ANSWERS = [
    ("When was the tower finished?", "1889"),
    ("Who painted the ceiling of the chapel?", "Michelangelo"),
    ("How long does the bread bake?", "forty minutes"),
]
TOPICS = [
    "The iron tower stands on the Champ de Mars in Paris. Work on it began in 1887. It was finished in March "
    "1889, in time for the fair. Visitors can climb the stairs.",
    "The chapel is part of the palace. Michelangelo painted its ceiling between 1508 and 1512. Cardinals meet "
    "there to elect a pope. Flash photography is not allowed.",
    "Mix the flour with water and salt. Let the dough rest overnight. The bread bakes for forty minutes in a "
    "hot oven. Leave it to cool on a rack.",
]


@pytest.mark.parametrize(("question", "answer"), ANSWERS)
def test_the_shipped_model_finds_the_sentence(question, answer):
    result = tp.Pipeline(["provence"]).prune(question, list(TOPICS))
    kept = " ".join(d.text for d in result.documents)
    assert answer in kept
    assert result.tokens_after < 0.5 * result.tokens_before
    best = max(result.receipts, key=lambda r: r.rank)
    assert answer in next(d.text for d in result.documents if d.id == best.document_id)


def titled(order=(0, 1, 2)):
    titles = ("The iron tower", "A chapel", "Bread")
    return [tp.Document(TOPICS[n], id=f"t{n}", title=titles[n], kind="text") for n in order]


def shipped(docs, budget=None, question=QUERY, **options):
    return tp.Pipeline([tp.pruner("provence", **options)]).prune(question, docs, budget)


@pytest.fixture
def without_rank(monkeypatch):
    """The shipped model as it would judge if rank had no say."""
    from dataclasses import replace

    plain = replace(Labeler.load("provence-mini"), rank_weight=0.0)
    return lambda: monkeypatch.setattr(Labeler, "of", classmethod(lambda cls, model: plain))


def test_rank_has_a_say_and_leaves_titles_order_and_top_k_alone(check, without_rank):
    docs = titled()
    plain = shipped(docs)
    check(plain, docs)
    texts = {d.id: d.text for d in plain.documents}
    assert "1889" in texts["t0"]
    assert [d.title for d in plain.documents if d.text] == [d.title for d in docs if texts[d.id]]
    ordered = shipped(titled((2, 1, 0)), reorder=True)
    assert ordered.documents[0].id == "t0"
    assert {d.id: d.text for d in ordered.documents} == texts
    best = shipped(docs, top_k=1)
    assert [d.text for d in best.documents] == [texts["t0"], "", ""]
    beaten = [u for r in best.receipts[1:] for u in r.units]
    assert {u.reason for u in beaten} == {"low-rank"}
    check(shipped(docs, tp.Budget(40), top_k=2), docs, 40)
    untitled = shipped([tp.Document(t, kind="text") for t in TOPICS])
    assert [r.rank for r in plain.receipts] != [r.rank for r in untitled.receipts]  # titles are read

    scores = scores_of(plain)
    alone = [scores_of(shipped([d])) for d in docs]
    without_rank()
    ignored = scores_of(shipped(docs))
    first = len(plain.receipts[0].units)
    np.testing.assert_allclose(ignored[:first], scores[:first], atol=1e-6)
    assert (ignored[first:] > scores[first:]).all()
    for d, own in zip(docs, alone, strict=True):  # a document alone is judged by itself
        np.testing.assert_allclose(scores_of(shipped([d])), own, atol=1e-6)


def test_rank_does_not_keep_the_first_sentence_from_being_a_title():
    docs = [tp.Document(f"Notes of a visit. {t}", kind="text") for t in TOPICS]
    plain, led = (shipped(docs, always_select_title=t, threshold=0.3) for t in (False, True))
    assert "1889" in plain.documents[0].text and "Notes" not in plain.documents[0].text
    assert led.documents[0].text == "Notes of a visit. " + plain.documents[0].text
    assert [d.text for d in led.documents[1:]] == [
        f"Notes of a visit. {d.text}" if d.text else "" for d in plain.documents[1:]
    ]


def test_read_tokens_bounds_what_is_read():
    texts = [f"Of item {n} nothing is known. It is stored in box {n}. " * 5 for n in range(60)] + [TOPICS[0]]
    docs = [tp.Document(t, kind="text", id=str(n)) for n, t in enumerate(texts)]
    result = tp.Pipeline([tp.pruner("provence", read_tokens=300)]).prune(ANSWERS[0][0], docs, tp.Budget(100))
    assert "1889" in "".join(d.text for d in result.documents)
    ranks = [r.rank for r in result.receipts]
    assert ranks[-1] is not None and ranks.count(None) > 40
    with pytest.raises(ConfigError, match="read_tokens must be 1 or more"):
        tp.pruner("provence", read_tokens=0)


ASKED = "Who designed the Eiffel Tower?"
ABOUT_TOWERS = [
    "Gustave Eiffel's company built it. The tower was designed by Maurice Koechlin and Émile Nouguier in 1884.",
    "The Eiffel Tower is repainted every seven years. The paint weighs about 60 tons. Visitors pay to enter.",
    "Tokyo Tower was designed by Tachū Naitō. It was inspired by the Eiffel Tower. It opened in 1958.",
    "Cats sleep for most of the day. They hunt at dawn. Nobody designed them.",
    "Blackpool Tower opened in 1894. Its design was by James Maxwell and Charles Tuke, who both died before.",
    "Stephen Sauvestre added the arches. He worked for Eiffel. His drawings were signed by the engineers.",
]


def test_the_fused_rank_orders_and_has_half_a_say_in_what_is_kept(tmp_path):
    """The packaged model beside the same without its fused rank, as older folders are packed."""
    import json
    import shutil

    from safetensors.torch import load_file, save_file

    from tokenprune.models.catalog import model_path

    pytest.importorskip("torch")
    old = tmp_path / "before"
    shutil.copytree(model_path("provence-mini"), old)
    config = json.loads((old / "config.json").read_text())
    assert config.pop("fused") and config["rank_weight"] > 0
    (old / "config.json").write_text(json.dumps(config))
    weights = load_file(old / "model.safetensors")
    rest = {name: w for name, w in weights.items() if not name.startswith("fuse.")}
    assert len(rest) < len(weights)
    save_file(rest, old / "model.safetensors")
    before, now = str(old), "provence-mini"
    docs = documents(ABOUT_TOWERS)
    results = [tp.Pipeline([tp.pruner("provence", model=m)]).prune(ASKED, docs, None) for m in (before, now)]
    assert {u.kept for r in results[1].receipts for u in r.units} == {True, False}
    passages = []
    for text, receipt in zip(ABOUT_TOWERS, results[1].receipts, strict=True):
        starts = {u.start for u in receipt.units if u.start}  # sentences are cut where they were judged
        passages.append(Passage(text, breaks=tuple(sorted(starts))))
    as_before, as_now = (Labeler.load(m).label(ASKED, passages) for m in (before, now))
    head = [a.rank for a in as_before]
    fused = [a.rank for a in as_now]
    assert [a.keep_rank for a in as_before] == head
    assert [a.keep_rank for a in as_now] == pytest.approx(
        [(a + b) / 2 for a, b in zip(head, fused, strict=True)]
    )
    for a, b in zip(as_before, as_now, strict=True):
        assert np.array_equal(a.keep, b.keep)  # rank comes on top of what sentences are worth by themselves
    assert np.argsort(fused).tolist() != np.argsort([a.rank for a in as_before]).tolist()
    # What a receipt says and what orders is the fused one.
    order = np.argsort(fused)[::-1].tolist()
    sorted_by = tp.Pipeline([tp.pruner("provence", model=now, reorder=True, threshold=0.0)])
    reordered = sorted_by.prune(ASKED, docs, None)
    assert [d.id for d in reordered.documents] == [f"d{n}" for n in order]
    by_id = {r.document_id: r.rank for r in results[1].receipts}
    assert [by_id[f"d{n}"] for n in range(len(docs))] == pytest.approx(fused, abs=1e-4)
    best = tp.Pipeline([tp.pruner("provence", model=now, top_k=2)]).prune(ASKED, docs, None)
    assert {r.document_id for r in best.receipts if r.tokens_after} <= {f"d{n}" for n in order[:2]}
