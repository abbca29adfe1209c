"""Tiny random vision-language models, made on the spot, and prompts for them."""

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

IMAGE, VIDEO, PAD, GRID = 5, 6, 0, 4
PATCHES = GRID * GRID
ROWS = ((2, 9, 1), (1, 4, 2), (0, 9, 3), (2, 2, 4))  # prompts of a batch: images, words, seed
TEXT = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 5,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": PAD,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 8 * GRID, "patch_size": 8,
}  # fmt: skip
TEXTS = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "mistral": lambda **o: MistralConfig(sliding_window=None, **o),
}


def tiny_llava(text="llama", seed=0, **options):
    """A float32 LLaVA 1.5 with a CLIP tower of 4 x 4 patches, whose features differ from picture to picture."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, initializer_range=0.2),
        text_config=TEXTS[text](**TEXT | options),
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return _noisy(LlavaForConditionalGeneration, config, seed)


def tiny_onevision(seed=0):
    """A float32 LLaVA-OneVision with a SigLIP tower and a Qwen2 behind it."""
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[32, 32], [32, 64], [64, 32]],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return _noisy(LlavaOnevisionForConditionalGeneration, config, seed)


def _noisy(make, config, seed):
    torch.manual_seed(seed)
    model = make(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Zero biases, unit norms and tiny projections would hide a missing term or a missing picture.
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3 + (1 if "norm" in name else 0))
            elif "projector" in name or "vision" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.generation_config.eos_token_id = None
    return model


def pictures(count, seed=0):
    """Pixel values float32 [count, 3, 32, 32]."""
    return torch.randn(count, 3, 8 * GRID, 8 * GRID, generator=torch.Generator().manual_seed(seed))


def ids_with(images, words=9, seed=0, each=PATCHES):
    """Token ids: text, and ``images`` runs of placeholders with text between them."""
    generator = torch.Generator().manual_seed(seed)

    def text(count):
        return torch.randint(10, 97, (count,), generator=generator).tolist()

    out = [1, *text(3)]
    for _ in range(images):
        out += [IMAGE] * each + text(2)
    return out + text(words)


def left_padded(rows):
    """Token ids and attention mask, int64 [rows, longest]."""
    size = max(len(row) for row in rows)
    ids = torch.tensor([[PAD] * (size - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (size - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def plain(count=12):
    """Options of a greedy answer."""
    return {"max_new_tokens": count, "do_sample": False}


def batch_of(rows):
    """What a processor makes of some of `ROWS`: left-padded ids, their mask, and the pixels of all pictures."""
    ids, mask = left_padded([ids_with(images, words=words, seed=seed) for images, words, seed in rows])
    count = sum(images for images, _, _ in rows)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pictures(count)}


@torch.no_grad()
def features_of(model, pixels):
    """What the language model reads of each picture, a list of [n, hidden]."""
    return list(model.get_image_features(pixels, return_dict=True).pooler_output)


@torch.no_grad()
def greedy(model, ids, pixels, count, **more):
    """The tokens that transformers generates for one prompt."""
    given = torch.tensor([ids])
    if pixels is not None:
        more["pixel_values"] = pixels
    out = model.generate(
        input_ids=given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=count,
        do_sample=False,
        **more,
    )
    return out[0, len(ids) :].tolist()


def seen_by(model, pixels, frames=1):
    """The visual tokens of pictures, as images or as videos of so many frames."""
    from tokenprune.vision.tower import read_features

    inner = model.model
    with torch.no_grad():
        found = read_features(inner.vision_tower, inner.multi_modal_projector, model.config, pixels)
    return found.tokens([frames] * (len(pixels) // frames))


@torch.no_grad()
def layers_on(model, hidden, positions, first, last=None):
    """Run layers ``first`` to ``last`` of the language model on some rows [n, hidden] at their positions."""
    body = model.model.language_model
    turn = body.rotary_emb(hidden[None], positions[None])
    mask = torch.full((len(hidden), len(hidden)), torch.finfo(torch.float32).min).triu(1)[None, None]
    for layer in body.layers[first:last]:
        hidden = layer(hidden[None], attention_mask=mask, position_embeddings=turn)[0]
    return hidden


@torch.no_grad()
def logits_of(model, hidden):
    """Logits [vocabulary] behind the last of some rows that went through all layers."""
    return model.lm_head(model.model.language_model.norm(hidden[-1]))


@torch.no_grad()
def last_looks_at(model, hidden, layer):
    """Attention of the last row in a layer, mean over heads, float32 [n]; ``hidden`` [n, hidden] enters it."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    body = model.model.language_model
    block = body.layers[layer]
    own = block.self_attn
    turn = body.rotary_emb(hidden[None], torch.arange(len(hidden))[None])
    normed = block.input_layernorm(hidden)
    query = own.q_proj(normed).view(1, len(hidden), -1, own.head_dim).transpose(1, 2)
    keys = own.k_proj(normed).view(1, len(hidden), -1, own.head_dim).transpose(1, 2)
    query, keys = apply_rotary_pos_emb(query, keys, *turn)
    heads = []
    for head in range(query.shape[1]):
        key = keys[0, head * keys.shape[1] // query.shape[1]]
        heads.append(torch.softmax(query[0, head, -1] @ key.T * own.scaling, -1))
    return torch.stack(heads).mean(0)
