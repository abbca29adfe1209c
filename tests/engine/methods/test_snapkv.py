import pytest

torch = pytest.importorskip("torch")

from tokenprune.engine.decoder import go_on  # noqa: E402
from tokenprune.engine.methods.snapkv import SnapKV  # noqa: E402
from tokenprune.engine.reading import read_prompt, step_together  # noqa: E402
from tokenprune.engine.schedule import Marks  # noqa: E402
from tokenprune.errors import ConfigError  # noqa: E402

SIZE = 60
IDS = torch.randint(0, 97, (SIZE,), generator=torch.Generator().manual_seed(5)).tolist()
METHOD = SnapKV(keep=20, window=8, kernel=5)
FAMILIES = ("llama", "llama-all-heads", "mistral", "qwen2", "qwen3")


@torch.no_grad()
def reference_rows(model, ids, method):
    """Per layer and key head, from the attentions that transformers returns (eager): [L][G] lists."""
    model.set_attn_implementation("eager")
    every = model(torch.tensor([ids]), output_attentions=True).attentions
    before, out = len(ids) - method.window, []
    for attention in every:
        scores = attention[0, :, before:, :before].sum(1)
        pooled = torch.stack(
            [torch.nn.functional.avg_pool1d(s[None], method.kernel, 1, method.kernel // 2)[0] for s in scores]
        )
        shared = len(pooled) // model.config.num_key_value_heads
        means = pooled.view(-1, shared, before).mean(1)
        picks = means.topk(method.keep - method.window).indices
        out.append([sorted(p.tolist()) + list(range(before, len(ids))) for p in picks])
    return out


@torch.no_grad()
def reference_decode(model, ids, new, held):
    """Logits behind ``new``, where its rows see of the prompt what their head holds: nothing is taken away."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    body, size, total = model.model, len(ids), len(ids) + len(new)
    hidden = body.embed_tokens(torch.tensor([[*ids, *new]]))
    rotation = body.rotary_emb(hidden, torch.arange(total)[None])
    for layer, rows in zip(body.layers, held, strict=True):
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        shape = (1, total, -1, attention.head_dim)
        query, keys = attention.q_proj(normed).view(shape), attention.k_proj(normed).view(shape)
        if hasattr(attention, "q_norm"):
            query, keys = attention.q_norm(query), attention.k_norm(keys)
        query, keys = apply_rotary_pos_emb(query.transpose(1, 2), keys.transpose(1, 2), *rotation)
        times = query.shape[1] // keys.shape[1]
        values = attention.v_proj(normed).view(shape).transpose(1, 2)
        seen = torch.ones(total, total, dtype=torch.bool).tril().repeat(query.shape[1], 1, 1)
        for head in range(query.shape[1]):
            gone = torch.ones(size, dtype=torch.bool)
            gone[rows[head // times]] = False
            seen[head, size:, :size] &= ~gone
        logits = query @ keys.repeat_interleave(times, 1).transpose(2, 3) * attention.scaling
        probability = logits.masked_fill(~seen, -torch.inf).softmax(-1)
        mixed = (probability @ values.repeat_interleave(times, 1)).transpose(1, 2).reshape(1, total, -1)
        hidden = hidden + attention.o_proj(mixed)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return model.lm_head(body.norm(hidden[0, -1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_hold_what_the_formula_says_and_decode_with_it(tiny_lm, build_lm, family):
    """Selection exact; logits of three decode steps to 1e-3 of logits near 10."""
    _, decoder = tiny_lm(family)
    reading = METHOD.prefill(decoder, IDS, Marks(), go_on)
    assert torch.allclose(reading.logits, read_prompt(decoder, IDS).logits, atol=1e-4)
    model = build_lm(family)
    expected = reference_rows(model, IDS, METHOD)
    assert [rows.tolist() for rows in reading.held] == expected
    heads_differ = any(rows[0] != rows[-1] for rows in expected)
    assert heads_differ
    new = []
    for token in (3, 50, 7):
        new.append(token)
        got = reading.step(token)
        assert torch.allclose(got, reference_decode(model, IDS, new, expected), atol=1e-3)


def test_bytes(tiny_lm):
    _, decoder = tiny_lm("llama")
    reading = METHOD.prefill(decoder, IDS, Marks(), go_on)
    entry = 2 * 2 * 8 * 4
    assert reading.kv_bytes == 5 * 20 * entry
    # Four layers that are done, the last one whole, and its copy.
    assert reading.peak_kv_bytes == (4 * (20 + 64) + (SIZE + 64) + (20 + 64)) * entry
    assert reading.kept is None
    reading.step(1)
    assert reading.kv_bytes == 5 * 21 * entry


def test_short_prompts_and_windows_stay_whole(tiny_lm):
    _, decoder = tiny_lm("llama")
    reading = SnapKV(keep=SIZE, window=8).prefill(decoder, IDS, Marks(), go_on)
    plain = read_prompt(decoder, IDS)
    assert reading.held == (None,) * 5 and reading.kv_bytes == plain.kv_bytes
    assert torch.equal(reading.step(4), plain.step(4))
    _, sliding = tiny_lm("mistral-window")
    reading, plain = METHOD.prefill(sliding, IDS, Marks(), go_on), read_prompt(sliding, IDS)
    assert torch.equal(reading.step(4), plain.step(4))


def test_steps_with_others(tiny_lm):
    _, decoder = tiny_lm("llama")
    alone = METHOD.prefill(decoder, IDS, Marks(), go_on)
    one, other = METHOD.prefill(decoder, IDS, Marks(), go_on), read_prompt(decoder, [1, 2, 3])
    step_together([one, other], [9, 9])
    assert torch.allclose(one.logits, alone.step(9), atol=1e-4)


@pytest.mark.parametrize("options", [{"keep": 64}, {"keep": 0}, {"window": 0}, {"kernel": 4}])
def test_wrong_values(options):
    with pytest.raises(ConfigError):
        SnapKV(**options)
