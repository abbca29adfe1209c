"""Settings of the server part: the ``server:`` mapping of the configuration file, then the environment."""

import os
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tokenprune.errors import ConfigError
from tokenprune.validation import faults
from tokenprune_server.tokens.settings import TokenSettings
from tokenprune_server.vision.settings import VisionSettings

# Routes by which vLLM (in development mode, and for reinforcement learning) lets itself be put to sleep,
# emptied or given other weights: an open proxy in front must not hand them on.
CONTROL_PATHS = (
    "/abort_requests",
    "/collective_rpc",
    "/finish_weight_update",
    "/init_weight_transfer_engine",
    "/pause",
    "/release_kv_cache_memory",
    "/reset_encoder_cache",
    "/reset_mm_cache",
    "/reset_prefix_cache",
    "/resume",
    "/server_info",
    "/shutdown_weight_transfer_engine",
    "/sleep",
    "/start_draft_weight_update",
    "/start_profile",
    "/start_weight_update",
    "/stop_profile",
    "/update_weight_version",
    "/update_weights",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/wake_up",
    "/weight_checker",
)


class ServerSettings(BaseSettings):
    """How the proxy behaves. Environment variables ``TOKENPRUNE_SERVER_<FIELD>`` win over the file."""

    model_config = SettingsConfigDict(env_prefix="TOKENPRUNE_SERVER_", extra="forbid", frozen=True)

    enabled: bool = Field(True, description="Prune requests that do not say otherwise.")
    pipeline: str = Field("default", description="Pipeline or pruner for requests that name none.")
    fail: Literal["open", "closed"] = Field(
        "open",
        description="When pruning fails: `open` forwards the original if it fits the model's context, "
        "`closed` answers with an error.",
    )
    timeout_s: float = Field(10.0, gt=0, description="Deadline for pruning one request, seconds.")
    workers: int = Field(
        min(4, os.cpu_count() or 1), ge=1, description="Threads that prune; the event loop never does."
    )
    queue: int = Field(32, ge=0, description="Requests that may wait for a thread; more are not pruned.")
    min_document_tokens: int = Field(
        200,
        ge=1,
        description="Requests whose documents are shorter in sum are not pruned; shorter requests are "
        "not even looked at.",
    )
    gate: Literal["on", "off"] = Field(
        "on",
        description="`on`: a request that does not ask for pruning itself is pruned only when that makes its "
        "first token come earlier, and what was sent before is sent again as it was, so that the upstream's "
        "prefix cache holds. `off`: every prunable request is pruned for its question.",
    )
    prefill_tokens_per_s: float = Field(
        1000.0,
        gt=0,
        description="Prefill rate of the upstream that is believed until answers tell, tokens per second.",
    )
    prune_tokens_per_s: float = Field(
        20_000.0, gt=0, description="Rate of pruning that is believed until prunes tell, tokens per second."
    )
    reuse_prior: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Probability that a new document comes again with another question, until requests tell. "
        "Where it is likely, documents go unpruned, to be found in the upstream's prefix cache: 1 for an "
        "application that always asks several questions about one document. None: .25, and 1 for a single "
        "document that opens a conversation, where the upstream says that it has a prefix cache (vLLM does) "
        "or was seen to use one.",
    )
    shared_pipeline: str = Field(
        "boilerplate",
        description="Pipeline or pruner, one that needs no question, for HTML that comes again with another "
        "question; `none` leaves it as it is.",
    )
    ledger_max_bytes: int = Field(
        32 * 2**20, ge=0, description="Bytes kept of what was sent upstream, for the gate."
    )
    ledger_ttl_s: float = Field(
        600.0,
        ge=0,
        description="Seconds for which the upstream is believed to keep an unused prefix in its cache.",
    )
    tokens: TokenSettings | None = Field(
        None,
        description="Selection of prompt tokens, behind the pipeline (see `TokenSettings`).",
    )
    vision: VisionSettings | None = Field(
        None, description="Pruning of the pictures of chats (see `VisionSettings`)."
    )
    prune_code_fences: bool = Field(False, description="Prune inside ``` fences as well.")
    max_body_bytes: int = Field(
        32 * 2**20, ge=1, description="Larger request bodies are forwarded without being read."
    )
    max_model_len: int | None = Field(
        None, ge=1, description="Context of the model in tokens; None asks the upstream's /v1/models."
    )
    model_len_ttl_s: float = Field(300.0, ge=0, description="How long an answer of /v1/models is believed.")
    default_output_tokens: int = Field(
        256, ge=1, description="Room kept for the answer when a chat request does not limit it."
    )
    context_margin: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="Share of the context kept free: the model may count tokens otherwise than we do.",
    )
    receipts_max_count: int = Field(1000, ge=0, description="Receipts kept in memory.")
    receipts_max_bytes: int = Field(64 * 2**20, ge=0, description="Bytes of receipts and originals kept.")
    api_keys: tuple[SecretStr, ...] = Field(
        (),
        description="Bearer tokens. When set, the admin routes need one, and requests without one are "
        "forwarded unpruned for the upstream to refuse.",
    )
    blocked_paths: frozenset[str] = Field(
        frozenset(CONTROL_PATHS), description="Paths that are answered with 404 instead of being forwarded."
    )
    connect_timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for an upstream connection.")
    read_timeout_s: float | None = Field(
        None, gt=0, description="Seconds of upstream silence that count as failure; None: no limit."
    )
    keepalive_s: float = Field(4.0, ge=0, description="Seconds an idle upstream connection is kept.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides what the file says."""
        return env_settings, init_settings

    @classmethod
    def load(cls, server: dict[str, Any] | None = None) -> "ServerSettings":
        """Settings from the ``server:`` mapping and the environment; ConfigError names each wrong field."""
        try:
            return cls(**(server or {}))
        except ValidationError as error:
            nested: dict[str, type[BaseModel]] = {"tokens": TokenSettings, "vision": VisionSettings}
            parts = {str(e["loc"][0]) for e in error.errors()}
            part = parts.pop() if len(parts) == 1 else ""
            known = ", ".join(nested.get(part, cls).model_fields)
            where = f" of {part}" if part in nested else ""
            raise ConfigError(f"{faults(error, 'server')}; known settings{where}: {known}") from error
        except SettingsError as error:
            raise ConfigError(f"environment: {error}; it must be JSON") from None
