import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tokenprune.engine.engine import CancelledError, ContextLengthError, Engine
from tokenprune.engine.fair_lock import EngineBusyError, FairLock
from tokenprune.engine.methods.gemfilter import QuestionGemFilter
from tokenprune.engine.sampling import Sampler, SamplingError, SamplingParams
from tokenprune.engine.schedule import Marks
from tokenprune.errors import ConfigError

pytestmark = pytest.mark.models

LONG = "The quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("smollm2-135m", dtype="float32")  # in bfloat16 rounding decides between equals


def chat_ids(engine: Engine, text: str) -> list[int]:
    messages = [{"role": "user", "content": text}]
    encoded = engine.lm.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return encoded["input_ids"]


def text_of(steps) -> str:
    return "".join(step.text_delta for step in steps)


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        f"{LONG[: len(LONG) // 2]}\nWhat does the fox do?",
        "Write the word robot and 🤖 three times.",
    ],
)
def test_greedy_equals_transformers_generate(engine, question) -> None:
    import torch

    ids = chat_ids(engine, question)
    inputs = torch.tensor([ids])
    reference = engine.lm.model.generate(
        input_ids=inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=24, do_sample=False
    )[0, len(ids) :].tolist()
    steps = list(engine.generate(ids, SamplingParams(max_tokens=24, temperature=0, logprobs=True)))
    assert [step.token_id for step in steps] == reference
    assert text_of(steps) == engine.lm.tokenizer.decode(reference, skip_special_tokens=True)
    assert steps[-1].finish_reason == ("stop" if reference[-1] == 2 else "length")
    assert all(step.finish_reason is None for step in steps[:-1])
    assert all(step.logprob is not None and step.logprob <= 0 for step in steps)


def test_answers_a_question(engine) -> None:
    steps = list(
        engine.generate(chat_ids(engine, "What is the capital of France?"), SamplingParams(temperature=0))
    )
    assert "Paris" in text_of(steps)
    assert (steps[-1].token_id, steps[-1].finish_reason) == (2, "stop")


def test_stop_string_spans_tokens_and_is_not_shown(engine) -> None:
    ids = chat_ids(engine, "What is the capital of France?")
    full = list(engine.generate(ids, SamplingParams(temperature=0)))
    text = text_of(full)
    stop = text[6:16]
    inside = [step.text_delta for step in full]
    assert not any(stop in piece for piece in inside)
    steps = list(engine.generate(ids, SamplingParams(temperature=0, stop=(stop, "never there"))))
    assert text_of(steps) == text[: text.index(stop)]
    assert (steps[-1].finish_reason, steps[-1].stop_reason) == ("stop", stop)
    assert len(steps) < len(full)


def test_text_held_for_a_stop_string_comes_out_at_the_end(engine) -> None:
    ids = chat_ids(engine, "What is the capital of France?")
    text = text_of(engine.generate(ids, SamplingParams(temperature=0)))
    params = SamplingParams(temperature=0, stop=(text[-4:] + "never",))
    assert text_of(engine.generate(ids, params)) == text


def test_stop_token_id_and_ignore_eos(engine) -> None:
    ids = chat_ids(engine, "What is the capital of France?")
    steps = list(engine.generate(ids, SamplingParams(temperature=0, stop_token_ids=frozenset({3575}))))
    assert (text_of(steps), steps[-1].stop_reason) == ("The", 3575)
    steps = list(engine.generate(ids, SamplingParams(temperature=0, max_tokens=14, ignore_eos=True)))
    assert (len(steps), steps[-1].finish_reason) == (14, "length")


def test_seed_repeats_and_matters(engine) -> None:
    ids = chat_ids(engine, "Tell me something.")

    def sample(seed: int | None) -> list[int]:
        params = SamplingParams(max_tokens=8, temperature=1.5, top_p=0.95, seed=seed)
        return [step.token_id for step in engine.generate(ids, params)]

    first = sample(1)
    assert sample(1) == first
    assert any(sample(seed) != first for seed in (2, 3))


def test_sampler_distribution() -> None:
    """Frequencies of 4000 draws against the softmax, tolerance 0.03; top_p and top_k cut exactly."""
    import torch

    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = probabilities.log()

    def frequencies(**options) -> list[float]:
        sampler = Sampler(SamplingParams(seed=0, **options), torch.device("cpu"))
        draws = torch.tensor([sampler.choose(logits) for _ in range(4000)])
        return (torch.bincount(draws, minlength=4) / len(draws)).tolist()

    assert frequencies() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert frequencies(top_p=0.79) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert frequencies(top_k=1) == [1, 0, 0, 0]
    assert frequencies(temperature=0) == [1, 0, 0, 0]
    assert frequencies(top_p=1e-6) == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"stop": ("",)}, "stop"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_wrong_parameters(options, parameter) -> None:
    with pytest.raises(SamplingError) as caught:
        SamplingParams(**options)
    assert caught.value.parameter == parameter


def test_context_length_is_checked_before_the_first_step() -> None:
    engine = Engine("smollm2-135m", max_model_len=32)
    with pytest.raises(ContextLengthError, match="maximum context length is 32 tokens"):
        engine.generate([5] * 32, SamplingParams())
    with pytest.raises(ContextLengthError, match="for a total of 33 tokens"):
        engine.generate([5] * 30, SamplingParams(max_tokens=3))
    assert len(list(engine.generate([5] * 30, SamplingParams(temperature=0, ignore_eos=True)))) == 2
    for wrong in ([], [-1], [49152]):
        with pytest.raises(SamplingError):
            engine.generate(wrong, SamplingParams())
    with pytest.raises(SamplingError, match="max_model_len"):
        Engine("smollm2-135m", max_model_len=8193)


