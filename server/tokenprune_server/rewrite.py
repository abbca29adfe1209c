"""From a parsed request body to a pruned one: locate, decide, prune, put back. Blocking; runs in a thread."""

import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune.budget import Budget
from tokenprune.config import Config
from tokenprune.document import Document
from tokenprune.errors import UnknownNameError
from tokenprune.receipt import PruneResult
from tokenprune.tokens import TokenCounter, get_counter
from tokenprune_server.decide import PRUNED, Facts, failed, skip_reason, skipped
from tokenprune_server.errors import RequestError
from tokenprune_server.options import Options
from tokenprune_server.protocols.base import Body, Context, Job, Protocol, Rules, Span, estimate_tokens
from tokenprune_server.receipts import ReceiptStore
from tokenprune_server.settings import ServerSettings

log = logging.getLogger("tokenprune.server")

_TOKENS_PER_MESSAGE = 8  # role, separators and the like that chat templates add
_TOKENS_PER_CONTEXT = 12  # the label of a context passage
_SURELY_TOO_LONG = 16  # characters per token of the model's context beyond which nothing need be counted
_FRAME = 16  # the rest of a chat template


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the middleware hands it over.

    Attributes:
        protocol: the adapter of its route.
        body: the parsed body without our options; never changed in place.
        options: what the request asks of us.
        raw_bytes: size of the (decoded) body, an upper bound of its tokens.
        model_len: context of the model in tokens; None when nobody knows.
    """

    protocol: Protocol
    body: Body
    options: Options
    raw_bytes: int
    model_len: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request.

    Attributes:
        decision: ``pruned``, ``skipped:REASON`` or ``failed:REASON``.
        body: the body to send on; None: the original.
        tokens_before: tokens of the documents as they came.
        tokens_after: tokens of the documents as they go.
        receipt: id under which the receipt is kept, when pruned.
        too_long: tokens of the prompt when the original does not fit the model's context, else None.
        detail: why it failed, for the error message of fail-closed.
    """

    decision: str
    body: Body | None = None
    tokens_before: int = 0
    tokens_after: int = 0
    receipt: str | None = None
    too_long: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Room:
    """How a request stands to the model's context: tokens of the prompt, and what is left for documents."""

    prompt: int
    documents: int
    overflow: bool


