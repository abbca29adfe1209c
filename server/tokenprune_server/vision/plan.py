"""Which method prunes the pictures of a request, from its options and the settings."""

import json

from tokenprune.errors import ConfigError, MissingExtraError, ModelError, TokenPruneError
from tokenprune.vision.methods.base import method_spec, vision_method, vision_method_info
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
    # Null, like "auto", asks for the method's own number.
    keep = asked.keep if "keep" in asked.model_fields_set else settings.keep
    video = settings.video if asked.video is None else asked.video
    try:
        return _plan(*_method(settings, asked), keep, video)
    except MissingExtraError:
        raise
    except TokenPruneError as error:
        raise RequestError(str(error), param="tokenprune.vision") from error


def _method(settings: VisionSettings, asked: VisionOptions) -> tuple[str, MethodOptions]:
    """Which method, as its name with or without options behind it, and the other options.

    Options of the settings, in either place, hold for their own method, and where the request gives none.
    """
    own = method_spec(settings.method)[0]
    name, behind = (own, {}) if asked.method is None else method_spec(asked.method)
    if behind or asked.options is not None:
        return asked.method or own, asked.options or {}
    same = vision_method_info(name).name == vision_method_info(own).name
    return (settings.method, settings.options) if same else (name, {})


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
    built = vision_method(method, **options)
    if keep is None and not built.own_count:
        raise ConfigError(f"vision method {built.name!r} needs a budget: give keep, tokens or a share")
    # 1 (a token) and 1.0 (all of them) are equal, but not the same.
    key = json.dumps([method, options, repr(keep)], sort_keys=True)
    return Plan(built, key, keep, video, built.name)
