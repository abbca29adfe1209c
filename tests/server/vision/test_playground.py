"""The page at /playground in a real browser."""

import json

import pytest
from browser import open_browser
from vision_world import picture_bytes

from tokenprune.config import Config
from tokenprune_server.app import create_app


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(browser):
    """Open the page of a server, and see to it that nothing goes wrong in it and nothing else is asked."""
    urls = []

    def start(url, tab=""):
        urls.append(url)
        browser.errors.clear()
        browser.requests.clear()
        browser.open(f"{url}/playground?{len(browser.requests)}{tab}")
        browser.until("$('method').options.length")
        return browser

    yield start
    assert not browser.errors
    assert all(asked.startswith((*urls, "data:")) for asked in browser.requests), browser.requests


def counts(page, box):
    return page.run(
        f"['before', 'after'].map((n) => $('{box}').querySelector('.' + n).textContent).join(' ')"
    )


def test_text(page, stub, serve):
    config = Config.model_validate({"pipelines": {"default": {"pruners": ["bm25-sentences"]}}})
    page = page(serve(create_app(config, stub.url)))
    page.until("$('text').querySelectorAll('span.dropped').length")
    before, after = map(int, counts(page, "text-result").split())
    assert 0 < after < before
    page.run("$('only').click()")
    assert "bicycle bells" not in page.run("$('text').innerText")


def test_a_picture(page, door, tmp_path):
    """Chosen, it is pruned; another method or share prunes it again; what is kept is framed in it."""
    (tmp_path / "noise.png").write_bytes(picture_bytes(3))
    page = page(door(keep=0.25).url, "#pictures")
    assert page.run("$('texts').hidden && !$('pictures').hidden")
    assert page.run("$('picture-method').value") == "fopru"
    page.choose_file("#picture-file", tmp_path / "noise.png")
    page.until("$('picture').querySelectorAll('img').length === 2")
    assert counts(page, "picture-result") == "196 49"
    assert "49 of 196 rows (25%)" in page.run("$('picture').innerText")
    first = page.run("$('picture').querySelectorAll('img')[1].src")
    framed = """(() => {
      const image = $('picture').querySelectorAll('img')[1], canvas = document.createElement('canvas');
      canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
      const drawing = canvas.getContext('2d');
      drawing.drawImage(image, 0, 0);
      const size = canvas.width / 14;
      let found = 0;
      for (let row = 0; row < 14; row++) for (let col = 0; col < 14; col++) {
        const [r, g, b] = drawing.getImageData(col * size, row * size, 1, 1).data;
        found += r === 237 && g === 174 && b === 73;
      }
      return found;
    })()"""
    page.until("$('picture').querySelectorAll('img')[1].complete")
    assert page.run(framed) == 49
    page.run("$('picture-ratio').value = 50; $('picture-ratio').dispatchEvent(new Event('change'))")
    page.until("$('picture-result').querySelector('.after').textContent === '98'")
    page.run("$('picture-method').value = 'evs'; $('picture-method').dispatchEvent(new Event('change'))")
    page.until("$('picture').innerText.includes('Note: 196 of 196 tokens stay')")
    assert page.run("$('picture').querySelectorAll('img')[1].src") != first
    assert page.run("$('picture-question-box').hidden && !$('picture-no-questions').hidden")
    assert not page.run("[...$('picture-method').options].some((option) => option.inside)")


def test_a_picture_that_is_dropped_and_cannot_be_read(page, door):
    page = page(door().url, "#pictures")
    page.run("""(() => {
      const dropped = new DataTransfer();
      dropped.items.add(new File(["no picture"], "a.png", {type: "image/png"}));
      $("picture-drop").dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true}));
    })()""")
    said = page.until("$('picture').querySelector('.error')?.textContent")
    assert said.startswith("the picture at image cannot be used: the image is none of PNG, JPEG")


def test_a_question(page, door, tmp_path):
    """With the whole checkpoint, the model answers, and methods inside it show what its last layer sees."""
    (tmp_path / "noise.png").write_bytes(picture_bytes(3))
    page = page(door(questions=True).url, "#pictures")
    page.run("$('picture-method').value = 'fastv'; $('picture-method').dispatchEvent(new Event('change'))")
    page.choose_file("#picture-file", tmp_path / "noise.png")
    page.until("$('picture-name').textContent === 'noise.png'")
    assert page.run("!$('picture-form').checkValidity()")  # it needs a question
    page.run("$('picture-question').value = 'how many digits are there ?'; $('picture-go').click()")
    page.until("$('picture').querySelectorAll('img').length === 2")
    assert counts(page, "picture-result") == "196 49"
    assert "Answer: " in page.run("$('picture').innerText")


def test_no_vision_model(page, stub, serve, stand_in):
    page = page(serve(create_app(stand_in(), stub.url)), "#pictures")
    page.until("!$('picture-setup').hidden")
    assert page.run("$('picture-form').hidden")
    assert "tokenprune vision export MODEL llava-vision" in page.text()
    assert "model: llava-vision" in page.text()


def test_a_key_is_asked_for(page, door, tmp_path):
    (tmp_path / "noise.png").write_bytes(picture_bytes(3))
    page = page(door(server={"api_keys": ["sk-1"]}).url, "#pictures")
    page.choose_file("#picture-file", tmp_path / "noise.png")
    assert "API key is needed" in page.until("$('picture').querySelector('.error')?.textContent")
    assert page.run("!$('key-box').hidden")
    page.run(f"$('key').value = {json.dumps('sk-1')}; $('picture-form').requestSubmit()")
    page.until("$('picture').querySelectorAll('img').length === 2")
