"""Our own family: the network, its packed weights, and what a batch tells it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprune.errors import ModelError
from tokenprune.models.labeler import Labeler, Passage, Read

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer, normalizers, pre_tokenizers  # noqa: E402
from tokenizers.models import WordPiece  # noqa: E402

from tokenprune.models.labeler.mini import pack, unpack, window  # noqa: E402
from tokenprune.models.labeler.mini_layer import MiniConfig  # noqa: E402
from tokenprune.models.labeler.mini_network import MiniNetwork  # noqa: E402
from tokenprune.models.labeler.mini_start import from_bert  # noqa: E402
from tokenprune.models.labeler.types import Batch  # noqa: E402

WORDS = "the capital of france is paris cats sleep a lot what does do they where and it rains . ?".split()
SIZES = {
    "vocab_size": 64,
    "hidden": 32,
    "layers": 3,
    "heads": 4,
    "ffn": 48,
    "positions": 80,
    "cross_from": 1,
    "sentence_width": 16,
}


def random_network(seed=0, **changes):
    torch.manual_seed(seed)
    net = MiniNetwork(MiniConfig(**{**SIZES, **changes}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.3)
        net.idf.uniform_(1, 9)
    return net.eval()


def tokenizer():
    vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(WORDS)])}
    made = Tokenizer(WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return made


def folder(path, net, **changes):
    path.mkdir(exist_ok=True)
    config = {"model_type": "tokenprune_mini", "max_length": 64, "default_threshold": 0.2}
    (path / "config.json").write_text(json.dumps({**config, **net.config.to_dict(), **changes}))
    tokenizer().save(str(path / "tokenizer.json"))
    roles = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep")}
    (path / "special_tokens_map.json").write_text(json.dumps(roles))
    save_file(pack(net.state_dict()), path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def labeler(tmp_path_factory):
    made = folder(tmp_path_factory.mktemp("mini") / "m", random_network())
    return Labeler.load(str(made), device="cpu", dtype="float32")


SENTENCES = ["The capital of France is Paris. ", "Cats sleep a lot. ", "It rains and rains. "]


def passage(sentences):
    starts = np.cumsum([len(s) for s in sentences])[:-1]
    return Passage("".join(sentences), None, tuple(starts.tolist()))


def test_loads_as_it_was_saved(labeler):
    assert labeler.max_length == 64
    assert labeler.default_threshold == 0.2
    found = labeler.label("what is the capital of france", [passage(SENTENCES)])[0]
    assert len(found.keep) == len(found.start) == 17
    assert np.isfinite(found.rank) and ((found.keep > 0) & (found.keep < 1)).all()


def test_batched_is_one_by_one(labeler):
    passages = [passage(SENTENCES[:n]) for n in (1, 2, 3)] + [Passage("cats")]
    together = labeler.label("do cats sleep", passages)
    for one, alone in zip(together, (labeler.label("do cats sleep", [p])[0] for p in passages), strict=True):
        assert np.allclose(one.keep, alone.keep, atol=1e-5)
        assert one.rank == pytest.approx(alone.rank, abs=1e-4)


@pytest.mark.parametrize("text", ["", " ", "日本語。", "cats " * 500, "x" * 10_000])
def test_odd_passages(labeler, text):
    found = labeler.label("cats?", [Passage(text)])[0]
    assert len(found.keep) == len(found.end)
    assert np.isfinite(found.keep).all()
    assert np.isnan(found.rank) == (not len(found.keep))


def test_predictions_do_not_depend_on_the_default_dtype(labeler):
    """While transformers loads a model, it is another one in all threads."""
    passages = [passage(SENTENCES), passage(SENTENCES[:2])]
    expected = labeler.label("do cats sleep", passages)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = labeler.label("do cats sleep", passages)
    finally:
        torch.set_default_dtype(before)
    for one, other in zip(found, expected, strict=True):
        assert one.rank == other.rank and one.keep.tolist() == other.keep.tolist()


def test_an_empty_question_is_read(labeler):
    assert np.isfinite(labeler.label("", [passage(SENTENCES)])[0].keep).all()


class Recorder:
    def __init__(self):
        self.batches = []

    def run(self, batch):
        self.batches.append(batch)
        none = np.zeros(len(batch.ids), np.float32)
        return Read(none, none, np.zeros(batch.ids.shape, np.float32))


def test_a_batch_tells_sentences_and_parts(labeler):
    recorder = Recorder()
    copy = Labeler("r", labeler.text, labeler.frame, recorder, labeler.max_length)
    copy.label("do cats sleep", [Passage(passage(SENTENCES).text, "Paris", passage(SENTENCES).breaks)])
    batch = recorder.batches[0]
    assert batch.sentence[0].tolist() == [-1] * 7 + [0] * 7 + [1] * 5 + [2] * 5 + [-1]
    seen = window(batch, "cpu")
    assert seen.position[0].tolist() == [*range(5), *range(20)]
    assert seen.passage[0].tolist() == [False] * 5 + [True] * 20
    assert seen.sentences == 3


def test_every_window_counts_its_sentences_from_0(labeler):
    recorder = Recorder()
    copy = Labeler("r", labeler.text, labeler.frame, recorder, labeler.max_length)
    copy.label("do cats sleep", [passage(SENTENCES * 9)])
    rows = [row[row >= 0] for batch in recorder.batches for row in batch.sentence]
    assert len(rows) > 2
    for row in rows:
        assert row[0] == 0 and (np.diff(row) >= 0).all() and (np.diff(row) <= 1).all()


def raw_batch(query, sentences):
    ids = [2, *query, 3, 2, *[t for s in sentences for t in s], 3]
    n = len(query)
    sentence = [-1] * (n + 3) + [k for k, s in enumerate(sentences) for _ in s] + [-1]
    array = np.array([ids], dtype=np.int64)
    spans = np.array([[1, n + 1]]), np.array([[n + 3, len(ids) - 1]])
    return Batch(array, np.ones_like(array), np.zeros_like(array), *spans, np.array([sentence]))


def test_question_and_passage_meet_only_where_they_may():
    """With the bias at minus infinity neither's states depend on the other; with 0 they do."""
    one, other = (window(raw_batch(q, [[10, 11], [12]]), "cpu") for q in ([5, 6], [7, 8]))
    for start, apart in ((-1e4, True), (0.0, False)):
        net = random_network(cross_start=0.0)
        with torch.no_grad():
            net.cross.fill_(start)
        a, b = net.encode(one)[0], net.encode(other)[0]
        assert torch.allclose(a[:, 4:], b[:, 4:], atol=1e-6) == apart
        assert torch.equal(net.encode(one)[1][:, 4:], net.encode(other)[1][:, 4:])  # below the first crossing


