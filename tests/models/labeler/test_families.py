"""Each family against a plain forward written here: transformers' base classes and the two heads by hand."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, linear

from tokenprune.errors import ModelError
from tokenprune.models.labeler import DEFAULT_THRESHOLD, Labeler, Passage

QUERY = "When was the Tower finished?"
TEXTS = [
    "The Eiffel Tower is a lattice tower in Paris. It was finished in 1889.",
    "Paris",
    "def read(path):\n    return open(path)",
    "埃菲尔铁塔位于巴黎。它于1889年完工。",
    "It is repainted every seven years, and words lie in the haystack. " * 2,
]
FAMILIES = ["provence", "xprovence", "open-modernbert", "open-bert", "open-xlmr"]


def load(tiny, **options):
    return Labeler.load(str(tiny.folder), device="cpu", **{"dtype": "float32", **options})


def encode(tiny, text):
    return tiny.tokenizer.encode(text, add_special_tokens=False)


def reference(family, tiny, query, text):
    """Rank logit and keep probabilities of one pair, no padding, no batching: ids by hand, heads by hand."""
    context = encode(tiny, text)
    if family == "provence":
        asked = encode(tiny, "".join(c for c in query.lower() if c.isalnum() or c == " ")).ids
    else:
        asked = encode(tiny, query).ids
    middle = [tiny.sep, tiny.sep] if family == "open-xlmr" else [tiny.sep]
    ids = [tiny.cls, *asked, *middle, *context.ids, tiny.sep]
    begin = 1 + len(asked) + len(middle)
    row = torch.tensor([ids])
    mask = torch.ones_like(row)
    weights = tiny.weights
    with torch.no_grad():
        rank, last = FORWARD[family](tiny, weights, row, mask, begin)
        head = "token_classifier" if "token_classifier.weight" in weights else "pruning_head.classifier"
        logits = linear(last, weights[f"{head}.weight"], weights[f"{head}.bias"])
        keep = (logits[..., 1] - logits[..., 0]).sigmoid()[0, begin : begin + len(context.ids)]
    return float(rank), keep.numpy(), context.offsets


def filled(module, weights):
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert not missing
    assert all("position_ids" in k for k in unexpected)
    return module.eval()


def forward_provence(tiny, weights, row, mask, begin):
    from transformers import DebertaV2Model

    last = filled(DebertaV2Model(tiny.config), tiny.sub("deberta."))(row, attention_mask=mask)[0]
    pooled = gelu(linear(last[:, 0], weights["pooler.dense.weight"], weights["pooler.dense.bias"]))
    return linear(pooled, weights["classifier.weight"], weights["classifier.bias"])[0, 0], last


def forward_xprovence(tiny, weights, row, mask, begin):
    from transformers import XLMRobertaModel

    last = filled(XLMRobertaModel(tiny.config), tiny.sub("roberta."))(row, attention_mask=mask)[0]
    dense = (weights["roberta.pooler.dense.weight"], weights["roberta.pooler.dense.bias"])
    pooled = linear(last[:, 0], *dense).tanh()
    return linear(pooled, weights["classifier.weight"], weights["classifier.bias"])[0, 0], last


def forward_modernbert(tiny, weights, row, mask, begin):
    """Layer by layer, so that the state before the final norm is in our hands."""
    from transformers import ModernBertModel
    from transformers.models.modernbert.modeling_modernbert import ModernBertPredictionHead

    model = filled(ModernBertModel(tiny.config), tiny.sub("ranking_model.model."))
    before = []
    norm = model.final_norm
    model.final_norm = torch.nn.Identity()
    state = model(row, attention_mask=mask).last_hidden_state
    before.append(state)
    last = norm(state)
    head = filled(ModernBertPredictionHead(tiny.config), tiny.sub("ranking_model.head."))
    pooled = last[:, 0] if tiny.config.classifier_pooling == "cls" else last.mean(dim=1)
    classifier = (weights["ranking_model.classifier.weight"], weights["ranking_model.classifier.bias"])
    return linear(head(pooled), *classifier)[0, 0], before[0]


def forward_open_bert(tiny, weights, row, mask, begin):
    from transformers import BertModel

    types = torch.zeros_like(row)
    types[:, begin:] = 1
    model = filled(BertModel(tiny.config), tiny.sub("ranking_model.bert."))
    out = model(row, attention_mask=mask, token_type_ids=types)
    classifier = (weights["ranking_model.classifier.weight"], weights["ranking_model.classifier.bias"])
    return linear(out.pooler_output, *classifier)[0, 0], out.last_hidden_state


def forward_open_xlmr(tiny, weights, row, mask, begin):
    from transformers import XLMRobertaModel

    model = filled(XLMRobertaModel(tiny.config, add_pooling_layer=False), tiny.sub("ranking_model.roberta."))
    last = model(row, attention_mask=mask).last_hidden_state
    part = tiny.sub("ranking_model.classifier.")
    hidden = linear(last[:, 0], part["dense.weight"], part["dense.bias"]).tanh()
    return linear(hidden, part["out_proj.weight"], part["out_proj.bias"])[0, 0], last


FORWARD = {
    "provence": forward_provence,
    "xprovence": forward_xprovence,
    "open-modernbert": forward_modernbert,
    "open-bert": forward_open_bert,
    "open-xlmr": forward_open_xlmr,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_plain_forward(family, tiny):
    """Batched, padded and in float32 it says what the plain forward says of each pair, within 1e-5."""
    checkpoint = tiny(family)
    found = load(checkpoint).label(QUERY, [Passage(text) for text in TEXTS])
    for text, labels in zip(TEXTS, found, strict=True):
        rank, keep, offsets = reference(family, checkpoint, QUERY, text)
        assert labels.rank == pytest.approx(rank, abs=1e-5)
        np.testing.assert_allclose(labels.keep, keep, atol=1e-5, rtol=0)
        assert (labels.keep.dtype, labels.start.dtype) == (np.float32, np.int64)
        assert list(zip(labels.start.tolist(), labels.end.tolist(), strict=True)) == offsets
    assert np.ptp([labels.rank for labels in found]) > 0.01, "the test would see nothing"
    assert np.ptp(np.concatenate([labels.keep for labels in found])) > 0.05, "the test would see nothing"


def test_mean_pooling_of_modernbert(tiny):
    checkpoint = tiny("open-modernbert", pooling="mean")
    labels = load(checkpoint).label(QUERY, [Passage(TEXTS[0])])[0]
    assert labels.rank == pytest.approx(
        reference("open-modernbert", checkpoint, QUERY, TEXTS[0])[0], abs=1e-5
    )


def test_the_norm_makes_a_difference(tiny):
    """With the state behind the final norm the probabilities would be others: the test above can fail."""
    checkpoint = tiny("open-modernbert")
    labels = load(checkpoint).label(QUERY, [Passage(TEXTS[0])])[0]
    labeler = load(checkpoint)
    module = labeler.network.module
    ids = labeler.text.read([TEXTS[0]])[0].ids
    batch = labeler._batch(
        labeler.text.read([QUERY])[0].ids,
        [(np.empty(0, dtype=np.int64), ids, np.zeros(len(ids), dtype=np.int64))],
    )
    with torch.no_grad():
        out = module.ranking_model(torch.from_numpy(batch.ids), output_hidden_states=True)
        after = module.pruning_head.classifier(out.hidden_states[-1]).softmax(-1)[0, :, 1]
    begin, end = batch.passage[0].tolist()
    assert np.abs(after[begin:end].numpy() - labels.keep).max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_batching_does_not_matter(family, tiny):
    labeler = load(tiny(family))
    passages = [Passage(text, title=None if n % 2 else "A title") for n, text in enumerate(TEXTS * 5)]
    together = labeler.label(QUERY, passages)
    for passage, labels in zip(passages, together, strict=True):
        alone = labeler.label(QUERY, [passage])[0]
        assert labels.rank == pytest.approx(alone.rank, abs=1e-5)
        np.testing.assert_allclose(labels.keep, alone.keep, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_close(family, tiny):
    exact, half = (
        load(tiny(family), dtype=d).label(QUERY, [Passage(TEXTS[0])])[0] for d in ("float32", "bfloat16")
    )
    assert half.keep.dtype == np.float32
    np.testing.assert_allclose(exact.keep, half.keep, atol=0.1)


def test_defaults_of_the_families(tiny):
    assert load(tiny("provence")).default_threshold == DEFAULT_THRESHOLD == 0.1
    assert load(tiny("xprovence")).default_threshold == 0.3
    assert load(tiny("open-modernbert")).default_threshold == 0.05
    assert load(tiny("open-bert")).default_threshold == 0.1
    lengths = {f: load(tiny(f)).max_length for f in FAMILIES}
    assert lengths == {
        "provence": 512,
        "xprovence": 300,
        "open-modernbert": 128,
        "open-bert": 128,
        "open-xlmr": 128,
    }
    assert load(tiny("provence")).name == str(tiny("provence").folder)
    assert load(tiny("provence")) is load(tiny("provence"))


def test_no_window_beyond_the_positions(tiny):
    for family, most in (("open-bert", 512), ("open-xlmr", 300), ("open-modernbert", 512)):
        checkpoint = tiny(family, fresh=True)
        checkpoint.resave(config={**checkpoint.read_config(), "max_length": 8192})
        labeler = load(checkpoint)
        assert labeler.max_length == most
        assert np.isfinite(labeler.label(QUERY, [Passage("the tower " * 400)])[0].keep).all()


def test_title_is_read_before_the_passage(tiny):
    """OpenProvence reads a title as a line before the passage; the labels are those of the passage alone."""
    checkpoint = tiny("open-modernbert")
    title, text = "Tower", TEXTS[0]
    labels = load(checkpoint).label(QUERY, [Passage(text, title=f" {title} ")])[0]
    rank, keep, _ = reference("open-modernbert", checkpoint, QUERY, f"{title}\n{text}")
    assert labels.rank == pytest.approx(rank, abs=1e-5)
    np.testing.assert_allclose(labels.keep, keep[-len(labels.keep) :], atol=1e-5)
    assert len(labels.keep) == len(encode(checkpoint, text))


def test_legacy_names_and_shards(tiny):
    """The reranker's weights without a prefix, split over two files."""
    checkpoint = tiny("open-modernbert", fresh=True)
    expected = load(tiny("open-modernbert")).label(QUERY, [Passage(TEXTS[0])])[0]
    old = {k.removeprefix("ranking_model."): v for k, v in checkpoint.weights.items()}
    names = sorted(old)
    from safetensors.torch import save_file

    (checkpoint.folder / "model.safetensors").unlink()
    half = len(names) // 2
    parts = {
        "model-00001-of-00002.safetensors": names[:half],
        "model-00002-of-00002.safetensors": names[half:],
    }
    for file, keys in parts.items():
        save_file({k: old[k] for k in keys}, checkpoint.folder / file)
    index = {"metadata": {}, "weight_map": {k: file for file, keys in parts.items() for k in keys}}
    (checkpoint.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    labels = load(checkpoint).label(QUERY, [Passage(TEXTS[0])])[0]
    np.testing.assert_allclose(labels.keep, expected.keep, atol=1e-6)
    index["weight_map"][names[0]] = "../model.safetensors"
    (checkpoint.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="outside its folder"):
        load(checkpoint, dtype="bfloat16")


def test_a_frame_for_tokenizers_that_add_nothing(tiny):
    """Without a post-processor the special tokens are set as OpenProvence sets them."""
    checkpoint = tiny("open-modernbert", fresh=True)
    file = checkpoint.folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": False,
        "use_regex": True,
    }
    file.write_text(json.dumps(content))
    labels = load(checkpoint).label(QUERY, [Passage(TEXTS[0])])[0]
    expected = load(tiny("open-modernbert")).label(QUERY, [Passage(TEXTS[0])])[0]
    np.testing.assert_allclose(labels.keep, expected.keep, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_do_not_fit(family, tiny):
    for change, message in (
        (
            lambda w: w.pop(
                next(k for k in w if "token_classifier.bias" in k or "pruning_head.classifier.bias" in k)
            ),
            "missing",
        ),
        (lambda w: w.update(extra=torch.zeros(1)), r"unexpected (ranking_model\.)?extra"),
        (
            lambda w: w.update(
                {
                    next(
                        k for k in w if "embed" in k and k.endswith("weight") and w[k].ndim == 2
                    ): torch.zeros(3, 3)
                }
            ),
            r"of another shape: .* is \[3, 3\], not",
        ),
    ):
        checkpoint = tiny(family, fresh=True)
        weights = checkpoint.weights
        change(weights)
        checkpoint.resave(weights)
        with pytest.raises(ModelError, match=message) as caught:
            load(checkpoint)
        assert str(checkpoint.folder) in str(caught.value)


def test_pickled_weights_are_refused(tiny):
    checkpoint = tiny("provence", fresh=True)
    (checkpoint.folder / "model.safetensors").unlink()

    class Boom:
        def __reduce__(self):
            return (exec, ("raise SystemExit('a pickle was opened')",))

    (checkpoint.folder / "pytorch_model.bin").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\)"):
        load(checkpoint)
    (checkpoint.folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        load(checkpoint)
    (checkpoint.folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="cannot read"):
        load(checkpoint)


def test_other_folders_are_refused(tiny, tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        Labeler.load(str(tmp_path))
    for config, message in (
        ('{"model_type": "bert"}', "not a sentence labeler.*'bert'.*known families"),
        ("[]", "config.json of .* holds no object"),
        ("{", "config.json of .* cannot be read"),
        ('{"model_type": "open_provence"}', "no base_model_config"),
        (
            '{"model_type": "open_provence", "base_model_config": {"model_type": "nope"}}',
            "unknown type 'nope'",
        ),
        (
            '{"model_type": "open_provence", "max_length": 8, "base_model_config": {"model_type": "bert", "hidden_size": "x"}}',
            "bert|model",
        ),
    ):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ModelError, match=message):
            Labeler.load(str(tmp_path))
    with pytest.raises(ModelError, match="cannot get 'somebody/nothing' from the hub"):
        Labeler.load("somebody/nothing")
    checkpoint = tiny("open-bert", fresh=True)
    config = checkpoint.read_config()
    checkpoint.resave(config={**config, "default_threadshold": "much"})
    with pytest.raises(ModelError, match=r"default_threadshold .* is not a number"):
        load(checkpoint)
    checkpoint.resave(config={**config, "max_length": 8})
    with pytest.raises(ModelError, match=r"window .* is 8 tokens"):
        load(checkpoint)
    (checkpoint.folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot read the tokenizer"):
        load(checkpoint)


def test_missing_files_are_named_once(tiny):
    checkpoint = tiny("provence", fresh=True)
    load(checkpoint)
    name = str(checkpoint.folder)
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        (checkpoint.folder / file).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"no special_tokens_map\.json and no tokenizer_config\.json"):
        load(checkpoint)  # not what was loaded before
    (checkpoint.folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors: copy the whole") as caught:
        Labeler.load(name, device="cpu", dtype="float32")
    assert str(caught.value).count(name) == 1


def test_a_hub_name_in_the_cache(tiny, tmp_path, monkeypatch):
    """A hub id that is downloaded already is found in transformers' own cache, without a network."""
    checkpoint = tiny("open-modernbert")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    root = tmp_path / "models--somebody--tiny"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("a" * 40)
    shutil.copytree(checkpoint.folder, root / "snapshots" / ("a" * 40))
    labels = Labeler.load("somebody/tiny", device="cpu", dtype="float32").label(QUERY, [Passage(TEXTS[0])])[0]
    np.testing.assert_allclose(
        labels.keep, load(checkpoint).label(QUERY, [Passage(TEXTS[0])])[0].keep, atol=1e-6
    )


def test_special_tokens_in_a_text_are_text(tiny):
    """A passage that writes a separator out cannot pretend to be two."""
    for family, word in (("provence", "[SEP]"), ("xprovence", "</s>"), ("open-modernbert", "[CLS]")):
        labeler = load(tiny(family))
        ids = labeler.text.read([f"tower {word} Paris"])[0].ids
        assert not {labeler.frame.before[0], labeler.frame.after[0]} & set(ids.tolist())
        assert len(ids) == len(labeler.text.tokenizer.encode(f"tower {word} Paris", add_special_tokens=False))


def test_a_folder_with_a_sentencepiece_model_only(tiny):
    """DeBERTa-v3 folders often have no tokenizer.json: transformers makes a fast tokenizer of spm.model."""
    sentencepiece = pytest.importorskip("sentencepiece")
    checkpoint = tiny("provence", fresh=True)
    (checkpoint.folder / "tokenizer.json").unlink()
    pieces = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    with (checkpoint.folder / "spm.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 20), model_writer=file, vocab_size=90, hard_vocab_limit=False,
            pad_id=0, bos_id=1, eos_id=2, unk_id=3, minloglevel=2, **pieces,
        )  # fmt: skip
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    config = {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False, **roles}
    (checkpoint.folder / "tokenizer_config.json").write_text(json.dumps(config))
    labels = load(checkpoint).label(QUERY, [Passage(TEXTS[0])])[0]
    assert np.isfinite(labels.keep).all()
    words = [TEXTS[0][a:b] for a, b in zip(labels.start.tolist(), labels.end.tolist(), strict=True)]
    assert "".join(words).replace(" ", "") == TEXTS[0].replace(" ", "")
    (checkpoint.folder / "spm.model").unlink()
    with pytest.raises(ModelError, match=r"neither tokenizer\.json nor one of spm\.model"):
        load(checkpoint, dtype="bfloat16")
