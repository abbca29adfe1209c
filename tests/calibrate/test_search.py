import pytest

torch = pytest.importorskip("torch")

from tokenprune.calibrate.observe import LayerSays, Observed  # noqa: E402
from tokenprune.calibrate.search import counts_for, search  # noqa: E402
from tokenprune.engine.rules import AttentionProbability  # noqa: E402
from tokenprune.engine.schedule import best  # noqa: E402
from tokenprune.errors import ConfigError  # noqa: E402

SIZE = 600


def prompt(answer, plant, noise, most=None):
    """Noise in 5 layers of 6 heads; ``plant(layer, heads, raw, last)`` may point at the answer.

    ``most(layer, heads)``: of the token of the question that looks most; else that is the same.
    """
    layers = {}
    for layer in range(1, 6):
        heads = torch.rand(6, SIZE, generator=noise)
        raw, last = torch.rand(SIZE, generator=noise), torch.rand(SIZE, generator=noise)
        plant(layer, heads, raw, last)
        peaks = heads if most is None else most(layer, heads)
        layers[layer] = LayerSays(heads.half(), peaks.half(), raw, last)
    return Observed(tuple(range(SIZE - 30, SIZE - 20)), (range(answer, answer + 3),), layers, SIZE)


def prompts(plant, number=16):
    answers = [50 + 30 * n for n in range(number)]
    noise = torch.Generator().manual_seed(0)
    return [prompt(a, lambda *said, a=a: plant(a, *said), noise) for a in answers]


def test_finds_the_head_that_knows():
    def plant(answer, layer, heads, raw, last):
        if layer >= 3:
            heads[2, answer : answer + 3] += 1
            heads[4] *= 20  # hides it in the mean of all heads

    found = search(prompts(plant), (64, 128))
    assert found.question.layer == 3 and found.question.softmax and found.question.heads == (2,)
    assert found.question.kept == {64: 1.0, 128: 1.0}
    by_layer = {layer.choice.layer: layer for layer in found.layers}
    assert by_layer[1].kept < 0.5 and by_layer[3].all_heads < 0.5 <= by_layer[5].kept


def test_takes_the_word_that_looks_most_where_the_mean_hides_it():
    noise = torch.Generator().manual_seed(0)
    made = []
    for n in range(16):
        answer = 50 + 30 * n

        def most(layer, heads, answer=answer):
            peaks = heads.clone()
            if layer == 4:
                peaks[1, answer : answer + 3] += 3
            return peaks

        made.append(prompt(answer, lambda *said: None, noise, most))
    found = search(made, (64, 128)).question
    assert (found.layer, found.heads, found.peak) == (4, (1,), True) and found.kept[64] == 1.0
    assert found.looks()[0].rule.rule == AttentionProbability((1,), peak=True)
    said = found.but(kernel=5)
    assert said.peak and not found.but(softmax=False).peak


def test_heads_of_earlier_layers_join_where_they_help():
    """One head knows the answers of some prompts, one of a later layer those of the others."""

    def plant(answer, layer, heads, raw, last):
        known = (answer // 30) % 3
        if (layer, known) in ((2, 0), (4, 1), (4, 2)):
            heads[{2: 1, 4: 3}[layer], answer : answer + 3] += 3

    read = prompts(plant)
    found = search(read, (64,))
    assert found.question.layer == 4 and found.question.heads == (3,)
    assert dict(found.question.earlier) == {2: (1,)} and found.question.kept[64] == 1.0
    by_layer = {layer.choice.layer: layer for layer in found.layers}
    assert by_layer[4].alone.earlier == {} and by_layer[4].alone.kept[64] < 0.8
    assert by_layer[4].chosen_by == 1.0 and by_layer[4].kept == 1.0
    rules = {look.layer: look for look in found.question.looks()}
    assert rules[2].share == rules[4].share == 0.5
    with torch.device("meta"):  # what is not made where the scores are cannot be joined with them
        assert search(read, (64,)) == found


def test_takes_raw_products_and_the_last_token_where_they_know():
    def plant(answer, layer, heads, raw, last):
        if layer == 2:
            raw[answer : answer + 3] += 5
        if layer == 4:
            last[answer - 3 : answer + 6] += 5

    found = search(prompts(plant), (64, 128))
    assert (found.question.layer, found.question.softmax, found.question.heads) == (2, False, None)
    assert (found.published.layer, found.published.kernel, found.published.softmax) == (4, 5, False)
    assert found.published.kept[128] == 1.0


def test_takes_out_what_favours_a_place():
    """Tokens near to the end get far more from every head; the answer stands out where it is."""

    def plant(answer, layer, heads, raw, last):
        heads *= torch.linspace(0.1, 40, SIZE)
        if layer == 2:
            heads[:, answer : answer + 3] *= 3

    found = search(prompts(plant), (64, 128))
    assert found.question.layer == 2 and found.question.around is not None
    by_layer = {layer.choice.layer: layer for layer in found.layers}
    assert by_layer[2].kept > by_layer[2].all_heads + 0.1


def test_the_tolerance_takes_an_earlier_layer():
    def plant(answer, layer, heads, raw, last):
        # Layer 2 knows it of most prompts, layer 4 of all.
        if layer == 4 or (layer == 2 and answer != 50):
            heads[:, answer : answer + 3] += 3
        elif answer == 50:
            for scores in (heads, raw[None]):
                scores[:, answer - 30 : answer + 30] = 0  # not by luck either

    seen = prompts(plant)
    assert search(seen, (64,), 0.0).question.layer == 4
    assert search(seen, (64,), 0.3).question.layer == 2
    named = search(seen, (64,), 0.3, layer=3)
    assert named.question == named.layers[2].choice and named.question.layer == 3


def test_what_is_needed_is_what_the_methods_keep():
    """``need`` against keeping more and more with the engine's own choice."""
    seen = prompts(lambda *_: None, 3)
    for one in seen:
        scores = one.layers[1].raw
        need = int(one.need(scores[None], 4, 8)[0])
        pinned = torch.zeros(SIZE, dtype=torch.bool)
        pinned[:4] = pinned[-8:] = True
        pinned[list(one.window)] = True
        for count in (need - 1, need):
            kept = set(best(scores, count, pinned).tolist())
            assert (set(one.answers[0]) <= kept) == (count == need)


def test_counts_and_wrong_values():
    assert counts_for(2048) == (64, 128, 256, 512) and counts_for(200) == (64,)
    with pytest.raises(ConfigError, match="4 prompts"):
        search([], (64,))
    with pytest.raises(ConfigError, match="tolerance"):
        search(prompts(lambda *_: None, 4), (64,), 2.0)
