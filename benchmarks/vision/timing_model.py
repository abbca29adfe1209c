"""A LLaVA that is right in size only: SmolLM2 behind a tower of random weights, to measure time with.

The tower has a twentieth of the language model's parameters, as CLIP-L has beside the 7B of LLaVA 1.5; in
llava-mini, which can see, a request costs little but HTTP. What it answers means nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from benchmarks.vision.model import joined, store, tower
from tokenprune.models.causal_lm import fresh_causal_lm

IMAGE = "<image>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<image>' }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build(folder: Path, language: str = "smollm2-135m") -> Path:
    """Store the model, if it is not there yet; return its folder."""
    if (folder / "config.json").exists():
        return folder
    lm = fresh_causal_lm(language)
    tokenizer = AutoTokenizer.from_pretrained(lm.tokenizer.name_or_path)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.chat_template = TEMPLATE
    lm.model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    torch.manual_seed(0)
    config = joined(tower(width=256, layers=8), lm.model.config, tokenizer.convert_tokens_to_ids(IMAGE))
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(lm.model.model.state_dict())
    store(model, tokenizer, folder)
    return folder
