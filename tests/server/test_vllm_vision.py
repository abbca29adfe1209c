"""Pictures through the proxy to a real vLLM on CPU: its answers are those of transformers, token for token."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from vision_world import chat, data_url, part, picture_bytes

from tokenprune.config import load_config
from tokenprune_server.app import create_app
from tokenprune_server.settings import ServerSettings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

OPTIONS = ("--dtype", "float32", "--max-model-len", "2048", "--limit-mm-per-prompt", '{"image": 8}')
ASK = "what colour is the object ?"
TOKENS = 10


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The small VLM in the layout of vLLM, and its vision part alone."""
    from tokenprune.vision.export import export_full, export_vision

    place = tmp_path_factory.mktemp("exports")
    return export_full("llava-mini", place / "full"), export_vision("llava-mini", place / "vision")


@pytest.fixture(scope="module")
def llava(folders, vllm_module_starter):
    """vLLM with the small VLM, which takes embeddings."""
    return vllm_module_starter("--enable-mm-embeds", *OPTIONS, model=folders[0], name="llava-mini")


@pytest.fixture(scope="module")
def reference(folders):
    """Greedy tokens of transformers for rows in place of pictures, or for pictures."""
    return Transformers(folders[0])


@pytest.fixture
def door(serve, folders):
    """A function that posts a chat through a proxy to an upstream."""

    def start(upstream, **vision):
        settings = {"model": str(folders[1]), "dtype": "float32", "timeout_s": 120} | vision
        settings = {"pipeline": "none", "vision": settings}
        url = serve(create_app(load_config(None), upstream, ServerSettings.load(settings)))
        return lambda body, **more: post(url, body, **more)

    return start


class Transformers:
    def __init__(self, folder):
        import torch
        from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration

        self.torch = torch
        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = AutoImageProcessor.from_pretrained(folder)

    def ids(self, pictures, text):
        """Tokens of the chat, with as many image tokens for each picture as it has rows."""
        content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": text}]
        plain = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        image, counts = self.model.config.image_token_id, iter(pictures)
        out = []
        for token in self.tokenizer(plain, add_special_tokens=False)["input_ids"]:
            out += [token] * next(counts) if token == image else [token]
        return self.torch.tensor([out])

    def pixels(self, files, text=ASK):
        from PIL import Image

        pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        values = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        ids = self.ids([self.model.config.image_seq_length] * len(files), text)
        return self._generate(ids, input_ids=ids, pixel_values=values)

    def rows(self, rows, text=ASK):
        """Greedy tokens where the rows of each picture stand in place of its image tokens."""
        ids = self.ids([len(r) for r in rows], text)
        embeds = self.model.get_input_embeddings()(ids)
        embeds[ids == self.model.config.image_token_id] = self.torch.cat(rows)
        return self._generate(ids, inputs_embeds=embeds)

    def logprobs(self, rows, text=ASK):
        """Log-probabilities of the first token of the answer, float [vocabulary]."""
        ids = self.ids([len(r) for r in rows], text)
        with self.torch.inference_mode():
            embeds = self.model.get_input_embeddings()(ids)
            embeds[ids == self.model.config.image_token_id] = self.torch.cat(rows)
            return self.model(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)

    def _generate(self, ids, **inputs):
        with self.torch.inference_mode():
            out = self.model.generate(
                **inputs,
                attention_mask=self.torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
            )
        return out[0, -TOKENS:].tolist()


def post(url, body, **headers):
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120)


def ask(*files, text=ASK, **more):
    """A chat about pictures, of which as many tokens are wanted as of transformers."""
    greedy = {"max_tokens": TOKENS, "min_tokens": TOKENS, "temperature": 0, "return_token_ids": True}
    return chat(*(part(data_url(file)) for file in files), text=text, **greedy, **more) | {
        "model": "llava-mini"
    }


