"""The decoder against transformers, float32, relative tolerance 1e-4 of the largest value."""

import sys
import threading
import time

import pytest

torch = pytest.importorskip("torch")

from tokenprune.engine import weights as reading_weights  # noqa: E402
from tokenprune.engine.decoder import Decoder, Near  # noqa: E402
from tokenprune.engine.reading import SequenceKV, read, read_prompt, read_prompts, step_together  # noqa: E402
from tokenprune.engine.weights import FAMILIES  # noqa: E402
from tokenprune.errors import ConfigError, ModelError  # noqa: E402


def prompt(count, seed=0):
    return torch.randint(0, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def close(got, expected, tolerance=1e-4):
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@torch.no_grad()
def reference(build_lm, variant, ids):
    """Logits [n, vocabulary] and hidden states per layer of an untouched transformers model."""
    output = build_lm(variant)(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    return output.logits[0], [hidden[0] for hidden in output.hidden_states]


def test_prefill_equals_transformers(tiny_lm, build_lm, variant):
    ids = prompt(40)
    logits, hidden = reference(build_lm, variant, ids)
    _, decoder = tiny_lm(variant)
    close(read_prompt(decoder, ids).logits, logits[-1])
    every = read(decoder, [SequenceKV.empty(decoder)], [ids], last_only=False)
    with torch.inference_mode():
        close(decoder.logits(every), logits)
    for depth in range(1, decoder.depth):
        early = read(decoder, [SequenceKV.empty(decoder, depth)], [ids], depth=depth, last_only=False)
        close(early, hidden[depth])


def test_decoders_built_at_once_share_the_weights(build_lm, monkeypatch):
    """Threads that lay the same weights side by side would hold them twice, or read beyond them."""
    look = reading_weights._adjacent
    monkeypatch.setattr(
        reading_weights, "_adjacent", lambda parameters: (look(parameters), time.sleep(0.01))[0]
    )
    model = build_lm("llama-biases")
    together = threading.Barrier(4)
    found = []

    def build():
        together.wait()
        found.append(Decoder(model).weights)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    places = [
        [
            part.data_ptr()
            for layer in one.layers
            for joined in (layer.qkv, layer.gate_up)
            for part in (joined.weight, joined.bias)
        ]
        for one in found
    ]
    assert places[0] == places[1] == places[2] == places[3]
    assert places[0][0] == model.model.layers[0].self_attn.q_proj.weight.data_ptr()


def test_fused_model_still_gives_its_own_logits(tiny_lm, build_lm, variant):
    ids = prompt(20)
    expected, _ = reference(build_lm, variant, ids)
    model, decoder = tiny_lm(variant)
    with torch.no_grad():
        close(model(torch.tensor([ids])).logits[0], expected)
    for weights, layer in zip(decoder.weights.layers, model.model.layers, strict=True):
        parts = layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj
        for whole, modules in (
            (weights.qkv, parts),
            (weights.gate_up, (layer.mlp.gate_proj, layer.mlp.up_proj)),
        ):
            storage = whole.weight.untyped_storage()
            assert all(m.weight.untyped_storage().data_ptr() == storage.data_ptr() for m in modules)
            assert storage.nbytes() == whole.weight.numel() * 4
    again = Decoder(model)
    assert again.weights.layers[0].qkv.weight.data_ptr() == decoder.weights.layers[0].qkv.weight.data_ptr()


def test_greedy_equals_generate(tiny_lm, build_lm, variant):
    """Token for token, also where the answer crosses a window, a longer rotary range, a growing store."""
    ids = prompt(12, seed=1)
    expected = (
        build_lm(variant)
        .generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            max_new_tokens=70,
            do_sample=False,
            eos_token_id=None,
        )[0, len(ids) :]
        .tolist()
    )
    _, decoder = tiny_lm(variant)
    reading = read_prompt(decoder, ids)
    got = [int(reading.logits.argmax())]
    while len(got) < 70:
        got.append(int(reading.step(got[-1]).argmax()))
    assert got == expected


def test_packed_batch_equals_one_by_one(tiny_lm, variant):
    """Prompts of different lengths in one pass, then ten steps together."""
    _, decoder = tiny_lm(variant)
    prompts = [prompt(size, seed=size) for size in (17, 1, 30)]
    alone = [read_prompt(decoder, ids) for ids in prompts]
    together = read_prompts(decoder, prompts)
    for step in range(10):
        for one, packed in zip(alone, together, strict=True):
            close(packed.logits, one.logits)
        tokens = [(step * 7 + index) % 97 for index in range(3)]
        for one, token in zip(alone, tokens, strict=True):
            one.step(token)
        step_together(together, tokens)


@pytest.mark.parametrize("name", ["dynamic-rope", "long-rope"])
def test_threads_do_not_turn_each_others_rows(tiny_lm, name):
    _, decoder = tiny_lm(name)
    short, long = torch.arange(12), torch.arange(60)
    expected = {len(rows): decoder.rotary(rows) for rows in (short, long)}
    wrong = []

    def turn(rows):
        for _ in range(400):
            got = decoder.rotary(rows)
            if not torch.equal(got.cos, expected[len(rows)].cos):
                wrong.append(len(rows))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=turn, args=(rows,)) for rows in (short, long) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not torch.equal(expected[12].cos, expected[60].cos[:12])
    assert not wrong


