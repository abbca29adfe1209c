"""Where unwrapped elements leave a line break behind: boxes, and elements side by side that hold words of their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.budget import Budget
from tokenprune.document import Document
from tokenprune.pipeline import Pipeline
from tokenprune.registry import pruner
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.html_clean import clean
from tokenprune.segment.html_page import CLOSE, OPEN
from tokenprune.segment.word_seams import may_be_parted, reads_apart
from tokenprune.tokens import get_counter


def cleaned(source, keep=()):
    page = clean(source, keep)
    rows = zip(page.kind, page.node, page.text, strict=True)
    return "".join(text for kind, node, text in rows if kind not in (OPEN, CLOSE) or page.alive[node])


PARTED = {
    "<nav><a>Home</a><a>About</a></nav>": "<nav>Home<br>About</nav>",
    "<nav><a href=a>home</a><a href=b>about us</a></nav>": "<nav>home<br>about us</nav>",
    "<div><a>A</a><a>B</a></div>": "<div>A<br>B</div>",
    "<span>Price</span><span>20</span><span>30</span>": "Price<br>20<br>30",
    "<p><span>Model M3</span><span>Price</span><span>$20</span></p>": "<p>Model M3<br>Price<br>$20</p>",
    "<p><span>20%</span><span>Off</span></p>": "<p>20%<br>Off</p>",
    "<p><b>Total</b><!-- x --><em>30</em></p>": "<p>Total<br>30</p>",
    "<p><span><b>Total</b></span><i class=icon></i><span><i>Sum</i></span></p>": "<p>Total<br>Sum</p>",
    "<p><span>It ends.</span><span>Another one</span></p>": "<p>It ends.<br>Another one</p>",
    "<div class='flex x'><span>price</span><span>twenty</span></div>": "<div>price<br>twenty</div>",
    "<div style='display: grid'><span>price</span><span>twenty</span></div>": "<div>price<br>twenty</div>",
    "<p><span class='badge new'>new</span><span>shoes</span></p>": "<p>new<br>shoes</p>",
    "<p>one<button>two</button>three</p>": "<p>one<br>two<br>three</p>",
    "<label>Name:</label><input><label>Age</label>": "Name:<br>Age",
    "<p>x<img src=i>y": "<p>x<br>y</p>",
    "<p>x<svg><path d=M0 /></svg>y": "<p>x<br>y</p>",
    "<p>x<video>cannot play</video>y": "<p>x<br>y</p>",
    "<svg><text>10</text><text>20</text></svg>": "10<br>20",
    "<x-a>Title</x-a><x-b>body</x-b>": "Title<br>body",
    "<p><del>a</del><button>b</button><sub>c</sub></p>": "<p><del>a</del><br>b<sub>c</sub></p>",
    "<p><span>On</span><span><code>x</code></span></p>": "<p>On<code>x</code></p>",
    "<p><span>Use</span><span><q>It</q></span></p>": "<p>Use<q>It</q></p>",
}


@pytest.mark.parametrize("page", PARTED)
def test_parted(page):
    assert cleaned(page) == PARTED[page]
    assert cleaned(PARTED[page]) == PARTED[page]


WHOLE = {
    "<p><b>B</b>old, see <a href=x>link</a>s</p>": "Bold, see links",
    "<p><span>wo</span><span>rd</span> <b>un</b><i>believ</i><b>able</b></p>": "word unbelievable",
    "<h1><span>H</span><span>E</span><span>Y</span></h1>": "HEY",
    "<h1 class=flex><span>H</span><span>i</span></h1>": "Hi",
    "<p><span>D</span><span>rop caps</span></p>": "Drop caps",
    "<p><span>20</span><span>th</span> <span>5</span><span>GB</span> <b>2</b><b>XL</b></p>": "20th 5GB 2XL",
    "<p><span>12</span><span>:</span><span>30</span> <b>$</b><b>20</b> <b>US</b><b>$20</b></p>": "12:30 $20 US$20",
    "<p><span>H</span><span>2</span><span>O</span> <b>Mc</b><b>Donald</b></p>": "H2O McDonald",
    "<p class=logo><span>Big</span><span>Shop</span></p>": "BigShop",
    "<p><span>a long text in pie</span><span>ces that go on</span></p>": "a long text in pieces that go on",
    "<p><a href=x>Lud</a><a href=x>wig</a></p>": "Ludwig",
    "<p>The <mark>Sea</mark>Side and <b>Sea</b><i>Side</i></p>": "The SeaSide and SeaSide",
    "<p><span>get</span><mark>User</mark><span>Name</span></p>": "getUserName",
    "<p><span>日本</span><span>語</span> <a>蔡</a><a>卓</a></p>": "日本語 蔡卓",
    "<p>x<input type=hidden>y x<span></span>y x<wbr>y</p>": "xy xy xy",
    "<p>(<button>x</button>), <img src=i>.</p>": "(x), .",
    "<p>wo<x-hit>rd</x-hit>s <x-l>a</x-l><x-l>b</x-l></p>": "words ab",
    "<p>un<math><mi>n</mi></math>th</p>": "unnth",
}  # fmt: skip


@pytest.mark.parametrize("page", WHOLE)
def test_whole(page):
    tag = "h1" if "<h1" in page else "p"
    assert cleaned(page) == f"<{tag}>{WHOLE[page]}</{tag}>"


@pytest.mark.parametrize(
    "page",
    [
        "<pre><span>Def</span><span>20</span><button>Copy</button></pre>",
        "<p><code><span>Def</span><span>20</span><button>Copy</button></code></p>",
    ],
)
def test_code_stays_as_it_is(page):
    assert ">Def20Copy<" in cleaned(page)


def test_tags_that_stay_part_words_themselves():
    page = "<p><a href=1>Home</a><a href=2>About</a></p>"
    assert cleaned(page, ("href",)) == '<p><a href="1">Home</a><a href="2">About</a></p>'


def test_scorers_read_the_same_words():
    page = "<div><span>Model</span><span>23</span><button>Buy</button><img src=x alt=y><i>now</i></div>"
    document = Document(page, kind="html")
    for keep in ((), ("title",)):
        assert HtmlBlocks(64, keep).segment(document, get_counter()).texts == ["Model 23 Buy now"]


def test_offsets_lead_to_the_words():
    page = "<div><span>Model</span><span>23</span><button>Buy</button></div>"
    units = HtmlBlocks(64).segment(Document(page, kind="html"), get_counter())
    rendered = units.pieces.join(np.ones(len(units.pieces.text), dtype=bool))
    for word in ("Model", "23", "Buy"):
        at = int(rendered.offsets.to_source(np.array([rendered.text.index(word)]))[0])
        assert page[at:].startswith(word)


def test_a_card_is_found_by_its_name():
    cards = "".join(
        f"<div class=card><span>Model M{i}</span><span>Price</span><span>{11 * i}</span><span>Stock</span>"
        f"<span>{i}</span></div>"
        for i in range(40)
    )
    document = Document(cards, kind="html")
    result = Pipeline([pruner("htmlrag-bm25")]).prune("price of model M23", [document], Budget(max_tokens=60))
    assert "Model M23<br>Price<br>253" in result.documents[0].text


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("Price", "20", True),
        ("Stock", "Price", True),
        ("NASA", "Goddard", True),
        ("Price", "$20", True),
        ("20", "30", True),
        ("20", "reviews", True),
        ("The end.", "The start", True),
        ("wo", "rd", False),
        ("HEL", "LO", False),
        ("1", "2", False),
        ("CO", "2", False),
        ("3", "rd", False),
        ("os.", "path", False),
        ("Mc", "Donald", False),
        ("日本", "語", False),
    ],
)
def test_reads_apart(left, right, expected):
    assert reads_apart(left, right) is expected


@given(
    st.text("aZ9.,;)(]$€日\u0301\u200d&<\"'-", min_size=1, max_size=6),
    st.text("aZ9.,;)($日\u0301-", min_size=1),
)
def test_may_be_parted(left, right):
    last, first = np.array([ord(left[-1])]), np.array([ord(right[0])])
    found = bool(may_be_parted(last, first)[0])
    assert found == (
        (left[-1].isalnum() or left[-1] in ".,;)]\u0301") and (right[0].isalnum() or right[0] in "($")
    )


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<form>a<input type=submit value='Send it' class=x>b</form>", "<form>a<br>Send it<br>b</form>"),
        ("<p>a <input type=reset value=''> <input type=text value=gone> b</p>", "<p>a b</p>"),
        ("<p>a <input type=submit value=gone hidden> b</p>", "<p>a b</p>"),
        ("<p>a <input type=submit value=gone style=visibility:hidden> b</p>", "<p>a b</p>"),
        ("<style>.x{display:none}</style><p>a <input type=submit value=gone class=x> b</p>", "<p>a b</p>"),
        (
            "<select><optgroup label='Sea &amp; sky'><option>a</option></optgroup></select>",
            "<select><optgroup>Sea & sky<option>a</option></optgroup></select>",
        ),
        (
            "<x-y><template shadowrootmode='open'><p>in</p></template><p>out</p></x-y><template>gone</template>",
            "<p>in</p><p>out</p>",
        ),
    ],
)
def test_words_that_only_look_like_markup_stay(page, expected):
    assert cleaned(page) == expected
    assert cleaned(expected) == expected


def test_words_of_buttons_lead_to_their_place():
    page = "<form>a<input class=x type=submit value='Send &amp; go' id=y>b</form>"
    units = HtmlBlocks(64).segment(Document(page, kind="html"), get_counter())
    rendered = units.pieces.join(np.ones(len(units.pieces.text), dtype=bool))
    places = rendered.offsets.to_source(np.array([rendered.text.index(w) for w in ("Send", "go", "b<")]))
    assert [page[p:].startswith(w) for p, w in zip(places.tolist(), ("Send", "go", "b<"), strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<p>See<img src=a alt='the  sun &amp; sky'>rise, <img src=b>or</p>", "See [the sun & sky] rise, or"),
        ("<p>a<img src=x>b</p>", "a b"),
    ],
)
def test_descriptions_of_pictures_in_text(page, expected):
    method = pruner("clean-html", keep_attributes=("alt", "src"), output="text")
    assert Pipeline([method]).prune("", [Document(page, kind="html")]).documents[0].text == expected