def test_cancel_in_prefill_and_between_steps(engine, monkeypatch) -> None:
    cancel, ran = threading.Event(), []
    layer = engine.decoder.layer

    def run(number, *args, **options):
        ran.append(number)
        if number == 2:
            cancel.set()
        return layer(number, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(engine.decoder, "layer", run)
        with pytest.raises(CancelledError, match="reading the prompt"):
            list(engine.generate([7] * 500, SamplingParams(max_tokens=1), cancel))
    assert ran == [0, 1, 2]

    cancel = threading.Event()
    steps = engine.generate(chat_ids(engine, "Count."), SamplingParams(ignore_eos=True), cancel)
    next(steps)
    cancel.set()
    with pytest.raises(CancelledError):
        next(steps)
    # Both have left the engine free, and a closed iterator does too.
    steps = engine.generate(chat_ids(engine, "Count."), SamplingParams(ignore_eos=True))
    next(steps)
    steps.close()
    assert list(engine.generate([5], SamplingParams(max_tokens=1)))


def test_strategy_reads_a_part_and_the_answer_goes_on_from_there(engine) -> None:
    """The question in the middle of filler is answered from 64 of about 330 tokens, decoding included."""
    filler = chat_ids(engine, LONG)[:-8]
    ids = [*filler[:300], *chat_ids(engine, "What is the capital of France?")]
    window = tuple(range(300, len(ids) - 5))
    params = SamplingParams(max_tokens=12, temperature=0)
    steps = list(engine.generate(ids, params, strategy=QuestionGemFilter(12, keep=64), marks=Marks(window)))
    assert "Paris" in text_of(steps)
    reading = engine.prefill(ids, strategy=QuestionGemFilter(12, keep=64), marks=Marks(window))
    assert len(reading.kept) == 64 and set(window) <= set(reading.kept)
    assert reading.peak_kv_bytes < engine.prefill(ids).peak_kv_bytes
    assert int(reading.logits.argmax()) == steps[0].token_id
    with pytest.raises(ConfigError, match="window names"):
        engine.generate(ids, params, marks=Marks((len(ids),)))
    with pytest.raises(ContextLengthError):
        engine.prefill([5] * 8192)


def test_a_thread_that_waits_for_itself_is_told(engine) -> None:
    params = SamplingParams(max_tokens=3, temperature=0)
    begun = engine.generate([5, 6, 7], params)
    next(begun)
    with pytest.raises(EngineBusyError, match="finish or close its iterator first"):
        next(engine.generate([5, 6, 7], params))
    with pytest.raises(EngineBusyError):
        engine.prefill([5, 6, 7])
    begun.close()
    assert len(list(engine.generate([5, 6, 7], params))) <= 3


def test_the_steps_of_a_generation_are_taken_in_several_threads(engine) -> None:
    """As a pool does: a worker that began one generation waits for it while another goes on with it."""
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    begun, behind = engine.generate([5, 6, 7], params), engine.generate([7, 6, 5], params)
    with ThreadPoolExecutor(1) as worker, ThreadPoolExecutor(1) as other:
        steps = [worker.submit(next, begun).result(60)]
        waiting = worker.submit(next, behind)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        steps += other.submit(list, begun).result(60)
        waiting.result(60)
        assert len(other.submit(list, behind).result(60)) == 3
    assert [s.token_id for s in steps] == [s.token_id for s in engine.generate([5, 6, 7], params)]


def test_a_worker_that_nobody_relieves_is_told_in_the_end(engine, monkeypatch) -> None:
    monkeypatch.setattr(FairLock, "_PATIENCE_S", 0.2)
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
    begun = engine.generate([5, 6, 7], params)
    with ThreadPoolExecutor(1) as worker:
        worker.submit(next, begun).result(60)
        refused = worker.submit(next, engine.generate([5, 6, 7], params))
        rest = worker.submit(list, begun)
        with pytest.raises(EngineBusyError, match="finish or close its iterator first"):
            refused.result(60)
        assert len(rest.result(60)) == 2


@pytest.mark.parametrize("pooled", [False, True])
def test_who_asks_from_within_is_told_at_once(pooled) -> None:
    """A strategy that asks its own engine, say: no other thread can go on with what runs."""
    lock = FairLock()

    def ask_within() -> None:
        with lock.hold(threading.Event()):
            with lock.idle():  # a step was taken, and it goes on here
                pass
            with lock.hold(threading.Event()):
                pass

    with ThreadPoolExecutor(1) as worker, pytest.raises(EngineBusyError):
        if pooled:
            worker.submit(ask_within).result(10)
        else:
            ask_within()
    with lock.hold(threading.Event()) as held:
        assert held


def test_ids_and_units_that_are_none(engine) -> None:
    params = SamplingParams(max_tokens=3)
    with pytest.raises(SamplingError, match="whole numbers"):
        engine.generate([1.5, 2], params)
    with pytest.raises(ConfigError, match="units must ascend"):
        engine.generate([1, 2, 3], params, marks=Marks(units=(2, 0)))


def test_fair_lock_serves_in_order_and_lets_waiters_leave() -> None:
    lock, served = FairLock(), []
    gone = threading.Event()

    def wait(name: str, cancel: threading.Event) -> None:
        with lock.hold(cancel) as held:
            served.append((name, held))

    with lock.hold(threading.Event()) as held:
        assert held
        threads = []
        for name in ("first", "leaves", "last"):
            cancel = gone if name == "leaves" else threading.Event()
            threads.append(threading.Thread(target=wait, args=(name, cancel)))
            threads[-1].start()
            time.sleep(0.05)
        gone.set()
        threads[1].join(timeout=2)
        assert served == [("leaves", False)]
    for thread in threads:
        thread.join(timeout=2)
    assert served == [("leaves", False), ("first", True), ("last", True)]