def test_more_tokens_at_once_equal_one_by_one(tiny_lm, variant):
    if variant in ("dynamic-rope", "long-rope"):
        pytest.skip("the frequencies follow the length at each pass")
    _, decoder = tiny_lm(variant)
    ids = prompt(45)
    whole = SequenceKV.empty(decoder)
    expected = read(decoder, [whole], [ids], last_only=False)
    sequence = SequenceKV.empty(decoder)
    parts = [read(decoder, [sequence], [ids[a:b]], last_only=False) for a, b in ((0, 20), (20, 21), (21, 45))]
    close(torch.cat(parts), expected)


@torch.no_grad()
def test_near_sees_a_window_and_the_first_tokens(build_lm, tiny_lm, monkeypatch):
    """Against transformers with the same mask written out; wide windows change nothing."""
    _, decoder = tiny_lm("llama")
    ids = prompt(50)
    place = torch.arange(50)
    distance = place[:, None] - place
    mask = (distance >= 0) & ((distance < 9) | (place < 3))
    expected = build_lm("llama")(torch.tensor([ids]), attention_mask=mask[None, None]).logits[0]
    for block in (256, 7):
        monkeypatch.setattr("tokenprune.engine.attention._BLOCK", block)
        for last_only in (False, True):
            hidden = read(decoder, [SequenceKV.empty(decoder)], [ids], near=Near(9, 3), last_only=last_only)
            with torch.inference_mode():
                close(decoder.logits(hidden), expected[-1:] if last_only else expected)
    mask |= (place[:, None] >= 31) & (distance >= 0)
    expected = build_lm("llama")(torch.tensor([ids]), attention_mask=mask[None, None]).logits[0]
    for last_only in (False, True):
        near = Near(9, 3, free_from=31)
        hidden = read(decoder, [SequenceKV.empty(decoder)], [ids], near=near, last_only=last_only)
        with torch.inference_mode():
            close(decoder.logits(hidden), expected[-1:] if last_only else expected)
    whole = read(decoder, [SequenceKV.empty(decoder)], [ids])
    assert torch.equal(read(decoder, [SequenceKV.empty(decoder)], [ids], near=Near(50)), whole)
    with pytest.raises(ConfigError, match="window"):
        Near(0)


