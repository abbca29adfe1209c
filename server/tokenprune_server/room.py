"""How a prompt stands to the context of its model."""

from collections.abc import Sequence
from functools import cached_property

from tokenprune.tokens import TokenCounter, get_counter
from tokenprune_server.protocols.base import estimate_tokens
from tokenprune_server.request import Request
from tokenprune_server.settings import ServerSettings

_TOKENS_PER_MESSAGE = 8  # role, separators and the like that chat templates add
_TOKENS_PER_CONTEXT = 12  # the label of a context passage
_SURELY_TOO_LONG = 16  # characters per token of the model's context beyond which nothing need be counted
_FRAME = 16  # the rest of a chat template


class Room:
    """How the prompt of a request stands to the context of its model.

    What has to be counted is counted when it is first asked for, and once.

    Args:
        request: with the body as it would go unpruned; of a batch the largest prompt decides.
        settings: what is kept free.
        tokenizer: by which tokens are counted.
    """

    def __init__(self, request: Request, settings: ServerSettings, tokenizer: str) -> None:
        self._request, self._settings, self._tokenizer = request, settings, tokenizer
        self._at_most = request.raw_bytes  # no tokenizer in use makes more tokens than there are bytes

    def know(self, tokens: int, texts: Sequence[str]) -> None:
        """Learn how many tokens some texts of the body have: most prompts then need no count of their own."""
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)  # JSON takes as much or more
        self._at_most = min(self._at_most, self._request.raw_bytes - size + tokens)

    @cached_property
    def _context(self) -> int | None:
        """Tokens that the model has for the prompt; None when nobody knows."""
        request = self._request
        if request.model_len is None:
            return None
        output = request.protocol.output_tokens(request.body, self._settings.default_output_tokens)
        return request.model_len - output

    @cached_property
    def _limit(self) -> int | None:
        """Tokens of ours that the prompt may have, by a count that may be a little wrong."""
        model_len, context = self._request.model_len, self._context
        if model_len is None or context is None:
            return None
        return context - int(self._settings.context_margin * model_len) - _FRAME

    @cached_property
    def prompt(self) -> int | None:
        """Tokens of the prompt by our tokenizer; None when it fits for certain or nobody knows."""
        if self._limit is None or self._at_most <= self._limit:
            return None
        counter, contexts = get_counter(self._tokenizer), self._request.options.contexts
        prompts = self._request.protocol.prompt_texts(self._request.body)
        largest = max(
            (count(counter, texts) + _TOKENS_PER_MESSAGE * len(texts) for texts in prompts), default=0
        )
        return largest + count(counter, [c.text for c in contexts]) + _TOKENS_PER_CONTEXT * len(contexts)

    @cached_property
    def _counted(self) -> int | None:
        """What the upstream counts, where that decides: the served model may count quite otherwise."""
        return None if self._request.options.contexts else self._request.ask(self._request.body)

    @cached_property
    def too_long(self) -> int | None:
        """Tokens of the prompt when it does not fit, else None."""
        if self.prompt is None or self._limit is None or self._context is None or self.prompt <= self._limit:
            return None
        if self._counted is None:
            return self.prompt
        return self._counted if self._counted > self._context else None

    def documents(self, tokens: int) -> int | None:
        """What is left for documents that have ``tokens`` tokens now, in ours; None when the prompt fits."""
        if self.too_long is None or self._limit is None or self.prompt is None:
            return None
        limit = self._limit if not self._counted else self._limit * self.prompt // self._counted
        return limit - (self.prompt - tokens)

    def certainly_too_long(self) -> int | None:
        """About the tokens of a prompt that is so long that it need not be counted, else None."""
        request = self._request
        if request.model_len is None or request.raw_bytes <= _SURELY_TOO_LONG * request.model_len:
            return None
        contexts = [c.text for c in request.options.contexts]
        # Images and the like are in the body, but are not text.
        texts = max(request.protocol.prompt_texts(request.body), key=_characters, default=[]) + contexts
        if _characters(texts) <= _SURELY_TOO_LONG * request.model_len:
            return None
        return sum(estimate_tokens(text) for text in texts)


def count(counter: TokenCounter, texts: Sequence[str]) -> int:
    """Tokens of all the texts."""
    return int(counter.count_many(texts).sum()) if texts else 0


def _characters(texts: Sequence[str]) -> int:
    return sum(len(text) for text in texts)
