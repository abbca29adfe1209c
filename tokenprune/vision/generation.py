"""Options of transformers' ``generate`` while pictures are pruned: which of them hold, and what lengths mean.

Options come from three places: the model's own ``generation_config``, one that is given, and keywords; later
ones win, as in transformers. Lengths count the prompt as it was given, with all of its placeholders.
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

from tokenprune.engine.sampling import SamplingParams
from tokenprune.errors import ConfigError

if TYPE_CHECKING:
    from transformers import GenerationConfig

_ENGINE_OPTIONS = (
    "max_new_tokens",
    "max_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "eos_token_id",
    "pad_token_id",
)
# They say how transformers computes, not what comes out, or name tokens that a prompt has already.
_WITHOUT_EFFECT = (
    "use_cache",
    "max_cache_len",
    "compile_config",
    "disable_compile",
    "prefill_chunk_size",
    "low_memory",
    "bos_token_id",
    "decoder_start_token_id",
    "transformers_version",
)
# They read the prompt's ids by themselves, where the pictures are not.
_READ_IDS = (
    "prompt_lookup_num_tokens",
    "assistant_early_exit",
    "use_mtp",
    "speculation_type",
    "prefill_chunk_size",
    "token_healing",
    "guidance_scale",
    "encoder_repetition_penalty",
    "encoder_no_repeat_ngram_size",
)
_READ_IDS_TOO = ("assistant_model", "custom_generate", "negative_prompt_ids", "position_ids")


def effective(
    model: Any, given: GenerationConfig | None, options: dict[str, Any]
) -> tuple[GenerationConfig, dict[str, Any]]:
    """Return what ``generate`` goes by, without transformers' defaults, and the keywords that are not of it.

    Args:
        model: whose own ``generation_config`` fills what is not given.
        given: ``generation_config`` of the caller; it stays as it is.
        options: keywords of the caller.

    Raises:
        ConfigError: values that transformers refuses, or ``given`` is no GenerationConfig.
    """
    from transformers import GenerationConfig

    if not (given is None or isinstance(given, GenerationConfig)):
        raise ConfigError(f"generation_config must be a GenerationConfig, not a {type(given).__name__}")
    config = GenerationConfig() if given is None else copy.deepcopy(given)
    try:
        own = model.generation_config.to_dict()
        config.update(**own, defaults_only=True, allow_custom_entries=True)
        return config, config.update(**options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"generate cannot go by these options: {error}") from error


def for_engine(
    model: Any, given: GenerationConfig | None, options: dict[str, Any], prompt: int
) -> tuple[SamplingParams, frozenset[int], int | None]:
    """Translate for the built-in engine.

    Args:
        model: see `effective`.
        given: see `effective`.
        options: see `effective`.
        prompt: tokens of the prompt as it was given.

    Returns:
        How to continue, tokens that end a sequence, and the token that fills up shorter ones if it is named.

    Raises:
        ConfigError: an option that would be ignored, or no room for a token.
    """
    config, others = effective(model, given, options)
    known = (*_ENGINE_OPTIONS, *_WITHOUT_EFFECT)
    strange = [name for name, value in others.items() if not _nothing(value)]
    strange += [name for name in _set(config, tuple(_defaults())) if name not in known]
    if strange:
        raise ConfigError(
            f"with methods inside the language model, generate runs in the built-in engine, which does not "
            f"know {', '.join(strange)}; it takes {', '.join(_ENGINE_OPTIONS)}"
        )

    def option(name: str) -> Any:
        value = getattr(config, name)
        return _defaults()[name] if value is None else value

    if config.max_new_tokens is not None:
        room = int(config.max_new_tokens)
    elif config.max_length is not None:
        room = int(config.max_length) - prompt
    else:
        room = int(_defaults()["max_length"])
    if room < 1:
        raise ConfigError(
            f"max_length is {config.max_length} and the prompt has {prompt} tokens already, pictures counted "
            "whole: set max_new_tokens, or a larger max_length"
        )
    params = SamplingParams(
        max_tokens=room,
        temperature=float(option("temperature")) if option("do_sample") else 0.0,
        top_p=float(option("top_p")),
        top_k=int(option("top_k")),
    )
    ends = config.eos_token_id
    ends = () if ends is None else (ends,) if isinstance(ends, int) else ends
    return params, frozenset(map(int, ends)), config.pad_token_id


def for_embeddings(
    model: Any, given: GenerationConfig | None, options: dict[str, Any], prompt: int, read: int
) -> tuple[GenerationConfig | None, dict[str, Any]]:
    """Prepare options for ``generate(whole ids, inputs_embeds=...)`` with fewer embeddings than ids.

    transformers takes such ids for text that goes on behind the embeddings, and subtracts these from absolute
    lengths; here the embeddings are of those very ids, so they are added first.

    Args:
        model: see `effective`.
        given: see `effective`.
        options: see `effective`.
        prompt: ids.
        read: embeddings.

    Returns:
        ``generation_config`` and keywords to give.

    Raises:
        ConfigError: an option under which transformers would read the ids without their pictures.
    """
    config, others = effective(model, given, options)
    strange = [name for name in _READ_IDS_TOO if not _nothing(others.get(name))] + _set(config, _READ_IDS)
    if strange:
        raise ConfigError(f"while pictures are pruned, generate does not take {', '.join(strange)}")
    lengths: dict[str, Any] = {}
    if read != prompt:
        for length, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            if getattr(config, length) is not None and getattr(config, new) is None:
                lengths[length] = getattr(config, length) + read
    if given is None or not lengths:
        return given, options | lengths
    given = copy.deepcopy(given)
    given.update(**lengths)
    return given, {name: value for name, value in options.items() if name not in lengths}


def _set(config: GenerationConfig, names: tuple[str, ...]) -> list[str]:
    """Return the options that differ from what transformers does without them."""
    values = {name: getattr(config, name, None) for name in names}
    return [n for n, value in values.items() if not _nothing(value) and value != _defaults().get(n)]


def _nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, (list, dict)) and not value)


@functools.cache
def _defaults() -> dict[str, Any]:
    """Return transformers' value of every option; None: it does nothing."""
    from transformers import GenerationConfig

    empty = GenerationConfig()
    named = empty.to_dict() | empty._get_default_generation_params()
    return {name: value for name, value in named.items() if not name.startswith("_")}
