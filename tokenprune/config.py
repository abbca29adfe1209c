"""Configuration: YAML file and environment -> pipelines.

A file names pipelines and, for the proxy, its settings::

    tokenizer: smollm2-135m          # whose tokens are counted: the serving model's
    pipelines:
      default:
        pruners: [htmlrag-embed, {name: bm25-sentences, keep_ratio: 0.3}]
        budget: {max_tokens: 1024}   # or keep_ratio; leave it out for adaptive
      strict:
        pruners: [htmlrag-bm25, bm25-sentences]
    server: {min_document_tokens: 200}

A file with only ``pruners`` (and ``budget``) at the top is one pipeline. Environment variables override it:
``TOKENPRUNE_TOKENIZER``, ``TOKENPRUNE_PIPELINES`` (JSON); ``TOKENPRUNE_CONFIG`` names the file itself.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tokenprune import unique_yaml
from tokenprune.budget import Budget
from tokenprune.document import KINDS
from tokenprune.errors import ConfigError, UnknownNameError
from tokenprune.pipeline import Pipeline
from tokenprune.registry import list_pruners
from tokenprune.registry import pruner as build_pruner
from tokenprune.render import renderer
from tokenprune.render.source import SameForm
from tokenprune.tokens import DEFAULT_TOKENIZER
from tokenprune.validation import faults


class BudgetConfig(BaseModel):
    """A budget: ``max_tokens`` or ``keep_ratio``; neither is adaptive."""

    model_config = ConfigDict(extra="forbid")
    max_tokens: int | None = None
    keep_ratio: float | None = None


class PrunerConfig(BaseModel):
    """A method by name with its options."""

    model_config = ConfigDict(extra="allow")
    name: str


class PipelineConfig(BaseModel):
    """Pruners in order, and the budget when a request gives none."""

    model_config = ConfigDict(extra="forbid")
    pruners: list[PrunerConfig] = Field(min_length=1)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)

    @field_validator("pruners", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return [{"name": v} if isinstance(v, str) else v for v in value] if isinstance(value, list) else value

    def build(self, tokenizer: str) -> Pipeline:
        """Build the pipeline."""
        pruners = [build_pruner(p.name, **(p.model_extra or {})) for p in self.pruners]
        return Pipeline(pruners, budget=Budget(**self.budget.model_dump()), tokenizer=tokenizer)


# What the labeler of the default pipeline may read of texts in one call, or two budgets: more than it takes
# to judge twenty retrieved passages, the best of a book.
_READ_TOKENS = 4096


def default_pipeline() -> PipelineConfig:
    """The pipeline used when none is configured: `provence` for texts, `hybrid` for all else.

    Where their models cannot run, BM25 alone.
    """
    if not find_spec("sentence_transformers"):
        return PipelineConfig.model_validate({"pruners": ["bm25-sentences"]})
    texts = {"name": "provence", "kinds": ["text"], "read_tokens": _READ_TOKENS}
    # Behind it, so that a page it wrote as Markdown is not pruned again.
    others = {"name": "hybrid", "kinds": [kind for kind in KINDS if kind != "text"]}
    return PipelineConfig.model_validate({"pruners": [texts, others]})


class Config(BaseSettings):
    """Everything that can be configured; see the module's text for the file format."""

    model_config = SettingsConfigDict(env_prefix="TOKENPRUNE_", extra="ignore", populate_by_name=True)
    tokenizer: str = DEFAULT_TOKENIZER
    pipelines: dict[str, PipelineConfig] = Field(default_factory=dict)
    server: dict[str, Any] = Field(default_factory=dict)
    _built: dict[tuple[str, str | None], Pipeline] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment override the file, whose content arrives as init arguments."""
        return env_settings, init_settings

    def model_post_init(self, context: Any) -> None:
        """Add the default pipeline."""
        super().model_post_init(context)
        self.pipelines.setdefault("default", default_pipeline())

    def build(self, name: str = "default", output: str | None = None) -> Pipeline:
        """Return a configured pipeline, or one made of a single method; built once.

        Args:
            name: of the pipeline or method.
            output: what it makes of HTML (see `with_output`); None as it is configured.

        Raises:
            ConfigError: there is no such output.
            UnknownNameError: neither a pipeline nor a method has this name; the message lists both.
        """
        key = (name, output)
        if key not in self._built:
            built = self._build(name) if output is None else with_output(self.build(name), output)
            self._built[key] = built
        return self._built[key]

    def _build(self, name: str) -> Pipeline:
        if name in self.pipelines:
            return self.pipelines[name].build(self.tokenizer)
        methods = [info.name for info in list_pruners()]
        if name in methods:
            return Pipeline([name], tokenizer=self.tokenizer)
        raise UnknownNameError("pipeline or method", name, [*self.pipelines, *methods])


def with_output(pipeline: Pipeline, output: str) -> Pipeline:
    """Return a pipeline that gives HTML back in another form; models that are loaded are shared.

    What is kept does not depend on the form: a page that stayed one so far is pruned by no method for texts.

    Args:
        pipeline: the last of its methods that a page reaches writes the form. Those before it write what they
            did, or HTML where that is asked for.
        output: one of `tokenprune.render.OUTPUTS`.

    Raises:
        ConfigError: there is no such output.
    """
    form = renderer(output)
    pruners = list(pipeline.pruners)
    last = None
    for n, pruner in enumerate(pruners):
        if "html" in pruner.kinds:
            last = n
            if isinstance(pruner.renderer, SameForm):
                continue
            if not isinstance(form, SameForm):
                break  # what comes behind it meets a text
            pruners[n] = replace(pruner, renderer=form)
    if last is not None:
        was = pruners[last]
        ends = was.ends or isinstance(was.renderer, SameForm)
        pruners[last] = replace(was, renderer=form, ends=ends)
    return Pipeline(pruners, budget=pipeline.budget, tokenizer=pipeline.tokenizer)


def load_config(path: str | None = None, tokenizer: str | None = None) -> Config:
    """Read the configuration.

    Args:
        path: a YAML file; None takes ``TOKENPRUNE_CONFIG`` from the environment, else the defaults.
        tokenizer: overrides the configured one.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something unknown; the message says where.
    """
    path = path or os.environ.get("TOKENPRUNE_CONFIG") or None
    content: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = unique_yaml.load(Path(path).expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path} is not a text file in UTF-8") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"{path} must hold a mapping, such as 'pipelines: ...'")
        # A section whose entries are all commented out reads as null.
        content = {key: value for key, value in (loaded or {}).items() if value is not None}
    if "pruners" in content:
        keys = ("pruners", "budget")
        single = {k: content.pop(k) for k in keys if k in content}
        pipelines = content.setdefault("pipelines", {})
        if isinstance(pipelines, dict):  # anything else is refused below, with its place
            if "default" in pipelines:
                raise ConfigError(f"{path}: 'pruners' is the default pipeline, and 'pipelines' has one too")
            pipelines["default"] = single
    elif "budget" in content:
        raise ConfigError(f"{path}: 'budget' goes with 'pruners', or into a pipeline")
    unknown = sorted(str(key) for key in content if key not in Config.model_fields)
    if unknown:
        known = ", ".join(Config.model_fields)
        raise ConfigError(f"{path}: unknown key {', '.join(unknown)}; known keys: {known}, pruners, budget")
    try:
        config = Config(**content)
        if tokenizer is not None:
            config.tokenizer = tokenizer
        for name in config.pipelines:
            config.build(name)
    except ValidationError as error:
        raise ConfigError(f"{path or 'environment'}: {faults(error)}") from None
    except SettingsError as error:
        raise ConfigError(f"environment: {error}; it must be JSON") from None
    return config
