"""Errors of pydantic in one line, wherever our models are used; texts that may be plain strings."""

from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tokenprune.bench.casefile import Line
from tokenprune.errors import ConfigError
from tokenprune.validation import STRINGS_ARE_TEXTS, faults, first_fault, line
from tokenprune_server.admin import PruneRequest
from tokenprune_server.embedded_types import ApiError, ChatRequest, parse
from tokenprune_server.errors import RequestError
from tokenprune_server.options import read_options


class Item(BaseModel):
    text: str
    title: str = ""


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    items: Annotated[list[Item], STRINGS_ARE_TEXTS] = []
    n: int = 0

    @model_validator(mode="after")
    def _small(self):
        if self.n > 9:
            raise ValueError("n is too large")
        return self


def error_of(value):
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(value)
    return caught.value


def test_strings_are_texts():
    items = Model.model_validate({"items": ["a", {"text": "b", "title": "B"}]}).items
    assert [(item.text, item.title) for item in items] == [("a", ""), ("b", "B")]
    for wrong in (["a", 3], "a", {"text": "a"}, None):
        error_of({"items": wrong})


def test_where_and_what():
    assert first_fault(error_of({"items": ["a", {"text": 3}]})) == (
        "items.1.text", "Input should be a valid string",
    )  # fmt: skip
    assert first_fault(error_of({"n": 10})) == ("", "n is too large")
    assert line("", "n is too large") == "n is too large"
    several = faults(error_of({"n": "x", "m": 1}), "server")
    assert several.startswith("server.n: Input should be a valid integer")
    assert several.endswith("; server.m: Extra inputs are not permitted")


@given(st.text(max_size=8))
def test_one_line_whatever_the_name(name):
    if name not in Model.model_fields:
        said = faults(error_of({name: 1}))
        assert said.isprintable() and said.endswith(": Extra inputs are not permitted")


def test_the_same_where_it_is_used():
    strange = {"a\nb": 1}
    with pytest.raises(ConfigError, match=r"^'a\\nb': Extra"):
        Line.parse(strange)
    with pytest.raises(RequestError, match=r"^tokenprune\.'a\\nb': Extra"):
        read_options(strange, [])
    with pytest.raises(ApiError, match=r"^messages: Field required"):
        parse(ChatRequest, b"{}")
    for texts in (read_options({"contexts": ["a", {"text": "b"}]}, []).contexts,
                  PruneRequest.model_validate({"query": "", "documents": ["a", {"text": "b"}]}).documents):  # fmt: skip
        assert [item.text for item in texts] == ["a", "b"]
    for wrong in ("a", {"text": "a"}, 3, [3]):
        with pytest.raises(RequestError, match=r"^tokenprune\.contexts"):
            read_options({"contexts": wrong}, [])