def test_the_start_finds_the_sentence_that_says_it():
    net = from_bert_of(random_network())
    said = net(window(raw_batch([20, 21, 22], [[30, 31, 32], [20, 21, 22], [40, 41, 42]]), "cpu"))
    assert said.sentence[0].argmax() == 1


def from_bert_of(net):
    """A start from encoder weights in Hugging Face's names, made of a random network."""
    c, state = net.config, {}
    state["embeddings.word_embeddings.weight"] = net.words.weight
    state["embeddings.token_type_embeddings.weight"] = torch.zeros(2, c.hidden)
    state["embeddings.position_embeddings.weight"] = net.places.weight

    def put(name, module):
        state[f"{name}.weight"], state[f"{name}.bias"] = module.weight, module.bias

    put("embeddings.LayerNorm", net.norm)
    for i, layer in enumerate(net.layers):
        at = f"encoder.layer.{i}."
        for k, part in enumerate(("query", "key", "value")):
            rows = slice(k * c.hidden, (k + 1) * c.hidden)
            state[f"{at}attention.self.{part}.weight"] = layer.qkv.weight[rows]
            state[f"{at}attention.self.{part}.bias"] = layer.qkv.bias[rows]
        put(at + "attention.output.dense", layer.out)
        put(at + "attention.output.LayerNorm", layer.norm1)
        put(at + "intermediate.dense", layer.up)
        put(at + "output.dense", layer.down)
        put(at + "output.LayerNorm", layer.norm2)
    return from_bert(state, c).eval()


