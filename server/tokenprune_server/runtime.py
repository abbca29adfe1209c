"""What the middleware and the admin app share."""

import logging
import time
from collections.abc import Callable

from tokenprune.config import Config, load_config
from tokenprune.errors import ConfigError, MissingExtraError, ModelError, UnknownNameError
from tokenprune.registry import without_query
from tokenprune_server.gate import Gate
from tokenprune_server.metrics import Metrics
from tokenprune_server.pool import PrunePool
from tokenprune_server.receipts import ReceiptStore
from tokenprune_server.rewrite import Rewriter
from tokenprune_server.settings import ServerSettings
from tokenprune_server.tokens.select import TokenSelector
from tokenprune_server.types import Headers
from tokenprune_server.vision.plan import check_settings
from tokenprune_server.vision.reduce import PictureReducer

log = logging.getLogger("tokenprune.server")


class Runtime:
    """Configuration, settings, receipts, metrics, the gate and the pruning threads of one server.

    Args:
        config: the library's configuration.
        settings: server settings; those of ``config.server`` and the environment when None.
        clock: seconds, monotonic: by it the gate measures prunes and answers.

    Raises:
        ConfigError: a wrong setting, or a default pipeline that does not exist.
    """

    def __init__(
        self,
        config: Config,
        settings: ServerSettings | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.config = config
        self.settings = settings if settings is not None else ServerSettings.load(config.server)
        self._check_pipeline()
        self.receipts = ReceiptStore(self.settings.receipts_max_count, self.settings.receipts_max_bytes)
        self.metrics = Metrics()
        self.pool = PrunePool(self.settings.workers, self.settings.queue)
        # Pictures have threads of their own: their encodings must not hold up texts, nor known pictures.
        self.encoders = PrunePool(self.settings.workers, self.settings.queue)
        self.gate = Gate(self.settings, clock)
        self.rewriter = Rewriter(config, self.settings, self.receipts, self.gate)
        tokens = self.settings.tokens
        self.selector = None if tokens is None else TokenSelector(tokens)
        vision = self.settings.vision
        self.reducer = None if vision is None else PictureReducer(vision)
        self.warming_up = False
        self.broken: str | None = None  # why the default pipeline cannot be used
        self._keys = frozenset(key.get_secret_value() for key in self.settings.api_keys)

    def _check_pipeline(self) -> None:
        """Refuse a default pipeline that does not exist; one whose model is missing shows in ``/readyz``."""
        if "shared_pipeline" in self.settings.model_fields_set:
            self._check_shared()
        if self.settings.vision is not None:
            check_settings(self.settings.vision)
        try:
            self.config.build(self.settings.pipeline)
        except UnknownNameError as error:
            raise ConfigError(f"server.pipeline: {error}") from error
        except (MissingExtraError, ModelError):
            log.warning("pipeline %r cannot be built yet", self.settings.pipeline, exc_info=True)

    def _check_shared(self) -> None:
        name = self.settings.shared_pipeline
        try:
            needs_query = self.config.build(name).uses_query
        except UnknownNameError as error:
            raise ConfigError(f"server.shared_pipeline: {error}") from error
        if needs_query:
            known = ", ".join(without_query())
            raise ConfigError(
                f"server.shared_pipeline: {name!r} prunes for a question; name one that needs none ({known})"
            )

    def warm_up(self) -> None:
        """Load what requests need, so that the first one does not wait for it."""
        self.rewriter.warm_up()
        if self.selector is not None:
            self.selector.warm_up()
        if self.reducer is not None:
            self.reducer.warm_up()

    @classmethod
    def from_env(cls) -> "Runtime":
        """Runtime of the file that ``TOKENPRUNE_CONFIG`` names, or of the defaults."""
        return cls(load_config())

    def authorized(self, headers: Headers) -> bool:
        """Whether a request carries one of our API keys; true when there are none."""
        if not self._keys:
            return True
        for name, value in headers:
            if name == b"authorization":
                scheme, _, token = value.decode("latin-1").partition(" ")
                return scheme.lower() == "bearer" and token.strip() in self._keys
        return False
