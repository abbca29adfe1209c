"""Near copies across sets."""

from hypothesis import given
from hypothesis import strategies as st

from tokenprune.training.overlap import RUN, Runs, apart
from tokenprune.training.sets import Item, Passage

TEXT = "One two three, four five six seven eight nine ten."


def item(text, label=1):
    return Item(text[:9], "qed", "q?", (Passage("", (text,), (label,)),), "s", "g", "gold")


def test_eight_words_in_another_cut_and_case():
    runs = Runs([TEXT])
    assert runs.share("... TWO, three four; five six-seven eight (nine) and then") == 1 / 3
    assert runs.share("two three four five six seven eight and nine") == 0
    assert runs.share("one two three four five six seven") == 0
    assert runs.share(TEXT) == 1
    assert runs.share("") == Runs([]).share(TEXT) == Runs(["short"]).share(TEXT) == 0


def test_order_counts():
    assert not Runs([TEXT]).share("nine eight seven six five four three two one")


def test_items_with_quoted_evidence_go():
    quoting = item("They say: one two three four five six seven eight.")
    beside = item("They say: one two three four five six seven eight!", label=0)
    other = item("Something else entirely is said in this sentence of many words.")
    assert apart([quoting, beside, other], Runs([TEXT])) == [beside, other]
    assert apart([quoting], Runs([])) == [quoting]
    long = item("They say one two three four five six seven eight. " + "And so on they went. " * 9)
    assert apart([long], Runs([TEXT])) == [long]  # a set phrase is no copy


words = st.lists(st.sampled_from("abcdefgh"), max_size=30)


@given(words, words)
def test_it_finds_what_a_plain_search_finds(a, b):
    grams = {tuple(a[i : i + RUN]) for i in range(len(a) - RUN + 1)}
    found = [tuple(b[i : i + RUN]) in grams for i in range(len(b) - RUN + 1)]
    plain = sum(found) / len(found) if found else 0
    assert Runs([" ".join(a)]).share(", ".join(b)) == plain
