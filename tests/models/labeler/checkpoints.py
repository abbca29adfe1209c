"""Tiny random checkpoints with the architecture, weight names and config keys of the published labelers."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import nn

CORPUS = [
    "The Eiffel Tower is a lattice tower in Paris. It was finished in 1889 and is repainted every seven years.",
    "When was the tower finished? What is a lattice? Where does the needle lie in the haystack of words?",
    "def read(path):\n    with open(path) as file:\n        return file.read()\n",
    "埃菲尔铁塔位于巴黎。它于1889年完工。日本語の文です。",
]

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@dataclass
class Tiny:
    """A checkpoint folder and what an independent forward needs."""

    folder: Path
    tokenizer: Tokenizer
    config: object  # of the backbone
    cls: int
    sep: int

    @property
    def weights(self):
        return load_file(self.folder / "model.safetensors")

    def sub(self, prefix):
        """The weights below a prefix, without it."""
        return {k[len(prefix) :]: v for k, v in self.weights.items() if k.startswith(prefix)}

    def resave(self, weights=None, config=None, folder=None):
        folder = folder or self.folder
        if weights is not None:
            save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def read_config(self):
        return json.loads((self.folder / "config.json").read_text())


def unigram(specials):
    """As DeBERTa-v3's and XLM-RoBERTa's: SentencePiece pieces with the space in front."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    unk = next(s for s in specials if "unk" in s.lower())
    trainer = trainers.UnigramTrainer(vocab_size=220, special_tokens=specials, unk_token=unk)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_bpe(specials):
    """As ModernBERT's: byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def wordpiece(specials):
    """As BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=specials)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def template(tokenizer, single, pair):
    names = {t for t in (single + " " + pair).replace(":0", "").replace(":1", "").split() if t[0] != "$"}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(n, tokenizer.token_to_id(n)) for n in sorted(names)]
    )


def save(folder, tokenizer, config, weights, roles, tokenizer_class="PreTrainedTokenizerFast"):
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class, **roles}))
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous().clone() for k, v in weights.items()}, folder / "model.safetensors")


def spread(module):
    """Weights large enough that outputs differ from token to token."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" not in name.lower():
                parameter.normal_(0, 0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def linear(weights, name, out, size):
    layer = nn.Linear(size, out)
    spread(layer)
    weights[f"{name}.weight"], weights[f"{name}.bias"] = layer.weight.detach(), layer.bias.detach()


def drop(config, *keys):
    return {k: v for k, v in config.items() if k not in keys}


def build_provence(folder, positions=512):
    """naver/provence-reranker-debertav3-v1: the keys of DeBERTa-v3's config under model_type Provence."""
    from transformers import DebertaV2Config, DebertaV2Model

    torch.manual_seed(1)
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer = unigram(specials)
    template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    fields = {
        **SIZES,
        "vocab_size": tokenizer.get_vocab_size(), "type_vocab_size": 0, "max_position_embeddings": positions,
        "relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm",
        "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
        "layer_norm_eps": 1e-7, "max_relative_positions": -1, "pad_token_id": 0, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    }  # fmt: skip
    config = DebertaV2Config(**fields)
    backbone = DebertaV2Model(config)
    spread(backbone)
    weights = {f"deberta.{k}": v for k, v in backbone.state_dict().items() if "position_ids" not in k}
    # A buffer that releases of transformers before 4.31 saved.
    weights["deberta.embeddings.position_ids"] = torch.arange(positions)[None]
    linear(weights, "pooler.dense", 32, 32)
    linear(weights, "classifier", 1, 32)
    linear(weights, "token_classifier", 2, 32)
    published = {
        **fields, "model_type": "Provence", "architectures": ["Provence"], "pooler_dropout": 0,
        "pooler_hidden_act": "gelu", "pooler_hidden_size": 32, "torch_dtype": "float32",
        "auto_map": {"AutoConfig": "modeling_provence.ProvenceConfig", "AutoModel": "modeling_provence.Provence"},
        "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "legacy": True, "transformers_version": "4.44.2",
    }  # fmt: skip
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    save(folder, tokenizer, published, weights, roles)
    # Remote code would be run by a careless loader.
    (folder / "modeling_provence.py").write_text("raise SystemExit('remote code was run')\n")
    return Tiny(folder, tokenizer, config, tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]"))


