"""What the middleware and the admin app share."""

import logging
import threading
import time
from collections.abc import Callable

from tokenprune.config import Config, load_config
from tokenprune.errors import ConfigError, MissingExtraError, ModelError, TokenPruneError, UnknownNameError
from tokenprune.registry import without_query
from tokenprune_server.gate import Gate
from tokenprune_server.metrics import Metrics
from tokenprune_server.pool import PrunePool
from tokenprune_server.receipts import ReceiptStore
from tokenprune_server.request import Outcome
from tokenprune_server.rewrite import Rewriter
from tokenprune_server.settings import ServerSettings
from tokenprune_server.tokens.select import TokenSelector
from tokenprune_server.types import Headers
from tokenprune_server.vision.plan import check_settings
from tokenprune_server.vision.reduce import PictureReducer
from tokenprune_server.vision.viewer import Viewer

log = logging.getLogger("tokenprune.server")

# Parts that load models, as `Runtime.broken` names them.
TEXTS, TOKENS, PICTURES = "pipeline", "the selection of prompt tokens", "the pruning of pictures"

_RELOAD_S = 60.0  # after a model could not be loaded


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
        # Pictures have threads of their own, and so has what is short of them: encodings must not hold up
        # texts, and neither of the two must hold up a picture that is known.
        self.encoders = PrunePool(self.settings.workers, self.settings.queue)
        self.lookups = PrunePool(self.settings.workers, self.settings.queue)
        # What must become shorter for lack of a thread cannot wait for one of those.
        self.rescues = PrunePool(self.settings.workers, self.settings.queue)
        self.gate = Gate(self.settings, clock)
        self.rewriter = Rewriter(config, self.settings, self.receipts, self.gate)
        tokens = self.settings.tokens
        self.selector = None if tokens is None else TokenSelector(tokens)
        vision = self.settings.vision
        self.reducer = None if vision is None else PictureReducer(vision)
        self.viewer = None if vision is None or self.reducer is None else Viewer(vision, self.reducer)
        self.warming_up = False
        self._broken: dict[str, str] = {}
        self._lock = threading.Lock()
        self._tokens_loading, self._tokens_again = False, 0.0
        self._keys = frozenset(key.get_secret_value() for key in self.settings.api_keys)

    def _check_pipeline(self) -> None:
        """Refuse a default pipeline that does not exist; one whose model is missing shows in ``/readyz``."""
        if "shared_pipeline" in self.settings.model_fields_set:
            self._check_shared()
        if self.settings.tokens is not None:
            self.settings.tokens.check()
        if self.settings.vision is not None:
            check_settings(self.settings.vision)
        try:
            self.config.build(self.settings.pipeline)
        except UnknownNameError as error:
            raise ConfigError(f"server.pipeline: {error}") from error
        except (MissingExtraError, ModelError) as error:
            log.warning("pipeline %r cannot be built yet: %s", self.settings.pipeline, error)

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

    def shutdown(self) -> None:
        """Take no more work."""
        for pool in (self.pool, self.rescues, self.encoders, self.lookups):
            pool.shutdown()

    @property
    def broken(self) -> str | None:
        """Why something that requests need cannot be used; None when all can."""
        return "; ".join(tuple(self._broken.values())) or None

    def note_works(self, outcome: Outcome, *, texts: bool) -> None:
        """What a request has used can be used, if not at the start, then by now.

        Args:
            outcome: of the request.
            texts: whether its documents were pruned by the default pipeline.
        """
        if texts:
            self._broken.pop(TEXTS, None)
        if outcome.pictures is not None and outcome.pictures.method:
            self._broken.pop(PICTURES, None)

    def start(self) -> None:
        """Begin to warm up, in a thread beside those that prune: requests do not wait for it."""
        self.warming_up = True
        threading.Thread(target=self.warm_up, name="tokenprune-warm-up").start()

    def warm_up(self) -> None:
        """Load what requests need, so that the first one does not wait for it; never raises.

        The server is still a proxy where something cannot be loaded: each request will say and count that
        pruning failed.
        """
        self._warm_up(TEXTS, f"{TEXTS} {self.settings.pipeline!r}", self.rewriter.warm_up)
        if self.selector is not None:
            self._load_tokens()
        if self.reducer is not None:
            self._warm_up(PICTURES, PICTURES, self.reducer.warm_up)
        if self.viewer is not None:
            self.viewer.warm_up()
        self.warming_up = False

    def load_tokens(self) -> None:
        """Begin to load what chooses tokens; not while that goes on, nor soon after it failed."""
        with self._lock:
            if self.warming_up or self._tokens_loading or time.monotonic() < self._tokens_again:
                return
            self._tokens_loading = True
        threading.Thread(target=self._load_tokens, name="tokenprune-loading").start()

    def _load_tokens(self) -> None:
        if self.selector is not None:
            self._warm_up(TOKENS, TOKENS, self.selector.warm_up)
        self._tokens_again = time.monotonic() + _RELOAD_S
        self._tokens_loading = False

    def _warm_up(self, part: str, shown: str, load: Callable[[], None]) -> None:
        try:
            load()
        except Exception as error:
            said = f"{shown} cannot be used: {' '.join(str(error).split())}"
            self._broken[part] = said
            # What is none of our errors is a fault of the program.
            log.error("%s", said, exc_info=not isinstance(error, TokenPruneError))
        else:
            self._broken.pop(part, None)

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