@pytest.mark.parametrize(("heads", "groups"), [(9, 3), (4, 4)])
@pytest.mark.parametrize(
    ("entries", "window", "sinks"),
    [
        *(
            (700, 100, 4),
            (513, 130, 0),
            (300, 50, 60),
            (300, 1, 4),
            (257, 200, 150),
            (400, 128, 4),
            (90, 40, 3),
        ),
        *((300, None, 0), (64, None, 0), (65, None, 4)),
    ],
)
@pytest.mark.parametrize("before", [0, 1, 70])
@pytest.mark.parametrize("gaps", [False, True])
def test_plain_products_see_what_masks_say(heads, groups, entries, window, sinks, before, gaps):
    from tokenprune.engine.attention import _by_products

    generator = torch.Generator().manual_seed(entries)
    query, keys, values = (torch.randn(n, entries, 16, generator=generator) for n in (heads, groups, groups))
    before = min(before, entries - 2)
    query = query[:, before:]
    place = torch.arange(entries)
    if gaps:
        place = torch.randperm(3 * entries, generator=generator)[:entries].sort().values
    distance = place[before:, None] - place
    mask = distance >= 0
    if window is not None:
        mask &= (distance < window) | (torch.arange(entries) < sinks)
    repeated = (t.repeat_interleave(heads // groups, 0) for t in (keys, values))
    expected = torch.nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3)
    found = _by_products(query, keys, values, place, 0.3, window, sinks)
    torch.testing.assert_close(found, expected.transpose(0, 1).flatten(1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("sequences", [1, 2])
def test_a_prefill_in_bfloat16_stays_close(build_lm, sequences):
    """Products of blocks round more than masks do, and both are the same attention; also behind entries."""
    ids = [prompt(200), prompt(150)][:sequences]
    exact, found = (
        read(made, [SequenceKV.empty(made) for _ in ids], ids, last_only=False).float()
        for made in (Decoder(build_lm("llama")), Decoder(build_lm("llama").to(torch.bfloat16)))
    )
    likeness = torch.nn.functional.cosine_similarity(found, exact, dim=-1)
    assert likeness.min() > 0.9 and likeness.mean() > 0.99


@torch.no_grad()
def test_near_in_bfloat16_stays_close(build_lm):
    """Bands are rounded more than masks are, and both are the same attention."""
    ids, near = prompt(200), Near(40, 3, free_from=180)
    exact, found = (
        read(made, [SequenceKV.empty(made)], [ids], near=near, last_only=False).float()
        for made in (Decoder(build_lm("llama")), Decoder(build_lm("llama").to(torch.bfloat16)))
    )
    likeness = torch.nn.functional.cosine_similarity(found, exact, dim=-1)
    assert likeness.min() > 0.9 and likeness.mean() > 0.99  # as with masks: .95 and .997


def test_blocks_of_rows_do_not_matter(tiny_lm, monkeypatch):
    for variant in ("llama-biases", "qwen3", "mistral-window"):
        _, decoder = tiny_lm(variant)
        ids = prompt(50)
        expected = read_prompt(decoder, ids).logits
        with monkeypatch.context() as patch:
            patch.setattr("tokenprune.engine.attention._BLOCK", 7)
            patch.setattr(decoder, "_rows", 11)
            close(read_prompt(decoder, ids).logits, expected)


def test_bfloat16_stays_close(build_lm):
    """bfloat16 keeps 8 bits: 3 % of the largest logit."""
    model = build_lm("qwen3").to(torch.bfloat16)
    ids = prompt(30)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1].float()
    got = read_prompt(Decoder(model), ids).logits
    assert got.dtype is torch.float32
    close(got, expected, 0.03)


def test_kv_bytes_are_those_of_the_entries(tiny_lm):
    _, decoder = tiny_lm("llama")
    entry = 2 * 2 * 8 * 4  # keys and values, 2 heads of 8 float32
    reading = read_prompt(decoder, prompt(40))
    assert reading.kv_bytes == 5 * 40 * entry
    assert [len(layer) for layer in reading.sequence.layers] == [40] * 5
    allocated = sum(layer.allocated_bytes for layer in reading.sequence.layers)
    assert reading.peak_kv_bytes == reading.sequence.meter.now == allocated
    for token in range(80):
        reading.step(token)
    assert reading.kv_bytes == 5 * 120 * entry
    now = sum(layer.allocated_bytes for layer in reading.sequence.layers)
    assert now == reading.sequence.meter.now > allocated
    # While a layer grows, both its arrays exist.
    assert now < reading.peak_kv_bytes <= now + allocated // 5
    read_only = SequenceKV.empty(decoder, 3)
    read(decoder, [read_only], [prompt(40)], depth=3, keep_kv=False)
    assert (read_only.meter.now, read_only.meter.peak) == (0, allocated // 5)


def test_other_families_and_wrapped_layers_are_refused(build_lm):
    from transformers import GPT2Config, GPT2LMHeadModel

    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=12, n_head=2, vocab_size=10))
    with pytest.raises(ModelError, match="GPT2LMHeadModel") as caught:
        Decoder(other)
    assert all(family in str(caught.value) for family in FAMILIES)
    model = build_lm("llama")
    model.model.layers[2].self_attn.k_proj = torch.nn.Sequential(model.model.layers[2].self_attn.k_proj)
    with pytest.raises(ModelError, match="Sequential"):
        Decoder(model)
