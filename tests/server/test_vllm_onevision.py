"""LLaVA-OneVision through the proxy to a real vLLM on CPU: its answers are those of transformers."""

import httpx
import pytest
from vision_checkpoints import onevision_processor, save_onevision
from vision_world import chat, data_url, part, picture_bytes

from tokenprune.config import load_config
from tokenprune_server.app import create_app
from tokenprune_server.settings import ServerSettings

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(420)]

OPTIONS = ("--dtype", "float32", "--max-model-len", "2048", "--limit-mm-per-prompt", '{"image": 8}')
ASK = "what colour is the object ?"
TOKENS = 10
SIZES = ((56, 56), (112, 56), (50, 90), (100, 70), (300, 4))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny checkpoint in the layout of vLLM, its vision part alone, and its model in transformers."""
    from tokenprune.vision.export import export_full, export_vision

    place = tmp_path_factory.mktemp("exports")
    source, model = save_onevision(place / "source")
    model.generation_config.eos_token_id = None  # a random model says it anywhere
    return export_full(str(source), place / "full"), export_vision(str(source), place / "vision"), model


@pytest.fixture(scope="module")
def vllm(folders, vllm_module_starter):
    return vllm_module_starter("--enable-mm-embeds", *OPTIONS, model=folders[0], name="onevision")


@pytest.fixture
def through(serve, folders, vllm):
    """A function that posts a chat through a proxy with settings of its own."""

    def start(**vision):
        settings = {"model": str(folders[1]), "dtype": "float32", "timeout_s": 120, "unequal_rows": True}
        server = ServerSettings.load({"pipeline": "none", "vision": settings | vision})
        url = serve(create_app(load_config(None), vllm, server))
        return lambda body: post(url, body)

    return start


def post(url, body):
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer


def ask(*files, **more):
    greedy = {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
    return chat(*(part(data_url(file)) for file in files), text=ASK, **greedy, **more) | {
        "model": "onevision"
    }


def told(answer):
    """The tokens of an answer, and how many those of the prompt were."""
    said = answer.json()
    return said["choices"][0]["token_ids"], said["usage"]["prompt_tokens"]


def images(*files):
    from tokenprune.vision.images import read_image

    return [read_image(file).image for file in files]


def by_transformers(folders, rows):
    """Greedy tokens of transformers where rows of each picture stand in its place; and tokens of the prompt."""
    import torch
    from transformers import AutoTokenizer

    model, tokenizer = folders[2], AutoTokenizer.from_pretrained(folders[0])
    content = [{"type": "image"}] * len(rows) + [{"type": "text", "text": ASK}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    left, embed = iter(rows), model.get_input_embeddings()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    holder = model.config.image_token_id
    with torch.inference_mode():
        parts = [next(left) if token == holder else embed(torch.tensor([token])) for token in ids]
        embeds = torch.cat(parts)[None]
        out = model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=TOKENS,
            do_sample=False,
        )
    return out[0].tolist(), embeds.shape[1]


def pixels_read(folders, *files):
    """What transformers itself makes of pictures that are tiled, each."""
    import torch

    given = onevision_processor()(images=images(*files), return_tensors="pt")
    given.pop("batch_num_images")
    with torch.inference_mode():
        return folders[2].get_image_features(**given, return_dict=True).pooler_output


def encoder_of(folders):
    from tokenprune.vision.encoder import load_vision_encoder

    return load_vision_encoder(str(folders[1]), dtype="float32")


def test_a_picture_all_its_rows_and_transformers_say_the_same(vllm, through, folders):
    proxied = through(method="none", keep=1.0)
    for seed, size in enumerate(SIZES):
        file = picture_bytes(seed, size)
        answer = proxied(ask(file))
        assert answer.headers["x-tokenprune-vision-stage"] == "embeds"
        expected = by_transformers(folders, pixels_read(folders, file))
        assert told(post(vllm, ask(file))) == told(answer) == expected, size


def test_several_pictures_are_tiled_each(vllm, through, folders):
    files = [picture_bytes(seed, size) for seed, size in enumerate(SIZES[:3])]
    expected = by_transformers(folders, pixels_read(folders, *files))
    assert told(post(vllm, ask(*files))) == told(through(method="none", keep=1.0)(ask(*files))) == expected


@pytest.mark.parametrize(
    ("method", "keep"),
    [("fopru:strategy=row", 0.25), ("fopru", 9), ("visionzip", 0.25), ("divprune", 1), ("prumerge", "auto")],
)
def test_pruned_rows_are_fewer_tokens_and_the_same_answer(vllm, through, folders, method, keep):
    from tokenprune.vision.methods import vision_method

    files = [picture_bytes(2, (112, 56)), picture_bytes(3, (100, 70))]
    answer = through()(ask(*files, tokenprune={"vision": {"method": method, "keep": keep}}))
    items = encoder_of(folders).items(images(*files))
    rows = [item.read(vision_method(method).reduce(item.tokens, keep))[1].features for item in items]
    assert told(answer) == by_transformers(folders, rows)
    gone = sum(map(len, items)) - sum(map(len, rows))
    assert told(post(vllm, ask(*files)))[1] - told(answer)[1] == gone > 0
    assert answer.headers["x-tokenprune-image-tokens-after"] == str(sum(map(len, rows)))


def test_frames_are_read_as_a_video_is(through, folders):
    """vLLM takes no rows of videos of this model; where a picture stands, they are read all the same."""
    import torch

    files = [picture_bytes(seed) for seed in range(3)]
    frames = onevision_processor()(
        images=images(*files), image_grid_pinpoints=[[56, 56]], return_tensors="pt"
    )
    with torch.inference_mode():
        video = frames["pixel_values"][None, :, 0]
        (rows,) = folders[2].get_video_features(video, return_dict=True).pooler_output
    answer = through(video=True, method="none", keep=1.0)(ask(*files))
    assert told(answer) == by_transformers(folders, [rows])
    assert len(rows) == 3 * 4 + 1