@pytest.mark.models
def test_the_start_is_the_bi_encoder():
    """Passage states before training are those of the encoder that read the passage alone."""
    from pathlib import Path

    from transformers import BertModel

    from tokenprune.models.catalog import model_path

    path = Path(model_path("minilm-l6"))
    net = from_bert(load_file(path / "model.safetensors"), MiniConfig(cross_start=-1e4)).eval()
    bert = BertModel.from_pretrained(path, dtype=torch.float32).eval()
    query, words = [2054, 2003, 1996, 3007], [[3000, 2003, 1996, 3007, 1997, 2605], [8870, 3637]]
    flat = [t for s in words for t in s]
    batch = raw_batch(query, words)
    batch.ids[batch.ids == 2], batch.ids[batch.ids == 3] = 101, 102
    with torch.inference_mode():
        mine = net.encode(window(batch, "cpu"))[0][0, len(query) + 2 :]
        plain = bert(torch.tensor([[101, *flat, 102]])).last_hidden_state[0]
    assert torch.allclose(mine, plain, atol=1e-4)


@given(st.integers(0, 2**31), st.integers(64, 90), st.integers(64, 90))
@settings(max_examples=25, deadline=None)
def test_packing_loses_half_a_step(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * torch.rand(rows, 1, generator=generator) * 9
    stored = pack({"w": weight, "b": weight[0]})
    back = unpack(stored)
    assert stored["w"].dtype == torch.int8
    assert torch.equal(back["b"], weight[0])
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((back["w"] - weight).abs() <= step / 2 + 1e-6).all()


def test_packed_answers_like_whole(tmp_path):
    net = random_network(hidden=64, ffn=128)
    packed = MiniNetwork(net.config).eval()
    packed.load_state_dict(unpack(pack(net.state_dict())))
    seen = window(raw_batch([5, 6, 7], [[10, 11], [12, 5, 6]]), "cpu")
    a, b = net(seen), packed(seen)
    assert torch.allclose(torch.sigmoid(a.token), torch.sigmoid(b.token), atol=0.05)


def test_a_wrong_config_is_one_clear_error(tmp_path):
    made = folder(tmp_path / "m", random_network(), hidden=48)
    with pytest.raises(ModelError, match="do not fit its config"):
        Labeler.load(str(made))
    made = folder(tmp_path / "n", random_network(), max_length=None)
    with pytest.raises(ModelError, match="does not describe a model"):
        Labeler.load(str(made))


def test_sizes_that_do_not_go_together_are_one_clear_error(tmp_path):
    for n, changes in enumerate(
        ({"max_length": 81}, {"heads": 5}, {"cross_from": 9}, {"sentence_width": 15})
    ):
        made = folder(tmp_path / str(n), random_network(), **changes)
        with pytest.raises(ModelError, match="does not describe a model"):
            Labeler.load(str(made))


def test_loading_leaves_the_random_numbers_of_others_alone(tmp_path):
    made = folder(tmp_path / "m", random_network())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Labeler.load(str(made))
    assert torch.equal(torch.rand(2), expected)


def test_loading_imports_little_beside_torch():
    """What takes seconds to import is needed by other families, or by torch when it draws numbers on "meta"."""
    import subprocess
    import sys

    code = (
        "import sys, torch\nfrom tokenprune.models.labeler import Labeler\nLabeler.load('provence-mini')\n"
        "print(sorted({'transformers', 'sympy', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_pickled_labeler_reads_special_tokens_as_text(labeler):
    import pickle

    text = "cats [SEP] sleep"
    again = pickle.loads(pickle.dumps(labeler.text))
    assert again.read([text])[0].ids.tolist() == labeler.text.read([text])[0].ids.tolist()


def test_a_lost_scale_is_said(tmp_path):
    made = folder(tmp_path / "m", random_network(hidden=64, ffn=128))
    stored = load_file(made / "model.safetensors")
    gone = next(k for k in stored if k.endswith(".scale"))
    save_file({k: v for k, v in stored.items() if k != gone}, made / "model.safetensors")
    with pytest.raises(ModelError, match="without its scale"):
        Labeler.load(str(made))
