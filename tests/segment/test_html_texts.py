"""Texts folded all at once come out as each does alone."""

import re

from hypothesis import given
from hypothesis import strategies as st

from tokenprune.segment.html_page import escape_text
from tokenprune.segment.html_texts import read_texts

texts = st.lists(st.text("ab1 \t\n\f&<;#/\xa0\u2003\u3000日本한カe\u0301😀", max_size=30), max_size=8)


@given(texts.filter(len))
def test_read_texts(some):
    found = read_texts("\0".join(some))
    assert found.plain == [*some, ""]
    for k, text in enumerate([*some, ""]):
        once = re.sub("[ \t\n\r\f]+", " ", text)
        assert found.written[k] == escape_text(once.strip(" "))
        assert found.some[k] == bool(text)
        assert found.words[k] == bool(once.strip(" "))
        assert found.before[k] == once.startswith(" ")
        assert found.behind[k] == once.endswith(" ")
        assert found.sign[k] == (once.strip(" ")[-1:] in ("&", "<") and bool(once.strip(" ")))
