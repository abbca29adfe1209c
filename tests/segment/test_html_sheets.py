"""Text hidden by rules of a page's style elements: the plain ones count, and none that is in doubt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.document import Document
from tokenprune.segment.html_blocks import HtmlBlocks
from tokenprune.segment.html_clean import clean
from tokenprune.segment.html_page import TEXT
from tokenprune.segment.html_sheets import read_sheet
from tokenprune.tokens import get_counter

PAGE = "<p class='x a' id=k>secret <b>secret</b></p><p class=y>These are words that people see.</p>"


def words(page, **options):
    cleaned = clean(page, **options)
    return "".join(t if k == TEXT else " " for k, t in zip(cleaned.kind, cleaned.text, strict=True)).split()


def reasons(page):
    return [why for _, _, why in clean(page).dropped if why.startswith("hidden")]


@pytest.mark.parametrize(
    ("css", "reason"),
    [
        (".x{display:none}", "display-none"),
        ("#k { color: red; DISPLAY : none }", "display-none"),
        ("p.x{display:none!important}", "display-none"),
        (".x.a#k{display:none}", "display-none"),
        (".z , .x,h2 {display:none}", "display-none"),
        (".x{visibility:hidden}", "visibility"),
        ("/* .y */ .x{/* a } */display:none}", "display-none"),
        ("<!-- .x{display:none} -->", "display-none"),
        ("@import 'a.css';@charset 'x'; .x{display:none}", "display-none"),
        ("@media print{.y{display:none}} .x{display:none}", "display-none"),
        ("@media print{@supports (a:b){.y{color:red}}}.x{display:none}", "display-none"),
        (".y::before{content:'}'} .x{display:none}", "display-none"),
        (".x{display:block}.x{display:none}", "display-none"),
        ("p{display:block}.x{display:none}p{display:block}", "display-none"),  # less particular
        (".x{display:none;", "" ),  # never ended
    ],
)  # fmt: skip
def test_hidden(css, reason):
    page = f"<style>{css}</style>{PAGE}"
    assert ("secret" not in words(page)) == bool(reason)
    assert reasons(page) == [f"hidden:{reason}"] * bool(reason)
    assert "see." in words(page)
    assert "secret" in words(page, drop_hidden=False)


def test_wherever_the_style_stands():
    style = "<STYLE type=text/css media=screen>.x{display:none}</STYLE>"
    for page in (style + PAGE, PAGE + style, f"<head>{style}</head><body>{PAGE}"):
        assert "secret" not in words(page)
        assert reasons(page) == ["hidden:display-none"]


@pytest.mark.parametrize(
    "style",
    [
        # in doubt: states, descendants, attributes, part of the pages or of the screens
        "<style>.y .x{display:none}</style>", "<style>.x:hover{display:none}</style>",
        "<style>.x::after{display:none}</style>", "<style>[class=x]{display:none}</style>",
        "<style>*{display:none}</style>", "<style>.y>.x{display:none}</style>",
        "<style>@media print{.x{display:none}}</style>", "<style>@supports (a:b){.x{display:none}}</style>",
        "<style>@media print{ .x{display:none} .x{display:none}}</style>",
        "<style media=print>.x{display:none}</style>", "<style type=text/less>.x{display:none}</style>",
        "<noscript><style>.x{display:none}</style></noscript>", "<template><style>.x{display:none}</style></template>",
        "<!-- <style>.x{display:none}</style> -->", "<script>'<style>.x{display:none}</style>'</script>",
        # others
        "<style>.xx{display:none}</style>", "<style>.x-a{display:none}</style>", "<style>.X{display:none}</style>",
        "<style>h1.x{display:none}</style>", "<style>.x.b{display:none}</style>", "<style>body{display:none}</style>",
        "<style>.x{display:inherit}</style>", "<style>.x{color:none}</style>", "<style></style>", "<style>}{</style>",
        # shown again: by a later rule, a more particular one, on wide screens, when it is open
        "<style>.x{display:none}.x{display:block}</style>", "<style>.x{display:none}.a{display:flex}</style>",
        "<style>#k{display:block}.x{display:none}</style>", "<style>p.x{display:block}.x{display:none}</style>",
        "<style>.x{display:none}@media (min-width:9px){.x{display:block}}</style>",
        "<style>.open .x{display:block}.x{display:none}</style>", "<style>.x.open{display:block}.x{display:none}</style>",
        "<style>.x:target{visibility:visible}.x{visibility:hidden}</style>",
    ],
)  # fmt: skip
def test_shown(style):
    assert words(style + PAGE).count("secret") == 2
    assert reasons(style + PAGE) == []


def test_an_element_that_shows_itself():
    page = "<style>.x{display:none}.v{visibility:hidden}</style><p>one two three four five six</p>"
    assert "told" in words(page + "<p class=x style='display:block'>told</p>")
    assert "told" in words(page + "<p class=v style='visibility:visible'>told</p>")
    assert "told" in words(page + "<div class=v>secret<p style='visibility:visible'>told</p></div>")
    assert "secret" not in words(page + "<div class=v>secret<p style='visibility:visible'>told</p></div>")
    assert "secret" not in words(page + "<p class=x style='color:red'>secret</p>")


@pytest.mark.parametrize(
    ("css", "style", "seen"),
    [
        (".x{display:none!important}", "display:block", False),
        (".x{visibility:hidden ! important}", "visibility:visible", False),
        (".x{display:none!important}", "display:block!important", True),
        (".x{display:none!important}.x{display:block}", "", False),
        (".x{display:none!important}p.x{display:block}", "", False),
        (".x{display:none}.x{display:block!important}", "", True),
        (".x{display:none;color:red!important}", "display:block", True),
    ],
)
def test_what_is_important_wins(css, style, seen):
    page = f"<style>{css}</style><p>Words to see.</p><p class=x style='{style}'>secret</p>"
    assert ("secret" in words(page)) == seen


@pytest.mark.parametrize("markup", [False, True])
def test_a_rule_that_hides_most_of_the_page_is_ignored(markup):
    """A script shows it. Other rules still hold, also those inside of what it would have hidden."""
    page = (
        "<style>.main{display:none}.trap{display:none}h6{display:none}</style><div class=main><p>The text of the"
        " page is here.</p><p class=trap>secret</p></div><h6>secret</h6><p>Foot.</p>"
    )
    units = HtmlBlocks(64, markup=markup).segment(Document(page, kind="html"), get_counter())
    text = " ".join(units.texts)
    assert "The text of the page is here." in text
    assert "Foot." in text
    assert "secret" not in text
    assert sorted(set(units.range_reason) - {""}) == ["hidden:display-none", "style"]


def test_rules_that_together_hide_most_of_the_page():
    """Tabs: the largest are shown until half of the words are."""
    tabs = "".join(f"<div class=tab{n}>{f'word{n} ' * n}</div>" for n in (3, 4, 5))
    style = "<style>.tab3{display:none}.tab4{display:none}.tab5{display:none}</style>"
    assert set(words(f"{style}{tabs}<p>one")) == {"word4", "word5", "one"}


def test_half_is_not_most():
    assert words("<style>.x{display:none}</style><p class=x>a b<p>c d") == ["c", "d"]
    assert words("<style>.x{display:none}</style><p class=x>a b e<p>c d") == ["a", "b", "e", "c", "d"]
    assert words("<style>.x{visibility:hidden}</style><p class=x>a b e<p>c d") == ["a", "b", "e", "c", "d"]


def test_rules_are_bounded():
    many = "".join(f".c{n}{{display:none}}" for n in range(5000))
    assert len(read_sheet(many).rules) == 500
    assert not read_sheet("a{color:red}" * 30_000 + ".x{display:none}")


@pytest.mark.parametrize(
    "part", ["{", "}", "a{", ".x{display:none}", "@media{", "/*", '"', "'", "a,", ".a.b", ";", "<!--"]
)
def test_sheets_are_read_in_linear_time(part):
    read_sheet(part * (200_000 // len(part)))


def test_style_elements_are_read_in_linear_time():
    assert "a" in words("<style>" * 20_000 + "</style>" + "<style></style>" * 20_000 + "a")
    assert "a" in words("<noscript>" + "<style></style>" * 20_000 + "a")
    assert "a" in words("<noscript><style>.x{display:none}</style></noscript>" * 5000 + "<p class=x>a")


@given(
    st.lists(
        st.sampled_from(
            [
                ".x",
                "#k",
                "p",
                "{",
                "}",
                "display:none",
                "visibility:hidden",
                ";",
                ",",
                "@media ",
                "/*",
                "*/",
                "'",
                " ",
                "display:block",
                ">",
                ":hover",
            ]
        ),
        max_size=30,
    ).map("".join)
)
def test_any_sheet(css):
    """Whatever stands there, the words that no rule can hide stay, and what goes has its reason."""
    page = f"<style>{css}</style>{PAGE}"
    assert "see." in words(page) or ".y" in css or "p" in css
    assert set(reasons(page)) <= {"hidden:display-none", "hidden:visibility"}
