"""llava-mini: its shapes, tokenizer, chat template and picture processor, and how it is stored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers import decoders as token_decoders
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.vision.words import VOCABULARY

SIDE = 224  # of a picture, pixels
PATCH = 16
GRID = SIDE // PATCH
PATCHES = GRID * GRID
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
VOCABULARY_SIZE = 128
# Zero mean and unit range: what CLIP's own statistics do for photographs, pictures of ours need not.
MEAN = STD = (0.5, 0.5, 0.5)
# Every message is "role: its words and pictures in order"; the answer ends with </s>.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ' ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}"
    "{% elif part['type'] in ('image', 'image_url', 'image_embeds') %}{{ '<image> ' }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
)


def config() -> LlavaConfig:
    """Return the shapes: a tower of 4 layers of 128, a model of 6 layers of 192, all heads of 32.

    The projector reads the last of the tower's layers, its class token left out.
    """
    vision = tower(width=128, layers=4)
    text = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=4096,
        initializer_range=192**-0.5,
        # With the usual 10,000 only a third of a head's 32 channels would tell words apart at any distance.
        rope_parameters={"rope_type": "default", "rope_theta": 1e7},
        tie_word_embeddings=True,
        pad_token_id=SPECIALS.index("<pad>"),
        bos_token_id=SPECIALS.index("<s>"),
        eos_token_id=SPECIALS.index("</s>"),
    )
    return joined(vision, text, SPECIALS.index("<image>"))


def tower(*, width: int, layers: int) -> CLIPVisionConfig:
    """Return the shapes of a vision tower with heads of 32."""
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        image_size=SIDE,
        patch_size=PATCH,
    )


def joined(vision: CLIPVisionConfig, text: LlamaConfig, image_token: int) -> LlavaConfig:
    """Put a tower before a language model: its last layer, without the class token."""
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
    )


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: one token a word, lower case; what is not in the vocabulary is <unk>."""
    words = [*SPECIALS, *VOCABULARY]
    # Ids that no word has can still be sampled by an untrained model; they get a name.
    words += [f"<unused-{index}>" for index in range(len(words), VOCABULARY_SIZE)]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("?", "isolated")]
    )
    made.decoder = token_decoders.WordPiece(prefix="##", cleanup=False)  # words joined with blanks
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        chat_template=TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def processor(words: PreTrainedTokenizerBase) -> LlavaProcessor:
    """Return what turns pictures (to pixels of -1 to 1) and text (by its own template) into inputs."""
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return LlavaProcessor(
        pictures,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=words.chat_template,
        num_additional_image_tokens=1,
    )


def build(seed: int = 0) -> LlavaForConditionalGeneration:
    """Return the model with fresh weights in float32."""
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config())


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Store llava-mini; see `store`."""
    store(model, tokenizer(), folder)


def store(model: LlavaForConditionalGeneration, words: PreTrainedTokenizerBase, folder: Path) -> None:
    """Store model, tokenizer and processor as a LLaVA checkpoint in bfloat16.

    The names of the weights are those of the published llava-hf checkpoints, which both transformers and vLLM
    read; what transformers 5 writes itself, vLLM 0.32 does not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        _published(name): value.detach().to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"  # tied
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    stored: dict[str, Any] = model.config.to_dict()
    stored |= {"architectures": ["LlavaForConditionalGeneration"], "dtype": "bfloat16"}
    stored["text_config"] |= {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    stored["vision_config"] |= {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    processor(words).save_pretrained(folder)
    text = model.config.text_config
    GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        max_new_tokens=4,
    ).save_pretrained(folder)


def _published(name: str) -> str:
    name = re.sub(r"^model\.vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name)
    name = re.sub(r"^model\.language_model\.", "language_model.model.", name)
    return re.sub(r"^model\.multi_modal_projector\.", "multi_modal_projector.", name)
