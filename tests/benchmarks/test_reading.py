"""Cases of the token benchmarks, and how one is read by a method."""

import time

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from benchmarks.common import reading
from benchmarks.common.context import Context, progress_bar
from benchmarks.common.nll import messages
from benchmarks.common.reading import Case, compared, gold_nll, in_turns, measure, places, prompt, rendered
from benchmarks.common.token_methods import MAKERS, methods
from benchmarks.needle.grid import cases
from benchmarks.needle.haystack import KINDS, build
from benchmarks.tokens.sweep import Choice, Look, selected
from tokenprune.document import Document
from tokenprune.engine.methods.gemfilter import QuestionGemFilter
from tokenprune.errors import UnknownNameError
from tokenprune.quality import answer_nll
from tokenprune.tokens import get_counter

HAY = " ".join(f"On day {n} the weather in the valley was mild, and nobody went out." for n in range(9))
FACT = "The lamp of the lighthouse was lit by Agnes Moreau in 1889."
CASE = Case(
    "lamp",
    "Who lit the lamp of the lighthouse?",
    ("Agnes Moreau",),
    (Document(f"{HAY} {FACT} {HAY}", kind="text", title="Agnes Moreau"), Document(HAY, kind="text")),
    (FACT,),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tokens", "depth"), [(600, 0.0), (1500, 0.5), (1500, 1.0)])
def test_a_haystack(kind, tokens, depth):
    case = build(tokens, depth, kind, seed=3)
    text = rendered(case.documents)
    assert build(tokens, depth, kind, seed=3) == case != build(tokens, depth, kind, seed=4)
    assert text.count(case.golds[0]) == 1
    ((start, end),) = places(text, case)
    assert text[start:end] == case.golds[0]
    size = get_counter().count(messages(text, case.question)[0]["content"])
    assert tokens - 250 < size < tokens
    # Paragraphs are whole, so a needle stands near the depth asked for.
    assert abs(get_counter().count(text[:start]) / get_counter().count(text) - depth) < 0.2
    if kind == "distractor":
        building = case.question.split(" the ")[-1].split(" show")[0].rstrip("?")
        assert text.count(f"the {building}") >= 2


def test_kinds_take_turns():
    made = cases([300, 400], [0.1, 0.5, 0.9], 2, 0)
    assert len(made) == 6 and all(len(cell) == 2 for cell in made.values())
    kinds = [case.id.split("-")[0] for cell in made.values() for case in cell]
    assert set(kinds) == set(KINDS)
    assert len({case.id for cell in made.values() for case in cell}) == 12


def test_places_are_words_of_the_evidence():
    text = rendered(CASE.documents)
    assert text.startswith("Agnes Moreau\n")
    ((start, end),) = places(text, CASE)
    assert text[start:end] == "Agnes Moreau" and start > len(HAY)
    assert not places(text.replace(FACT, ""), CASE)
    assert not places(FACT, Case("", "", ("gnes",), (), (FACT,)))


def test_unknown_methods_are_named():
    assert list(methods(["random", "full"], 8)) == ["full", "random"]
    with pytest.raises(UnknownNameError, match="gemfilter-q"):
        methods(["nonesuch"], 8)


def test_figures_are_paired():
    full = {"seconds": 4.0, "nll": 2.0, "tokens": 100, "kept": 100, "answer_kept": True, "answered": 1.0}
    full |= {"f1": 0.5, "peak_kv_mb": 8.0, "aux_mb": 0.0}
    mine = full | {"seconds": 1.0, "nll": 2.5, "answer_kept": None}
    found = compared([mine, full | {"nll": 1.5}], [full, full | {"seconds": 8.0}])
    assert (found["answer_kept"], found["answerable"], found["answered"]) == (1, 1, 2)
    assert found["speedup"] == 3.0 and found["speedup_range"] == [2.0, 4.0]
    assert found["nll"] == 2.0 and found["nll_gap"] == 0.0


@pytest.fixture(scope="module")
def engine():
    from tokenprune.engine.engine import Engine

    return Engine("smollm2-135m", dtype="float32")


@pytest.mark.models
def test_positions_of_a_prompt(engine):
    tokenizer = engine.lm.tokenizer
    made = prompt(tokenizer, rendered(CASE.documents), CASE)
    assert tokenizer.decode([made.ids[i] for i in made.question]).strip() == CASE.question
    (answer,) = made.answers
    assert tokenizer.decode([made.ids[i] for i in answer]).strip() == "Agnes Moreau"
    starts = [tokenizer.decode(made.ids[i : i + 3]) for i in made.units]
    assert starts[0] == "Agnes" and sum(s.strip().startswith("On day") for s in starts) == 27
    assert len(made.units) == 1 + 27 + 1 + 1  # title, hay, fact, what stands behind the context


@pytest.mark.models
@pytest.mark.slow
def test_every_method_reads(engine):
    now = time.perf_counter
    whole = measure(engine, MAKERS["full"](64), CASE, now)
    assert whole["kept"] == whole["tokens"] and whole["answer_kept"] is True
    for name in MAKERS:
        row = measure(engine, MAKERS[name](64), CASE, now)
        assert row["seconds"] > 0 and row["peak_kv_mb"] > 0, name
        if name not in ("full",):
            assert row["kept"] < whole["kept"], name
        if "q" in name.split("-") or name == "provence":
            assert row["answer_kept"] is True, name
    assert measure(engine, MAKERS["random"](64), CASE, now)["kept"] == 64


@pytest.mark.models
@pytest.mark.parametrize("name", ["full", "gemfilter-q", "lazyllm"])
def test_nll_is_that_of_the_prompt_and_leaves_it(engine, name):
    text = rendered(CASE.documents)
    made = prompt(engine.lm.tokenizer, text, CASE)
    read = engine.prefill(made.ids, strategy=MAKERS[name](100).strategy, marks=made.marks)
    before = read.kv_bytes
    found = gold_nll(engine, read, CASE.golds[0])
    assert read.kv_bytes == before
    assert gold_nll(engine, read, CASE.golds[0]) == found
    if name == "full":
        assert found == pytest.approx(
            answer_nll(engine.lm, messages(text, CASE.question), CASE.golds[0]), abs=1e-4
        )


@pytest.mark.models
def test_the_sweep_selects_as_the_method_does(engine):
    from tokenprune.engine.reading import SequenceKV
    from tokenprune.engine.reading import read as read_tokens

    made, look = prompt(engine.lm.tokenizer, rendered(CASE.documents), CASE), Look()
    sequence = SequenceKV.empty(engine.decoder)
    read_tokens(engine.decoder, [sequence], [made.ids], depth=22, reducer=look, marks=[made.marks])
    for snap in (False, True):
        choice = Choice(keep=90, snap=snap)
        every = tuple(range(engine.decoder.weights.heads))
        strategy = QuestionGemFilter(choice.layer, 90, kernel=choice.kernel, heads=every, snap=snap)
        expected = strategy.select(engine.decoder, made.ids, made.marks).positions
        assert selected(look.seen[choice.layer], made, choice).positions == expected


@pytest.mark.models
def test_what_is_stored_is_not_read_again(engine, tmp_path, monkeypatch):
    from argparse import Namespace

    read = []
    monkeypatch.setattr(reading, "measure", lambda *args: read.append(args) or {"seconds": 1.0})
    with progress_bar() as progress:
        context = Context(Namespace(out=tmp_path, fresh=False), None, progress)
        for _ in range(2):
            found = in_turns(context, engine, methods(["random"], 64), [CASE], "x")
            assert found == {"full": [{"seconds": 1.0}], "random": [{"seconds": 1.0}]}
        assert len(read) == 2
        in_turns(context, engine, methods(["random"], 65), [CASE], "x")
    assert len(read) == 3
