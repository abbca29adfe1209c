"""Unpack a llama-architecture GGUF file into a Hugging Face folder with bfloat16 safetensors.

Written against the file format instead of going through a loader, because the tokenizer must be exact: the
digit splitting that the ``smollm`` pre-tokenizer prescribes is lost by general GGUF tokenizer conversions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.models.progress import SILENT, Reporter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CONTROL_TOKEN = 3
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(source: Path, out: Path, report: Reporter = SILENT) -> None:
    """Write the model in ``source`` to the existing folder ``out``.

    Raises:
        MissingExtraError: torch, gguf or safetensors is not installed.
        ModelError: Not a llama-architecture file with the ``smollm`` tokenizer, or a damaged one.
    """
    try:
        import gguf
        import safetensors.torch
        import torch
    except ImportError as error:
        raise MissingExtraError("converting a GGUF model", "models", error.name or "gguf") from error

    report.stage("reading", None)
    try:
        reader = gguf.GGUFReader(source)
    except (ValueError, IndexError) as error:
        raise ModelError(f"{source.name} is not a readable GGUF file: {error}") from error

    def field(name: str) -> Any:
        value = reader.get_field(name)
        if value is None:
            raise ModelError(f"{source.name} has no field {name!r}")
        return value.contents()

    if field("general.architecture") != "llama" or field("tokenizer.ggml.pre") != "smollm":
        raise ModelError(f"{source.name} is not a llama model with the smollm tokenizer; cannot convert it")

    config = _config(field)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    report.stage("converting", len(reader.tensors))
    tensors: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        name = _TOP_NAMES.get(tensor.name)
        if name is None:
            match = _BLOCK.fullmatch(tensor.name)
            if match is None or match[2] not in _BLOCK_NAMES:
                raise ModelError(f"{source.name} has an unexpected tensor {tensor.name!r}")
            name = f"model.layers.{match[1]}.{_BLOCK_NAMES[match[2]]}.weight"
            if match[2] in heads:
                values = _unpermute(values, heads[match[2]])
        tensors[name] = torch.tensor(values, dtype=torch.bfloat16)
        report.advance(1)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors

    report.stage("writing", None)
    weights = out / "model.safetensors"
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
    # safetensors writes owner-only files; a shared cache or a container user must be able to read them.
    weights.chmod(0o644)
    _write_json(out / "config.json", config)
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(out / "generation_config.json", special)
    _write_tokenizer(field, config, out)


def _unpermute(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo GGUF's pairing of rotary dimensions in a weight [heads * d, hidden]: pairs back to halves."""
    rows, hidden = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, hidden).swapaxes(1, 2).reshape(rows, hidden)


def _config(field: Callable[[str], Any]) -> dict[str, Any]:
    heads = int(field("llama.attention.head_count"))
    hidden = int(field("llama.embedding_length"))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": int(field("tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(field("tokenizer.ggml.eos_token_id")),
        "pad_token_id": int(field("tokenizer.ggml.padding_token_id")),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": int(field("llama.feed_forward_length")),
        "max_position_embeddings": int(field("llama.context_length")),
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": int(field("llama.block_count")),
        "num_key_value_heads": int(field("llama.attention.head_count_kv")),
        # The file stores a float32 of 1e-5; the shortest decimal that rounds to it is the value that was
        # meant.
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(field("llama.rope.freq_base")),
        "dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": int(field("llama.vocab_size")),
    }


def _write_tokenizer(field: Callable[[str], Any], config: dict[str, Any], out: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = field("tokenizer.ggml.token_type")
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[config["bos_token_id"]],
        "eos_token": tokens[config["eos_token_id"]],
        "pad_token": tokens[config["pad_token_id"]],
        "unk_token": tokens[int(field("tokenizer.ggml.unknown_token_id"))],
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": field("tokenizer.chat_template"),
    }
    _write_json(out / "tokenizer_config.json", settings)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
