"""Tiny random LLaVA checkpoints, and pictures of noise."""

TEXT = {
    "vocab_size": 99, "hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "image_size": 56, "patch_size": 14,
}  # fmt: skip


PINPOINTS = [[56, 56], [56, 112], [112, 56], [112, 112]]


def tiny_llava(tower="clip", layer=-2, seed=0):
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        SiglipVisionConfig,
    )

    vision = CLIPVisionConfig if tower == "clip" else SiglipVisionConfig
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=vision(**TOWER),
        text_config=LlamaConfig(**TEXT, initializer_range=0.3),
        image_token_index=5,
        vision_feature_layer=layer,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
    )
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.model.vision_tower.named_parameters():
            if "proj" in name and weight.ndim == 2:
                weight.normal_(0, 0.3)  # attention that is not flat
    return model


def image_processor(tower="clip"):
    if tower == "clip":
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return SiglipImageProcessorPil(size={"height": 56, "width": 56})


def save(model, processor, folder):
    from tokenprune.models.device import loading_alone

    with loading_alone():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def pictures(count, seed=0, size=(70, 61)):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)) for _ in range(count)]


def tiny_onevision(seed=0, video_token=128):
    """A LLaVA-OneVision whose pictures are 4 x 4 patches, and up to 2 x 2 tiles of so many."""
    import torch
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    torch.manual_seed(seed)
    text = {"hidden_size": 64, "max_position_embeddings": 2048, "vocab_size": video_token + 4}
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=Qwen2Config(**TEXT | text, initializer_range=0.3),
        image_token_index=4,
        video_token_index=video_token,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            seen = "vision_tower" in name and "proj" in name and weight.ndim == 2
            if seen or "projector" in name or "newline" in name:
                weight.normal_(0, 0.3)
    return model


def save_onevision(folder):
    """A `tiny_onevision` in Hugging Face layout, with the words and the chat template of llava-mini."""
    import json
    import shutil

    from transformers import AutoTokenizer

    from tokenprune.models.catalog import model_path

    mini = model_path("llava-mini")
    tokenizer = AutoTokenizer.from_pretrained(mini)
    model = tiny_onevision(video_token=len(tokenizer))
    tokenizer.add_tokens(["<video>"], special_tokens=True)
    save(model, onevision_processor(), folder)
    tokenizer.save_pretrained(folder)
    shutil.copy(mini / "chat_template.jinja", folder)
    processor = {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 16}
    (folder / "processor_config.json").write_text(
        json.dumps(processor | {"vision_feature_select_strategy": "full"})
    )
    return folder, model


def onevision_processor():
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    return LlavaOnevisionImageProcessorPil(size={"height": 56, "width": 56}, image_grid_pinpoints=PINPOINTS)
