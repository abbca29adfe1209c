"""Prometheus metrics of the proxy, in a registry of their own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest

from tokenprune_server.answer import Expected
from tokenprune_server.cost_model import Answer
from tokenprune_server.request import Pictures

_PRUNE_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PROXY_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms; each object has its own registry, so several apps may live in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "tokenprune_requests",
            "Requests to prunable routes by decision (the part after the first colon is the reason)",
            ["decision"],
            registry=self.registry,
        )
        self._before = Counter(
            "tokenprune_document_tokens_before",
            "Tokens in documents before pruning (pruned requests only)",
            registry=self.registry,
        )
        self._after = Counter(
            "tokenprune_document_tokens_after",
            "Tokens in documents after pruning (pruned requests only)",
            registry=self.registry,
        )
        self._prune = Histogram(
            "tokenprune_prune_seconds",
            "Time from the read body to the rewritten one, when a prune was tried",
            buckets=_PRUNE_BUCKETS,
            registry=self.registry,
        )
        self._proxy = Histogram(
            "tokenprune_proxy_seconds",
            "Time a request that is not pruned spends here before it is forwarded (without reading its body)",
            buckets=_PROXY_BUCKETS,
            registry=self.registry,
        )
        self._ttft = Histogram(
            "tokenprune_time_to_first_byte_seconds",
            "From the arrival of a prunable request to the first byte of the answer's body, pruning included",
            ["outcome"],
            buckets=_TTFT_BUCKETS,
            registry=self.registry,
        )
        self._upstream_errors = Counter(
            "tokenprune_upstream_errors",
            "Failures of the upstream: connect, timeout, broken (in the middle of an answer)",
            ["kind"],
            registry=self.registry,
        )
        self._receipt_bytes = Gauge(
            "tokenprune_receipt_bytes", "Estimated bytes held by kept receipts", registry=self.registry
        )

        self._tokens = Counter(
            "tokenprune_token_selections",
            "Chats by what the selection of prompt tokens did: went as ids, as text, was skipped, failed",
            ["outcome"],
            registry=self.registry,
        )
        self._vision = Counter(
            "tokenprune_vision_requests",
            "Chats with pictures (or unread) by what became of these: went as embeds, were skipped, failed",
            ["outcome"],
            registry=self.registry,
        )
        self._image_before = Counter(
            "tokenprune_image_tokens_before",
            "Tokens of pictures before pruning (pictures that went as embeds)",
            registry=self.registry,
        )
        self._image_after = Counter(
            "tokenprune_image_tokens_after",
            "Tokens of pictures after pruning (pictures that went as embeds)",
            registry=self.registry,
        )
        self._images = Counter(
            "tokenprune_images",
            "Pictures that went as embeds: encoded for the request, or known from before (cached)",
            ["source"],
            registry=self.registry,
        )
        self._saved = Summary(
            "tokenprune_saved_seconds",
            "By how much pruning brought the first token forward, pruning time taken off: as the gate "
            "predicted it, and as observed against the predicted time without pruning (pruned requests)",
            ["source"],
            registry=self.registry,
        )
        self._cached = Counter(
            "tokenprune_cached_tokens",
            "Tokens in the upstream's prefix cache, predicted and reported (where the usage reports them)",
            ["source"],
            registry=self.registry,
        )

    def decided(self, decision: str, seconds: float, tried: bool) -> None:
        """Count a request; its time goes to the prune histogram if pruning was tried, else to the proxy's."""
        self._requests.labels(decision).inc()
        (self._prune if tried else self._proxy).observe(seconds)

    def pruned(self, tokens_before: int, tokens_after: int, receipt_bytes: int) -> None:
        """Add up the tokens of a pruned request."""
        self._before.inc(tokens_before)
        self._after.inc(tokens_after)
        self._receipt_bytes.set(receipt_bytes)

    def token_stage(self, outcome: str) -> None:
        """Count what the selection of prompt tokens did."""
        self._tokens.labels(outcome).inc()

    def pictures(self, pictures: Pictures) -> None:
        """Count what became of the pictures of a request."""
        self._vision.labels(pictures.stage).inc()
        self._image_before.inc(pictures.before)
        self._image_after.inc(pictures.after)
        self._images.labels("encoded").inc(pictures.encoded)
        self._images.labels("cached").inc(pictures.count - pictures.encoded)

    def first_byte(self, decision: str, seconds: float) -> None:
        """Time to the first byte of the body, by outcome (pruned, skipped, failed)."""
        self._ttft.labels(decision.partition(":")[0]).observe(seconds)

    def gated(self, expected: Expected, answer: Answer) -> None:
        """Compare what the gate predicted with what happened."""
        usage = answer.usage
        if usage is not None and usage.cached is not None:
            self._cached.labels("predicted").inc(expected.cached_tokens)
            self._cached.labels("reported").inc(usage.cached)
        if expected.gain_s is not None and not answer.whole:
            self._saved.labels("predicted").observe(expected.gain_s)
            self._saved.labels("observed").observe(expected.unpruned_s - answer.seconds - expected.prune_s)

    def upstream_error(self, kind: str) -> None:
        """Count a failure of the upstream."""
        self._upstream_errors.labels(kind).inc()

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
