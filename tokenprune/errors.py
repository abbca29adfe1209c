"""Every error this package raises on purpose; each message says what to do."""


class TokenPruneError(Exception):
    """Base of all errors of this package."""


class ConfigError(TokenPruneError):
    """A configuration file, environment variable or option has a wrong value."""


class UnknownNameError(TokenPruneError):
    """A method, pipeline, tokenizer or model name that nothing is registered under."""

    def __init__(self, what: str, name: str, known: list[str]) -> None:
        """Build the message: ``what`` is the kind of thing, ``known`` the names that exist."""
        self.what, self.name, self.known = what, name, sorted(set(known))
        super().__init__(f"unknown {what} {name!r}; known names: {', '.join(self.known) or '(none)'}")


class BudgetError(TokenPruneError):
    """A budget that cannot be meant: negative tokens, a ratio outside 0..1, both at once."""


class DocumentError(TokenPruneError):
    """A document that cannot be read: wrong kind, too large, duplicate id."""


class ModelError(TokenPruneError):
    """A model that cannot be found, fetched, verified or loaded."""


class MissingExtraError(TokenPruneError):
    """A part that needs an optional dependency which is not installed."""

    def __init__(self, part: str, extra: str, missing: str) -> None:
        """Name the part, the extra that brings what it needs, and the missing module."""
        super().__init__(
            f"{part} needs the module {missing!r}: install this project with the extra [{extra}]"
        )


class QueryError(TokenPruneError):
    """A question is needed and none was given."""


class MeasureError(TokenPruneError):
    """A measurement that cannot be made: a server that cannot be reached, a workload without cases."""


class RecipeError(TokenPruneError):
    """A weight-pruning recipe, target or calibration text that cannot work for this model."""


class VisionError(TokenPruneError):
    """Visual tokens, a vision checkpoint or a method's input that cannot be used."""


class ImageError(VisionError):
    """A picture that cannot be read: not an image, damaged, too large."""