def tokens(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["token_ids"]


def used(answer):
    return answer.json()["usage"]["prompt_tokens"]


@pytest.mark.parametrize("size", [(224, 224), (640, 480), (50, 90)])
def test_a_picture_all_its_rows_and_transformers_say_the_same(llava, door, reference, size):
    file = picture_bytes(1, size, "JPEG")
    body = ask(file)
    body["messages"][0]["content"][0] = part(data_url(file, "image/jpeg"))
    direct = post(llava, body)
    through = door(llava, method="none", keep=1.0)(body)
    assert through.headers["x-tokenprune-vision-stage"] == "embeds"
    assert tokens(direct) == tokens(through) == reference.pixels([file])
    assert used(direct) == used(through)


@pytest.mark.parametrize(
    ("method", "keep"), [("fopru", 98), ("fopru", 49), ("divprune", 10), ("visionzip", 0.11), ("random", 1)]
)
def test_pruned_rows_are_fewer_tokens_and_the_same_answer(llava, door, reference, folders, method, keep):
    from tokenprune.vision.encoder import load_vision_encoder
    from tokenprune.vision.images import read_image
    from tokenprune.vision.methods import vision_method

    files = [picture_bytes(2), picture_bytes(3, (300, 200))]
    post_chat = door(llava)
    told = {"logprobs": True, "top_logprobs": 1}
    body = ask(*files, **told, tokenprune={"vision": {"method": method, "keep": keep}})
    answer = post_chat(body)
    encoder = load_vision_encoder(str(folders[1]), dtype="float32")
    tokens_of = encoder.encode([read_image(file).image for file in files])
    rows = [vision_method(method).reduce(one, keep).features for one in tokens_of]
    assert tokens(answer) == reference.rows(rows)
    first = answer.json()["choices"][0]["logprobs"]["content"][0]["logprob"]
    assert first == pytest.approx(float(reference.logprobs(rows).max()), abs=1e-4)
    whole = post(llava, ask(*files))
    assert used(whole) - used(answer) == 2 * 196 - sum(len(r) for r in rows)
    assert answer.headers["x-tokenprune-image-tokens-after"] == str(sum(len(r) for r in rows))


def test_frames_of_a_video(llava, door, reference):
    still, moved = picture_bytes(5), picture_bytes(6)
    video = {"video": True, "method": "evs", "keep": 246}
    answer = door(llava)(ask(still, still, moved, tokenprune={"vision": video}))
    assert len(tokens(answer)) == TOKENS
    assert used(answer) == used(post(llava, ask(still))) + 50


def test_pictures_with_different_numbers_of_rows(llava, door, reference, folders):
    """In one request and in several at once: an engine without our plugin would not live on."""
    from tokenprune.vision.encoder import load_vision_encoder
    from tokenprune.vision.images import read_image
    from tokenprune.vision.methods import vision_method

    files = [picture_bytes(7), picture_bytes(8)]
    post_chat = door(llava, unequal_rows=True, method="uniform", keep=0.25)
    body = ask(*files, files[0], tokenprune={"vision": {"video": True}})
    body["messages"][0]["content"].insert(2, {"type": "text", "text": "and"})
    assert len(tokens(post_chat(body))) == TOKENS
    keeps = [5, 20, 60, 196] * 2
    bodies = [ask(files[n % 2], tokenprune={"vision": {"keep": keep}}) for n, keep in enumerate(keeps)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post_chat, bodies))
    encoder = load_vision_encoder(str(folders[1]), dtype="float32")
    for n, keep in enumerate(keeps[:4]):
        whole = encoder.encode([read_image(files[n % 2]).image])[0]
        assert tokens(answers[n]) == reference.rows([vision_method("uniform").reduce(whole, keep).features])


def test_a_stream_says_the_same(llava, door):
    post_chat = door(llava, keep=49)
    whole = post_chat(ask(picture_bytes(4)))
    stream = post_chat(ask(picture_bytes(4), stream=True))
    events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
    assert [t for e in events for c in e["choices"] for t in c.get("token_ids") or ()] == tokens(whole)


def test_what_would_harm_is_refused_and_vllm_lives_on(llava, door):
    import torch

    def embeds(tensor):
        with io.BytesIO() as file:
            torch.save(tensor, file)
            payload = base64.b64encode(file.getvalue()).decode()
        return chat({"type": "image_embeds", "image_embeds": payload}) | {"model": "llava-mini"}

    post_chat = door(llava)
    assert tokens(post_chat(ask(picture_bytes())))
    bad = [
        embeds(torch.ones(0, 192)),
        embeds(torch.ones(4, 64)),
        embeds(torch.ones(4, 192).requires_grad_()),
        embeds(torch.full((4, 192), float("nan"))),
        embeds(torch.ones(4, 192).to_sparse()),
        ask(b"no picture"),
        ask(picture_bytes(0, (1, 1))),
    ]
    for body in bad:
        answer = post_chat(body)
        assert answer.status_code == 400, answer.text
        assert answer.headers["x-tokenprune-decision"] == "failed:bad-request"
    assert post_chat(embeds(torch.ones(4, 192)) | {"max_tokens": 2}).status_code == 200
    assert httpx.get(f"{llava}/health", timeout=10).status_code == 200
    assert tokens(post_chat(ask(picture_bytes())))


@pytest.mark.slow
def test_a_vllm_that_takes_no_embeddings(vllm_starter, door, folders):
    url = vllm_starter(*OPTIONS, model=folders[0], name="llava-mini")
    body = ask(picture_bytes())
    answer = door(url)(body)
    assert answer.headers["x-tokenprune-decision"] == "failed:no-embeds"
    assert tokens(answer) == tokens(post(url, body))


@pytest.mark.slow
def test_a_vllm_that_takes_nothing_but_embeddings(vllm_starter, door, folders, reference):
    options = ("--enable-mm-embeds", *OPTIONS[:-1], '{"image": 0}')
    url = vllm_starter(*options, model=folders[0], name="llava-mini")
    file = picture_bytes()
    answer = door(url, method="none", keep=1.0)(ask(file))
    assert answer.headers["x-tokenprune-vision-stage"] == "embeds"
    assert tokens(answer) == reference.pixels([file])
