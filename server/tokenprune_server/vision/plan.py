"""Which method prunes the pictures of a request, from its options and the settings."""

import json

from tokenprune.errors import ConfigError, MissingExtraError, ModelError, TokenPruneError
from tokenprune_server.errors import RequestError
from tokenprune_server.options import MethodOptions, VisionOptions
from tokenprune_server.vision.reduce import Plan
from tokenprune_server.vision.settings import VisionSettings

_NO_OPTIONS = VisionOptions()


def plan(settings: VisionSettings, options: VisionOptions | None) -> Plan:
    """How the pictures of a request are pruned.

    Raises:
        RequestError: the request asks for a method, an option or a budget that does not exist.
    """
    asked = options if options is not None else _NO_OPTIONS
    own = asked.method is None or asked.method == settings.method
    method = settings.method if asked.method is None else asked.method
    chosen = settings.options if own else {}
    if asked.options is not None:
        chosen = asked.options
    # Null, like "auto", asks for the method's own number.
    keep = asked.keep if "keep" in asked.model_fields_set else settings.keep
    try:
        return _plan(method, chosen, keep, settings.video if asked.video is None else asked.video)
    except MissingExtraError:
        raise
    except TokenPruneError as error:
        raise RequestError(str(error), param="tokenprune.vision") from error


def check_settings(settings: VisionSettings) -> None:
    """Raise ConfigError unless the settings name a method and a model that there are.

    The model is looked at, not loaded.
    """
    from tokenprune.models.catalog import resolve_model
    from tokenprune.vision.export import check_checkpoint, is_vision_part

    try:
        check_checkpoint(settings.model)
    except ModelError as error:
        raise ConfigError(f"server.vision.model: {error}") from error
    if settings.questions and is_vision_part(resolve_model(settings.model)):
        raise ConfigError(
            f"server.vision.questions: {settings.model!r} is the vision part of a checkpoint, and questions "
            "need all of it: give the checkpoint as server.vision.model, or set questions to false"
        )
    try:
        _plan(settings.method, settings.options, settings.keep, settings.video)
    except MissingExtraError:
        raise
    except TokenPruneError as error:
        raise ConfigError(f"server.vision: {error}") from error


def _plan(method: str, options: MethodOptions, keep: int | float | None, video: bool) -> Plan:
    from tokenprune.vision.methods import vision_method

    built = vision_method(method, **options)
    if keep is None and not built.own_count:
        raise ConfigError(f"vision method {method!r} needs a budget: give keep, tokens or a share")
    # 1 (a token) and 1.0 (all of them) are equal, but not the same.
    key = json.dumps([method, options, repr(keep)], sort_keys=True)
    return Plan(built, key, keep, video, method)
