"""Methods inside the language model against slow references written with transformers' own layers."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_vlm import (  # noqa: E402
    IMAGE,
    ids_with,
    last_looks_at,
    layers_on,
    logits_of,
    pictures,
    seen_by,
    tiny_llava,
)

from tokenprune.engine.decoder import Decoder  # noqa: E402
from tokenprune.engine.prompt import embedded  # noqa: E402
from tokenprune.engine.reading import read_prompt, read_prompts  # noqa: E402
from tokenprune.engine.schedule import Marks  # noqa: E402
from tokenprune.errors import BudgetError, ConfigError  # noqa: E402
from tokenprune.vision.engine import rows_per_layer  # noqa: E402
from tokenprune.vision.llm import Inside  # noqa: E402
from tokenprune.vision.methods import list_vision_methods, vision_method  # noqa: E402
from tokenprune.vision.methods.base import inner_method  # noqa: E402
from tokenprune.vision.prompts import seeing  # noqa: E402

TEXTS = ["llama", "qwen2"]


@pytest.fixture(scope="module")
def models():
    made = {text: tiny_llava(text) for text in TEXTS}
    return {text: (model, Decoder(model)) for text, model in made.items()}


def prompt_of(model, images=2, seed=0, method=None, keep=None):
    seen = seen_by(model, pictures(images, seed))
    left = None if method is None else [method.reduce(one, keep) for one in seen]
    return seeing(ids_with(images, seed=seed), IMAGE, seen, left)


def close(got, expected, tolerance=1e-4):
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def kept_by_loop(scores, visual, count):
    """All text, and one by one the visual token with the highest score."""
    left, chosen = list(visual), []
    while len(chosen) < count:
        best = max(left, key=lambda position: float(scores[position]))
        left.remove(best)
        chosen.append(best)
    text = [p for p in range(len(scores)) if p not in visual]
    return sorted(text + chosen), left


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("layers", "keep", "count"), [(2, 0.25, 8), (1, 5, 5), (0.6, 0.5, 16)])
def test_fastv_equals_reading_what_stays(models, text, layers, keep, count):
    model, decoder = models[text]
    prompt = prompt_of(model)
    full = layers if isinstance(layers, int) else 3  # .6 of 5
    start = embedded(decoder, [prompt])
    before = layers_on(model, start, torch.arange(len(prompt)), 0, full - 1)
    hidden = layers_on(model, before, torch.arange(len(prompt)), full - 1, full)
    kept, _ = kept_by_loop(last_looks_at(model, before, full - 1), prompt.visual, count)
    reading = read_prompt(decoder, prompt, reducer=Inside((inner_method("fastv", layers=layers, keep=keep),)))
    assert list(reading.kept) == kept
    assert rows_per_layer(reading) == [len(prompt)] * full + [len(kept)] * (5 - full)
    close(reading.logits, logits_of(model, layers_on(model, hidden[kept], torch.tensor(kept), full)))
    # one more token sees everything in the first layers and what stayed in the others
    with torch.no_grad():
        token = model.get_input_embeddings()(torch.tensor([40]))
    longer = torch.arange(len(prompt) + 1)
    hidden = layers_on(model, torch.cat([start, token]), longer, 0, full)
    rows = torch.tensor([*kept, len(prompt)])
    close(reading.step(40), logits_of(model, layers_on(model, hidden[rows], rows, full)))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("layers", "keep", "count"), [(18 / 28, 0.5, 16), (2, 3, 3)])
def test_holitom_merge_equals_a_loop(models, text, layers, keep, count):
    model, decoder = models[text]
    prompt = prompt_of(model, seed=3)
    full = layers if isinstance(layers, int) else 3
    positions = torch.arange(len(prompt))
    before = layers_on(model, embedded(decoder, [prompt]), positions, 0, full - 1)
    hidden = layers_on(model, before, positions, full - 1, full)
    kept, dropped = kept_by_loop(last_looks_at(model, before, full - 1), prompt.visual, count)
    members = {position: [position] for position in kept}
    for position in dropped:
        likeness = {
            taker: float(torch.cosine_similarity(hidden[position], hidden[taker], dim=0))
            for taker in kept
            if taker in prompt.visual
        }
        members[max(likeness, key=likeness.get)].append(position)
    merged = torch.stack([hidden[members[position]].mean(0) for position in kept])
    assert max(map(len, members.values())) > 1
    reading = read_prompt(
        decoder, prompt, reducer=Inside((inner_method("holitom-merge", layers=layers, keep=keep),))
    )
    assert list(reading.kept) == kept
    close(reading.logits, logits_of(model, layers_on(model, merged, torch.tensor(kept), full)))


@pytest.mark.parametrize("name", ["fastv", "holitom-merge"])
def test_keeping_all_changes_nothing(models, name):
    model, decoder = models["llama"]
    prompts = [prompt_of(model, n, seed=n) for n in (1, 2)]
    whole = read_prompts(decoder, prompts)
    for keep in (1.0, 1000):
        got = read_prompts(decoder, prompts, reducer=Inside((inner_method(name, keep=keep),)))
        for one, other in zip(whole, got, strict=True):
            assert torch.equal(one.logits, other.logits)


@pytest.mark.parametrize("name", ["fastv", "holitom-merge"])
def test_batch_equals_one_by_one_and_text_is_not_touched(models, name):
    model, decoder = models["llama"]
    reducer = Inside((inner_method(name, keep=0.25),))
    prompts = [prompt_of(model, 1, seed=1), prompt_of(model, 3, seed=2), [1, 20, 21, 22, 23]]
    together = read_prompts(decoder, prompts, reducer=reducer)
    for prompt, packed in zip(prompts, together, strict=True):
        alone = read_prompt(decoder, prompt, reducer=reducer)
        assert alone.kept == packed.kept
        close(packed.logits, alone.logits)
    assert together[2].kept == tuple(range(5))


def test_pinned_tokens_and_the_question_count(models):
    """Pinned visual tokens stay and count; the question may rank in place of the last token."""
    model, decoder = models["llama"]
    prompt = prompt_of(model)
    pinned = tuple(prompt.visual[-3:])
    marks = Marks(window=(len(prompt) - 6, len(prompt) - 5), pinned=pinned)
    found = {}
    for question in (False, True):
        reducer = Inside((inner_method("fastv", keep=6, question=question),))
        found[question] = set(read_prompt(decoder, prompt, reducer=reducer, marks=marks).kept)
        assert set(pinned) < found[question]
        assert len(found[question] & set(prompt.visual)) == 6
    assert found[False] != found[True]


def test_before_and_inside_together(models):
    """HoliTom whole: the reducer starts from what is left, and two reducers follow each other."""
    model, decoder = models["llama"]
    prompt = prompt_of(model, method=vision_method("fopru"), keep=8)
    text = len(prompt) - 16
    reducers = (inner_method("fastv", keep=0.5), inner_method("holitom-merge", layers=4, keep=2))
    reading = read_prompt(decoder, prompt, reducer=Inside(reducers))
    assert rows_per_layer(reading) == [text + 16] * 2 + [text + 8] * 2 + [text + 2]
    with pytest.raises(ConfigError, match="2 methods act behind layer 1"):
        read_prompt(decoder, prompt, reducer=Inside((reducers[0], inner_method("holitom-merge", layers=2))))


def test_budgets_and_layers_out_of_range(models):
    for name in ("fastv", "holitom-merge"):
        for layers in (0, -1, 1.0, 0.0):
            with pytest.raises(ConfigError, match="layers that see everything"):
                inner_method(name, layers=layers)
        for keep in (0, 0.0, 1.5):
            with pytest.raises(BudgetError, match="keep must"):
                inner_method(name, keep=keep)
        with pytest.raises(ConfigError, match="its options"):
            inner_method(name, keap=1)
        with pytest.raises(ConfigError, match="works inside"):
            vision_method(name)
    model, decoder = models["llama"]
    with pytest.raises(ConfigError, match="5 layers shall see everything, and the model has only 5"):
        read_prompt(decoder, prompt_of(model), reducer=Inside((inner_method("fastv", layers=5),)))


def test_methods_are_listed_without_torch():
    inside = {info.name for info in list_vision_methods() if info.where == "inside"}
    assert inside == {"atp-llava", "fastv", "holitom-merge"}
    code = (
        "import sys; from tokenprune.vision.methods import list_vision_methods; list_vision_methods();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