def build_xprovence(folder):
    """naver/xprovence-reranker-bgem3: XLM-RoBERTa with a pooler."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(2)
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = unigram(specials)
    template(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
    fields = {
        **SIZES,
        "vocab_size": tokenizer.get_vocab_size(), "type_vocab_size": 1, "max_position_embeddings": 302,
        "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    config = XLMRobertaConfig(**fields)
    backbone = XLMRobertaModel(config)
    spread(backbone)
    weights = {f"roberta.{k}": v for k, v in backbone.state_dict().items()}
    linear(weights, "classifier", 1, 32)
    linear(weights, "token_classifier", 2, 32)
    published = {
        **fields, "model_type": "xlm-roberta", "architectures": ["XProvence"], "torch_dtype": "float32",
        "auto_map": {"AutoModel": "modeling_xprovence_hf.XProvence"}, "id2label": {"0": "LABEL_0"},
    }  # fmt: skip
    roles = {
        "cls_token": "<s>", "sep_token": "</s>", "bos_token": "<s>", "eos_token": "</s>",
        "pad_token": {"content": "<pad>", "lstrip": False}, "unk_token": "<unk>",
    }  # fmt: skip
    save(folder, tokenizer, published, weights, roles)
    return Tiny(folder, tokenizer, config, 0, 2)


def open_config(base, **fields):
    base = drop(base, "_name_or_path")
    return {
        "model_type": "open_provence", "architectures": ["OpenProvenceForSequenceClassification"],
        "auto_map": {"AutoModel": "modeling_open_provence_standalone.OpenProvenceForSequenceClassification"},
        "mode": "reranking_pruning", "base_model_name_or_path": "somebody/reranker", "base_model_config": base,
        "pruning_config": {
            "model_type": "open_provence_head", "hidden_size": base["hidden_size"], "num_labels": 2,
            "classifier_dropout": 0.1, "sentence_pooling": "mean", "use_weighted_pooling": False,
        },
        "max_length": 128, "num_labels": 1, "num_pruning_labels": 2, "encoder_architecture": base["model_type"],
        "tokenizer_name_or_path": None, **fields,
    }  # fmt: skip


def open_weights(config):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_config(config)
    spread(model)
    weights = {f"ranking_model.{k}": v for k, v in model.state_dict().items()}
    linear(weights, "pruning_head.classifier", 2, config.hidden_size)
    return weights


def build_open_modernbert(folder, pooling="cls"):
    """hotchpotch/open-provence-reranker-*: ModernBERT, its config as transformers 4 wrote it."""
    from transformers import ModernBertConfig

    torch.manual_seed(3)
    tokenizer = byte_bpe(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    ids = {name: tokenizer.token_to_id(f"[{name}]") for name in ("CLS", "SEP", "PAD")}
    base = {
        "model_type": "modernbert", "architectures": ["ModernBertForSequenceClassification"],
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
        "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 512, "local_attention": 16,
        "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
        "classifier_pooling": pooling, "norm_eps": 1e-5, "norm_bias": False, "reference_compile": False,
        "pad_token_id": ids["PAD"], "cls_token_id": ids["CLS"], "sep_token_id": ids["SEP"],
        "bos_token_id": ids["CLS"], "eos_token_id": ids["SEP"], "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0}, "deterministic_flash_attn": False, "layer_norm_eps": 1e-5,
    }  # fmt: skip
    config = ModernBertConfig(
        **{k: v for k, v in base.items() if k not in ("model_type", "architectures", "id2label", "label2id")},
        num_labels=1,
    )
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    published = open_config(base, default_threadshold=0.05)
    save(folder, tokenizer, published, open_weights(config), roles)
    return Tiny(folder, tokenizer, config, ids["CLS"], ids["SEP"])


def build_open_bert(folder):
    """OpenProvence on a backbone that reads segment numbers."""
    from transformers import BertConfig

    torch.manual_seed(4)
    tokenizer = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    config = BertConfig(
        **SIZES,
        vocab_size=tokenizer.get_vocab_size(),
        num_labels=1,
    )
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    save(folder, tokenizer, open_config(config.to_dict()), open_weights(config), roles)
    return Tiny(folder, tokenizer, config, tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]"))


def build_open_xlmr(folder):
    """OpenProvence on a backbone whose pairs have two separators."""
    from transformers import XLMRobertaConfig

    torch.manual_seed(5)
    tokenizer = unigram(["<s>", "<pad>", "</s>", "<unk>"])
    template(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
    config = XLMRobertaConfig(
        **SIZES,
        vocab_size=tokenizer.get_vocab_size(),
        type_vocab_size=1,
        max_position_embeddings=302,
        num_labels=1,
        pad_token_id=1,
    )
    roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    save(folder, tokenizer, open_config(config.to_dict()), open_weights(config), roles)
    return Tiny(folder, tokenizer, config, 0, 2)


BUILDERS = {
    "provence": build_provence,
    "xprovence": build_xprovence,
    "open-modernbert": build_open_modernbert,
    "open-bert": build_open_bert,
    "open-xlmr": build_open_xlmr,
}
