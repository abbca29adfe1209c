import pytest
import tiny_vlm
from vision_checkpoints import image_processor, save, save_onevision, tiny_llava


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory):
    """A CLIP checkpoint of 4 x 4 patches in Hugging Face layout, and its model in float32."""
    model = tiny_llava()
    return save(model, image_processor(), tmp_path_factory.mktemp("llava")), model


@pytest.fixture(scope="session")
def onevision_folder(tmp_path_factory):
    """A LLaVA-OneVision checkpoint of 4 x 4 patches in Hugging Face layout, and its model in float32."""
    return save_onevision(tmp_path_factory.mktemp("onevision"))


@pytest.fixture(scope="module")
def model():
    """A tiny random LLaVA; its weights stay as they are."""
    return tiny_vlm.tiny_llava()


@pytest.fixture(scope="module")
def batch():
    """What a processor makes of four prompts."""
    return tiny_vlm.batch_of(tiny_vlm.ROWS)
