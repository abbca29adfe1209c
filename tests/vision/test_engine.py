"""The shipped small VLM from pictures to tokens: the engine against transformers, pruned and not."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

from tokenprune.bench.roofline import ModelShape, read_shape, shape_of  # noqa: E402
from tokenprune.engine.sampling import SamplingParams  # noqa: E402
from tokenprune.errors import ConfigError, VisionError  # noqa: E402
from tokenprune.models.catalog import resolve_model  # noqa: E402
from tokenprune.vision.atp_train import ATPTraining, train_atp  # noqa: E402
from tokenprune.vision.engine import VisionEngine, continue_all, rows_per_layer  # noqa: E402
from tokenprune.vision.hf import visual_pruning  # noqa: E402
from tokenprune.vision.llm import Inside  # noqa: E402
from tokenprune.vision.methods import vision_method  # noqa: E402
from tokenprune.vision.methods.base import inner_method  # noqa: E402

GREEDY = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def engine():
    return VisionEngine("llava-mini", dtype="float32")


def pictures(count, seed=0):
    noise = np.random.default_rng(seed)
    return [Image.fromarray(noise.integers(0, 255, (80, 120, 3), dtype=np.uint8)) for _ in range(count)]


def inputs_of(engine, question, images):
    """What transformers' own processor makes of the same turn."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(resolve_model("llava-mini"))
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=text, images=images, return_tensors="pt", add_special_tokens=False)


@pytest.mark.parametrize("count", [1, 2])
def test_pictures_to_tokens_equals_transformers(engine, count):
    images = pictures(count, seed=count)
    inputs = inputs_of(engine, "how many digits are there ?", images)
    seen = engine.see(engine.chat("how many digits are there ?", count), images)
    assert list(seen.prompt) == inputs["input_ids"][0].tolist()
    model = engine.engine.lm.model
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)
    expected = out[0, inputs["input_ids"].shape[1] :].tolist()
    assert [step.token_id for step in engine.generate(seen, GREEDY)] == expected
    inner = (inner_method("fastv", keep=1.0),)
    assert [step.token_id for step in engine.generate(seen, GREEDY, inner=inner)] == expected


def test_pruned_equals_the_transformers_wrapper(engine):
    images = pictures(2)
    inputs = inputs_of(engine, "what colour ?", images)
    seen = engine.see(engine.chat("what colour ?", 2), images, method=vision_method("fopru"), keep=0.25)
    assert len(seen.prompt) == inputs["input_ids"].shape[1] - 2 * (196 - 49)
    with visual_pruning(engine.engine.lm.model, "fopru", 0.25):
        out = engine.engine.lm.model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert [s.token_id for s in engine.generate(seen, GREEDY)] == out[
        0, inputs["input_ids"].shape[1] :
    ].tolist()


def test_several_prompts_together_equal_one_by_one(engine):
    seen = [engine.see(engine.chat("what colour ?", n), pictures(n, seed=n)) for n in (1, 2)]
    inner = (inner_method("fastv"), inner_method("holitom-merge"))
    alone = [[s.token_id for s in engine.generate(one, GREEDY, inner=inner)] for one in seen]
    prompts = [one.prompt for one in seen]
    assert continue_all(engine.engine.decoder, prompts, GREEDY, frozenset(), inner) == alone
    first = alone[0][1]
    stopped = continue_all(
        engine.engine.decoder, prompts, SamplingParams(max_tokens=6, temperature=0), frozenset({first}), inner
    )
    assert stopped == [tokens[: tokens.index(first) + 1] if first in tokens else tokens for tokens in alone]


def test_a_video_is_its_frames(engine):
    frames = pictures(3)
    ids = engine.chat("what moved ?", 3)
    seen = engine.see(ids, videos=[frames], method=vision_method("holitom"), keep=0.15)
    assert seen.tokens[0].grid == (3, 14, 14)
    assert len(seen.prompt.visual) == len(seen.left[0])
    assert set(seen.prompt.places[:, 0].tolist()) <= {0, 1, 2}
    plain = engine.see(ids, frames)
    assert list(engine.see(ids, videos=[frames]).prompt) == list(plain.prompt)
    with pytest.raises(VisionError, match="placeholders"):
        engine.see(ids, frames[:2])


def test_flops_follow_the_tokens_of_each_layer(engine):
    shape = read_shape(resolve_model("llava-mini"))
    assert (shape.layers, shape.hidden, shape.vocab) == (6, 192, 128)
    seen = engine.see(engine.chat("what colour ?", 2), pictures(2))
    size = len(seen.prompt)
    whole = rows_per_layer(engine.engine.prefill(seen.prompt))
    assert whole == [size] * 6
    assert shape.layered_prefill_flops(whole) == shape.prefill_flops(size)
    fast = rows_per_layer(
        engine.engine.prefill(seen.prompt, strategy=Inside((inner_method("fastv", keep=0.25),)))
    )
    assert fast == [size] * 2 + [size - 294] * 4
    one = ModelShape(1, 192, 6, 6, 32, 512, 128)
    by_layer = sum(one.prefill_flops(n) - one.head_flops for n in fast)
    assert shape.layered_prefill_flops(fast) == by_layer + one.head_flops
    with pytest.raises(ConfigError, match="5 numbers of tokens for a model of 6 layers"):
        shape.layered_prefill_flops(fast[:5])
    with pytest.raises(KeyError):
        shape_of({"model_type": "llava"})


def test_atp_is_trained_on_pictures_questions_and_answers(engine, tmp_path):
    """Through the chat template, behind a method before the language model, and back from a file."""
    images = pictures(4)
    examples = [
        ([images[0]], "what colour ?", "red"),
        (images[1:3], "how many digits are there ?", "2"),
        ([images[3]], "what shape ?", "circle"),
    ]
    losses = []
    method = vision_method("fopru")
    how = ATPTraining(steps=4, batch=2, rate=1e-2, target=0.5)
    module = train_atp(
        engine, iter(examples * 3), how=how, method=method, keep=60, log=lambda *line: losses.append(line[1])
    )
    assert len(losses) == 4
    assert all(np.isfinite(losses))
    assert module.config.layers == (0, 2, 3)
    moved = [head[-1].weight.abs().sum() > 0 for head in module.heads.values()]
    assert all(moved)
    module.save(tmp_path / "atp.safetensors")
    inner = (inner_method("atp-llava", weights=str(tmp_path / "atp.safetensors")),)
    seen = engine.see(engine.chat("what colour ?"), images[:1], method=method, keep=60)
    reading = engine.engine.prefill(seen.prompt, strategy=Inside(inner))
    rows = rows_per_layer(reading)
    assert rows[0] == len(seen.prompt) > rows[-1]
    assert len(list(engine.generate(seen, GREEDY, inner=inner))) == 6