class Rewriter:
    """Prunes request bodies; thread-safe."""

    def __init__(self, config: Config, settings: ServerSettings, receipts: ReceiptStore) -> None:
        self._config, self._settings, self._receipts = config, settings, receipts

    def warm_up(self) -> None:
        """Load what the default pipeline needs, so that the first request does not wait for it."""
        # Enough sentences of different length that models meet the batch shapes of real requests.
        sentences = [
            f"Sentence {n} says {'that the proxy keeps what answers ' * (n % 9)}." for n in range(90)
        ]
        text = "".join(f"<p>{sentence}</p>\n" for sentence in sentences)
        documents = [Document(text, kind="html"), Document("\n".join(sentences), kind="text")]
        pipeline = self._config.build(self._settings.pipeline)
        pipeline.prune("What does the proxy keep?", documents, Budget(keep_ratio=0.5))

    def certainly_too_long(self, request: Request) -> int | None:
        """About the tokens of a prompt that is so long that it need not be counted, else None."""
        if request.model_len is None or request.raw_bytes <= _SURELY_TOO_LONG * request.model_len:
            return None
        texts = [*request.protocol.prompt_texts(request.body), *(c.text for c in request.options.contexts)]
        # Images and the like are in the body, but are not text.
        if sum(len(text) for text in texts) <= _SURELY_TOO_LONG * request.model_len:
            return None
        return sum(estimate_tokens(text) for text in texts)

    def room(self, request: Request) -> int | None:
        """Tokens of the prompt if the original does not fit the model's context, else None."""
        room = self._room(request, 0)
        return room.prompt if room is not None and room.overflow else None

    def __call__(self, request: Request) -> Outcome:
        """Locate, decide, prune and put back.

        Raises:
            RequestError: the request asks for something that does not exist or cannot be.
        """
        options, settings = request.options, self._settings
        fences = settings.prune_code_fences if options.code_fences is None else options.code_fences
        rules = Rules(settings.min_document_tokens, prune_code_fences=fences, query=options.query)
        contexts = options.context_documents()
        located = request.protocol.locate(request.body, rules)
        jobs = [job for job in located.jobs if job.spans]
        query = located.jobs[0].query if located.jobs else rules.query
        if contexts and not jobs:
            jobs = [Job(query, ())]
        # A wrong pipeline name is an error even when there is nothing to prune today.
        name = options.name
        if name is not None:
            self._check(name)
        facts = Facts(
            documents=sum(len(job.spans) for job in jobs) + len(contexts),
            short_documents=located.short,
            few_shot=located.few_shot,
            whole_text=any(job.whole_text for job in jobs),
            has_query=any(job.query is not None for job in jobs),
        )
        reason = skip_reason(facts)
        if reason is not None:
            return Outcome(skipped(reason))
        jobs = [job for job in jobs if job.query is not None]
        counter = get_counter(self._config.tokenizer)
        per_job = [_count(counter, [span.text for span in job.spans]) for job in jobs]
        per_job[0] += _count(counter, [context.text for context in contexts])
        # A budget holds for a prompt; of a batch the largest one decides for all.
        tokens, largest = sum(per_job), max(per_job)
        room = self._room(request, largest)
        budget = _budget(options.budget, largest, room)
        facts = dataclasses.replace(
            facts,
            document_tokens=largest,
            min_tokens=settings.min_document_tokens,
            budget_tokens=budget.limit(largest) if budget is not None else None,
            room_tokens=room.documents if room is not None and room.overflow else None,
        )
        reason = skip_reason(facts)
        too_long = room.prompt if room is not None and room.overflow else None
        if reason is not None:
            return Outcome(skipped(reason), None, tokens, tokens)
        try:
            return self._prune(request, jobs, contexts, budget, too_long)
        except RequestError:
            raise
        except Exception as error:
            # Whatever a pruner raises, the request must not be lost: it is logged, counted and visible.
            log.exception("pruning failed")
            detail = f"{type(error).__name__}: {error}"
            return Outcome(failed(type(error).__name__), None, tokens, tokens, None, too_long, detail)

    def _prune(
        self,
        request: Request,
        jobs: Sequence[Job],
        contexts: Sequence[Context],
        budget: Budget | None,
        too_long: int | None,
    ) -> Outcome:
        options = request.options
        pipeline = self._config.build(options.name or self._settings.pipeline, options.output)
        edits: list[tuple[Span, str]] = []
        results: list[PruneResult] = []
        kept_contexts: list[Context] = []
        for job in jobs:
            documents = [_document(span, index) for index, span in enumerate(job.spans)]
            mine = contexts if job is jobs[0] else ()
            documents += [
                Document(c.text, kind=c.kind, id=c.id or f"contexts.{index}", title=c.title)
                for index, c in enumerate(mine)
            ]
            result = pipeline.prune(job.query or "", documents, budget)
            results.append(result)
            # A method may reorder documents: what stands in the request stays in its place, contexts follow.
            texts = {document.id: document.text for document in result.documents}
            named = [document.id for document in documents]
            edits += [(span, texts[i]) for span, i in zip(job.spans, named, strict=False)]
            given = dict(zip(named[len(job.spans) :], mine, strict=True))
            kept_contexts += [dataclasses.replace(given[i], text=t) for i, t in texts.items() if i in given]
        before = sum(result.tokens_before for result in results)
        after = sum(result.tokens_after for result in results)
        if after >= before and all(text == span.text for span, text in edits) and not contexts:
            return Outcome(skipped("nothing-to-drop"), None, before, after)
        body = request.protocol.put_back(request.body, edits)
        if contexts:
            body = request.protocol.insert_contexts(body, kept_contexts)
        receipt = self._receipts.put("\n".join(job.query or "" for job in jobs), results)
        return Outcome(PRUNED, body, before, after, receipt, too_long)

    def _check(self, name: str) -> None:
        try:
            self._config.build(name)
        except UnknownNameError as error:
            raise RequestError(str(error), param="tokenprune.pipeline") from error

    def _room(self, request: Request, document_tokens: int) -> _Room | None:
        """How the prompt stands to the model's context; None when it fits for certain or nobody knows."""
        model_len = request.model_len
        if model_len is None:
            return None
        protocol, body, contexts = request.protocol, request.body, request.options.contexts
        output = protocol.output_tokens(body, self._settings.default_output_tokens)
        margin = int(self._settings.context_margin * model_len) + _FRAME
        # No tokenizer in use makes more tokens than there are bytes: most requests need no count.
        if request.raw_bytes + output + margin <= model_len:
            return None
        texts = protocol.prompt_texts(body)
        counter = get_counter(self._config.tokenizer)
        prompt = _count(counter, texts) + _TOKENS_PER_MESSAGE * len(texts)
        prompt += _count(counter, [c.text for c in contexts]) + _TOKENS_PER_CONTEXT * len(contexts)
        left = model_len - output - margin
        return _Room(prompt, left - (prompt - document_tokens), prompt > left)


def plain_body(request: Request) -> Body:
    """The request without pruning: our options gone, its contexts inserted whole."""
    contexts = request.options.context_documents()
    return request.protocol.insert_contexts(request.body, contexts) if contexts else request.body


class UnfitJsonError(ValueError):
    """JSON that would not survive being parsed and written again."""


def parse(raw: bytes) -> Any:
    """Parse a request body.

    Raises:
        UnfitJsonError: it holds duplicate keys, or numbers that Python cannot hold and write again.
        ValueError: it is not JSON.
    """
    return json.loads(raw, object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise UnfitJsonError("it holds an object with duplicate keys")
    return result


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise UnfitJsonError(f"the number {text[:40]} is out of range")
    return number


def _constant(text: str) -> float:
    raise UnfitJsonError(f"{text} is not a JSON number")


def serialise(body: Body) -> bytes:
    """JSON bytes; escapes are used only where UTF-8 cannot hold what the request escaped."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(body, separators=(",", ":")).encode()


def _document(span: Span, index: int) -> Document:
    where = ".".join(str(step) for step in span.path)
    return Document(span.text, kind=span.kind, id=f"{where}#{index}", title=span.title)


def _count(counter: TokenCounter, texts: Sequence[str]) -> int:
    return int(counter.count_many(texts).sum()) if texts else 0


def _budget(asked: Budget | None, tokens: int, room: _Room | None) -> Budget | None:
    """The budget asked for; a request that overflows the model's context gets at most what fits."""
    if room is None or not room.overflow:
        return asked
    limit = asked.limit(tokens) if asked is not None else None
    fits = max(0, room.documents)
    return Budget(max_tokens=fits if limit is None else min(limit, fits))
