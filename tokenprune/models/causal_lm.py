"""Causal language models by name, folder or hub id, loaded once per process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.models.catalog import TOKENIZERS, check_causal, damaged_weights, no_tokenizer, resolve_model
from tokenprune.models.device import loading_alone, pick_device, pick_dtype
from tokenprune.models.once import Once, state_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Their language model is a causal LM behind a vision tower; what stands for a picture is embedded like text.
_SEEING = ("llava", "llava_onevision")
# In the names of transformers' classes that generate text.
_GENERATING = ("CausalLM", "LMHead", "ConditionalGeneration")
# Tokenizers without a limit carry a huge number instead.
_NO_LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class LoadedLM:
    """A causal LM ready to run, in evaluation mode; in a LLaVA-type model it stands behind a vision tower.

    Attributes:
        name: What was asked for.
        model: The transformers model.
        tokenizer: Its tokenizer.
        max_positions: Tokens the model can read and write in one sequence.
        eos_ids: Token ids that end a generation.
        stored: Number format of the checkpoint, as its config says.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_positions: int
    eos_ids: frozenset[int]
    stored: torch.dtype | None = None

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device


_models: Once[LoadedLM] = Once()


def load_causal_lm(
    name_or_path: str, device: str | None = None, dtype: str | torch.dtype | None = None
) -> LoadedLM:
    """Load a causal LM; the same arguments give the same object in a process.

    Weights must be safetensors, and code that comes with a model is never run.

    Args:
        name_or_path: A name of ``tokenprune models list``, a folder in Hugging Face layout, or a hub id.
        device: A torch device; the accelerator or else the CPU by default.
        dtype: ``bfloat16``, ``float16`` or ``float32``; by default bfloat16 where the hardware has it.

    Raises:
        ModelError: The model cannot be found, fetched or loaded.
        MissingExtraError: torch or transformers is not installed.
    """
    check_causal(name_or_path)
    path = resolve_model(name_or_path)
    device = pick_device(device)
    chosen = pick_dtype(device, dtype)
    key = (path, state_of(path), device, str(chosen))
    return _models.get(key, lambda: _load(name_or_path, path, device, chosen))


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a causal LM alone; see :func:`load_causal_lm`.

    Raises:
        ModelError: It cannot be found, fetched or loaded.
        MissingExtraError: transformers is not installed.
    """
    path = resolve_model(name_or_path)
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtraError("causal language models", "models", error.name or "transformers") from error
    folder = Path(path)
    if folder.is_dir() and not any((folder / file).exists() for file in TOKENIZERS):
        raise no_tokenizer(name_or_path)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"cannot load a tokenizer of {name_or_path!r}: {error}; give a folder in Hugging Face layout, a "
            "hub id that is downloaded or can be reached, or a name that `tokenprune models list` shows"
        ) from error


def fresh_causal_lm(name_or_path: str, dtype: str = "float32") -> LoadedLM:
    """Load a causal LM on the CPU that nobody else holds, to be changed; else as `load_causal_lm`."""
    check_causal(name_or_path)
    return _load(name_or_path, resolve_model(name_or_path), "cpu", pick_dtype("cpu", dtype))


def _load(name: str, path: str, device: str, dtype: torch.dtype) -> LoadedLM:
    try:
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    except ImportError as error:
        raise MissingExtraError("causal language models", "models", error.name or "transformers") from error
    import tokenprune.weights  # noqa: F401  # tells transformers about the models that weight pruning writes

    try:
        with loading_alone():
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            made = config.architectures or ()
            if made and not any(part in given for given in made for part in _GENERATING):
                raise ModelError(f"{name!r} is a {made[0]}: needed is a causal language model")
            tokenizer = load_tokenizer(name)
            seeing = config.model_type in _SEEING
            stored = config.get_text_config().dtype
            model, found = (AutoModelForImageTextToText if seeing else AutoModelForCausalLM).from_pretrained(
                path,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise damaged_weights(name, error) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"cannot load {name!r} as a causal language model: {error}; give a folder in Hugging Face layout "
            "with safetensors, a hub id that is downloaded or can be reached, or a name that "
            "`tokenprune models list` shows"
        ) from error
    if missing := sorted(found["missing_keys"]):  # transformers draws them at random
        raise ModelError(
            f"{name!r} lacks {len(missing)} of its weights, {missing[0]} among them: the checkpoint is "
            "damaged or of another model, fetch or make it again"
        )
    model = model.to(device).eval()
    positions, ends = _max_positions(model, tokenizer), _eos_ids(model, tokenizer)
    return LoadedLM(name, model, tokenizer, positions, ends, stored)


def _max_positions(model: Any, tokenizer: Any) -> int:
    config = model.config.get_text_config()
    known = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    limits = [int(limit) for limit in known if isinstance(limit, int) and 0 < limit < _NO_LIMIT]
    if not limits:
        raise ModelError(
            f"{model.name_or_path!r} does not say how many positions it has (max_position_embeddings)"
        )
    return limits[0]


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ids: set[int] = set()
    config = model.config.get_text_config()
    for value in (model.generation_config.eos_token_id, config.eos_token_id, tokenizer.eos_token_id):
        if isinstance(value, int):
            ids.add(value)
        elif value is not None:
            ids.update(int(item) for item in value)
    return frozenset(ids)
