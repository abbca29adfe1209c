"""A chat, or a prompt string, as a completions request for token ids, where both give the same answer.

After the request models of vLLM 0.32. What cannot be carried over is named, and such a request goes as text.
"""

from typing import Any

from tokenprune_server.protocols.base import Body, limit_of
from tokenprune_server.tokens.render import is_chat

# Fields that mean the same on both routes.
SAME = (
    "model",
    "allowed_token_ids",
    "bad_words",
    "cache_salt",
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "logit_bias",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "priority",
    "repetition_detection",
    "repetition_penalty",
    "request_id",
    "seed",
    "session_id",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop",
    "stop_token_ids",
    "stream",
    "stream_interval",
    "stream_options",
    "temperature",
    "top_k",
    "top_p",
    "user",
    "vllm_xargs",
    "watermarking",
)
# Looked at elsewhere: the prompt, and what the answer may be long.
_LIMITS = ("max_completion_tokens", "max_tokens")
_RENDERED = ("messages", "chat_template_kwargs", *_LIMITS)
# Without effect on what the model reads and writes; OpenAI's own bookkeeping.
_IGNORED = (
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
)
# Values by which a field asks for nothing.
_IDLE: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "continue_final_message": (False,),
    "echo": (False,),
    "include_reasoning": (True,),
    "length_penalty": (1.0,),
    "logprobs": (False,),
    "modalities": (["text"],),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_prompt_text": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "functions": ([],),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
}
# Known, and only a chat can do it; the names go into headers and metrics.
_CHAT_ONLY = (
    *_IDLE,
    "audio",
    "chat_template",
    "documents",
    "ec_transfer_params",
    "function_call",
    "kv_transfer_params",
    "logprob_token_ids",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "prediction",
    "prompt_logprobs",
    "reasoning",
    "reasoning_effort",
    "response_format",
    "structured_outputs",
    "thinking_token_budget",
    "truncate_prompt_tokens",
    "truncation_side",
    "verbosity",
    "web_search_options",
)
# What /v1/completions makes of the string of a prompt, or of more than one.
_STRING_ONLY = ("echo", "prompt_embeds", "suffix", "truncate_prompt_tokens")
_TEXT_FORMAT = {"type": "text"}


def unmappable(body: Body) -> str | None:
    """Why a request cannot go as ids: the name of a field; None when it can."""
    if not is_chat(body):
        return next((name.replace("_", "-") for name in _STRING_ONLY if body.get(name)), None)
    for name, value in body.items():
        if name in _LIMITS and value is not None and not _positive(value):
            return "max-tokens"
        if value is None or name in SAME or name in _RENDERED or name in _IGNORED:
            continue
        if name == "response_format" and value == _TEXT_FORMAT:
            continue
        if any(value == idle for idle in _IDLE.get(name, ())):
            continue
        return name.replace("_", "-") if name in _CHAT_ONLY else "unknown-field"
    return None


def completion(body: Body, ids: list[int], model_len: int | None) -> Body | None:
    """The completions request for a mappable one; None when nobody knows how long a chat's answer may be.

    A chat without a limit may fill the context, a completion without one ends after 16 tokens.
    """
    if not is_chat(body):
        return {**body, "prompt": ids}
    limit = limit_of(body, _LIMITS, 0)
    if not limit:
        if model_len is None or model_len <= len(ids):
            return None
        limit = model_len - len(ids)
    fields = {name: body[name] for name in SAME if body.get(name) is not None}
    return {**fields, "prompt": ids, "max_tokens": limit, "add_special_tokens": False}


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
