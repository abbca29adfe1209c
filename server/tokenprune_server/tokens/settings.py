"""Settings of the selection of prompt tokens: the mapping ``server.tokens`` of the configuration file."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tokenprune.errors import ConfigError, ModelError

# Options that not every method has.
_METHODS_WITH = {
    "layer": ("gemfilter-q", "gemfilter"),
    "near": ("gemfilter-q", "gemfilter"),
    "narrow": ("gemfilter-q",),
    "kernel": ("gemfilter-q",),
}


class TokenSettings(BaseModel):
    """Which tokens go on, and what chooses them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        description="The model whose layers choose: the served one, or a smaller draft (a named model, a "
        "folder in Hugging Face layout or a hub name)."
    )
    tokenizer: str | None = Field(
        None, description="Tokenizer and chat template of the served model; None: those of `model`."
    )
    method: Literal["gemfilter-q", "gemfilter", "lazyllm", "specprefill"] = Field(
        "gemfilter-q", description="How tokens are scored."
    )
    unit: Literal["sentence", "token"] = Field(
        "sentence",
        description="What goes or stays as a whole: a sentence is as good as its best token; single tokens "
        "lose half of a number.",
    )
    keep: int = Field(
        512,
        ge=1,
        description="Tokens of documents that go on; all else of a prompt always does. With the pipeline "
        "`none`, a request's own budget takes its place.",
    )
    layer: int | None = Field(
        None, ge=1, description="GemFilter: the layer that looks; None: the one known for the model."
    )
    near: int | None = Field(
        None,
        ge=1,
        description="GemFilter: while they are read, tokens before the question see so many before them.",
    )
    narrow: float | None = Field(
        None,
        gt=0,
        le=1,
        description="gemfilter-q: share of a prompt's tokens that is still read behind the first of the "
        "layers that look.",
    )
    kernel: int | None = Field(
        None,
        ge=1,
        description="gemfilter-q: scores are averaged over as many neighbours; None: as known for the model.",
    )
    send: Literal["ids", "text"] = Field(
        "ids",
        description="`ids`: as token ids where that answers as a chat does, else as text; `text`: always as "
        "text.",
    )
    dtype: str | None = Field(None, description="Number format of the model; None: the fastest that is good.")
    timeout_s: float = Field(30.0, gt=0, description="Deadline of a selection, seconds.")

    @model_validator(mode="after")
    def _options_of_the_method(self) -> "TokenSettings":
        for option, methods in _METHODS_WITH.items():
            if getattr(self, option) is not None and self.method not in methods:
                use = " or ".join(methods)
                raise ValueError(f"method {self.method!r} has no {option}: leave it out, or use {use}")
        return self

    def check(self) -> None:
        """Raise ConfigError unless the model and the tokenizer are there, as far as is seen unloaded."""
        from tokenprune.engine.check import check_model, check_tokenizer

        try:
            looks = self.method in _METHODS_WITH["layer"]
            check_model(self.model, self.layer or (1 if looks else None))
        except ModelError as error:
            raise ConfigError(f"server.tokens.model: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"server.tokens.layer: {error}") from error
        for place, name in (("model", self.model), ("tokenizer", self.tokenizer)):
            try:
                if name is not None:
                    check_tokenizer(name)
            except ModelError as error:
                raise ConfigError(f"server.tokens.{place}: {error}") from error
