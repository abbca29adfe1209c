import shutil
import threading
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from tokenprune.errors import ModelError
from tokenprune.models.catalog import model_path
from tokenprune.models.causal_lm import load_causal_lm
from tokenprune.models.encoder import Encoder
from tokenprune.models.labeler import Labeler

pytestmark = pytest.mark.models

TEXTS = [
    "The json module exposes an API familiar to users of pickle.",
    "",
    "Encoding basic Python object hierarchies.",
    "word " * 400,
    "短い文です。",
    "Compact encoding: pass separators to remove whitespace.",
    "The json module exposes an API familiar to users of pickle.",
    *(f"Sentence number {i} speaks about topic {i % 7} " + "and more " * i for i in range(23)),
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load("minilm-l6", dtype="float32")


@pytest.fixture(scope="module")
def embedded() -> Callable[[str], np.ndarray]:
    """The texts, embedded together in a number format."""
    return cache(lambda dtype: Encoder.load("minilm-l6", dtype=dtype).encode(TEXTS))


def test_equals_sentence_transformers(encoder, embedded) -> None:
    """Reference: sentence-transformers' own encode in float32; cosine within 1e-5."""
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(model_path("minilm-l6")), device="cpu").encode(
        TEXTS, normalize_embeddings=True, batch_size=8
    )
    ours = embedded("float32")
    assert ours.dtype == np.float32
    assert ours.shape == (len(TEXTS), encoder.dimension) == (len(TEXTS), 384)
    assert (ours * reference).sum(1).min() > 1 - 1e-5
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_batching_does_not_matter(embedded, dtype, tolerance) -> None:
    encoder = Encoder.load("minilm-l6", dtype=dtype)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert (embedded(dtype) * alone).sum(1).min() > 1 - tolerance
    np.testing.assert_array_equal(embedded(dtype), encoder.encode(TEXTS))


def test_bfloat16_is_close_to_float32(embedded) -> None:
    assert (embedded("bfloat16") * embedded("float32")).sum(1).min() > 0.999


def test_meaning(encoder) -> None:
    query, *rest = encoder.encode(
        ["How do I parse JSON?", "Read JSON text into objects.", "Cats sleep a lot."]
    )
    assert query @ rest[0] > query @ rest[1] + 0.3


def test_empty_and_edges(encoder) -> None:
    assert encoder.encode([]).shape == (0, 384)
    assert encoder.max_seq_length == 256
    long = encoder.encode(["word " * 50, "word " * 300], max_length=12)
    np.testing.assert_allclose(long[0], long[1], atol=1e-6)
    with pytest.raises(ModelError, match="max_length"):
        encoder.encode(["x"], max_length=2)
    with pytest.raises(ModelError, match="no prompt 'nope'"):
        encoder.encode(["x"], prompt="nope")


def test_windows(encoder) -> None:
    """What fits is embedded as before, and a first window as the beginning is."""
    fits = [text for text in TEXTS if len(text) < 200]
    vectors, first = encoder.encode_windows(fits, [""] * len(fits))
    np.testing.assert_array_equal(vectors, encoder.encode(fits))
    assert first.tolist() == list(range(len(fits)))
    texts = [" ".join(f"w{i}" for i in range(n)) for n in (40, 3, 60)]
    vectors, first = encoder.encode_windows(texts, ["w0 w1", "", None], max_length=22)
    assert first[0] == 0 and first[1] > 2 and len(vectors) == first[2] + 1
    np.testing.assert_allclose(vectors[first], encoder.encode(texts, max_length=22), atol=1e-6)
    assert encoder.encode_windows([], [])[0].shape == (0, 384)
    with pytest.raises(ModelError, match="max_length"):
        encoder.encode_windows(["x"], [""], max_length=2)


@pytest.mark.parametrize(("limit", "head"), [(3, ""), (4, "a b c d e"), (9, ""), (9, "a b"), (20, "a " * 40)])
def test_windows_cover_a_text(encoder, limit, head) -> None:
    for tokens in range(2, 60):
        windows = [list(w) for w in encoder._windows(tokens, head, limit)]
        assert set().union(*windows) == set(range(tokens))
        assert all(w == sorted(set(w)) and len(w) <= limit for w in windows)
        assert all(w[0] == 0 and w[-1] == tokens - 1 for w in windows)
        assert len(windows) == 1 or tokens > limit


def test_loaded_once_and_thread_safe(encoder) -> None:
    assert Encoder.load("minilm-l6", dtype="float32") is encoder
    expected = encoder.encode(TEXTS[:12])
    results: list[np.ndarray] = []

    def work(limit: int) -> None:
        results.append(encoder.encode(TEXTS[:12], max_length=limit))

    threads = [threading.Thread(target=work, args=(limit,)) for limit in (256, 16, 256, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same = [result for result in results if np.allclose(result, expected, atol=1e-6)]
    assert len(same) == 2


@pytest.mark.parametrize("mode", ["cls", "lasttoken", "mean"])
def test_pooling_comes_from_the_folder(tmp_path, mode) -> None:
    """A folder of random weights with each pooling: equal to sentence-transformers' own encode."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(str(model_path("minilm-l6")))
    base = tmp_path / "base"
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    transformer = Transformer(str(base))
    SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode=mode)], device="cpu").save(
        str(tmp_path / mode)
    )
    reference = SentenceTransformer(str(tmp_path / mode), device="cpu").encode(
        TEXTS[:10], normalize_embeddings=True
    )
    ours = Encoder.load(str(tmp_path / mode), dtype="float32").encode(TEXTS[:10], max_length=512)
    np.testing.assert_allclose(ours, reference, atol=1e-5)


def test_folder_without_a_model(tmp_path) -> None:
    with pytest.raises(ModelError, match="sentence-embedding model"):
        Encoder.load(str(tmp_path))


def test_damaged_weights(tmp_path) -> None:
    """Of every kind of model: one error that says what to do."""
    loads = {"minilm-l6": Encoder.load, "smollm2-135m": load_causal_lm, "provence-mini": Labeler.load}
    for name, load in loads.items():
        folder = tmp_path / name
        shutil.copytree(model_path(name), folder)
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(100_000)
        with pytest.raises(ModelError, match=r"weights of .* are damaged: .*fetch or copy it again"):
            load(str(folder))
