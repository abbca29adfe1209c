"""From a parsed request body to a pruned one: locate, decide, prune, put back. Blocking; runs in a thread."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from tokenprune.budget import Budget
from tokenprune.config import Config
from tokenprune.document import Document
from tokenprune.errors import UnknownNameError
from tokenprune.receipt import PruneResult, steps_of
from tokenprune.tokens import get_counter
from tokenprune_server.decide import PRUNED, Facts, failed, skip_reason, skipped
from tokenprune_server.errors import RequestError
from tokenprune_server.gate import Gate, History, is_explicit, model_name
from tokenprune_server.ledger import Record
from tokenprune_server.plan import Plan, Shared
from tokenprune_server.protocols.base import Body, Context, Job, Located, Path, Rules, Span
from tokenprune_server.receipts import ReceiptStore
from tokenprune_server.request import Outcome, Request
from tokenprune_server.rescue import for_question, without_question
from tokenprune_server.room import Room, count
from tokenprune_server.settings import ServerSettings

log = logging.getLogger("tokenprune.server")

# Why a pipeline leaves documents as they are that tokens may still be chosen of.
_STILL_OPEN = frozenset({"nothing-to-drop", "not-worth-it", "fits-budget"})


class Rewriter:
    """Prunes request bodies; thread-safe."""

    def __init__(self, config: Config, settings: ServerSettings, receipts: ReceiptStore, gate: Gate) -> None:
        self._config, self._settings, self._receipts, self._gate = config, settings, receipts, gate

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

    def rules(self, request: Request) -> Rules:
        """What counts as a document in a request."""
        options, settings = request.options, self._settings
        fences = settings.prune_code_fences if options.code_fences is None else options.code_fences
        return Rules(
            settings.min_document_tokens,
            prune_code_fences=fences,
            query=options.query,
            earlier=is_explicit(options),
        )

    def room(self, request: Request) -> Room:
        """How the prompt of a request stands to the context of its model."""
        return Room(request, self._settings, self._config.tokenizer)

    def __call__(self, request: Request, *, later: bool = False, owed: bool = False) -> Outcome:
        """Locate, decide, prune and put back.

        Args:
            request: as it came.
            later: what comes behind can hold the budget of a request whose pipeline prunes nothing.
            owed: it was to do so, and could not.

        Raises:
            RequestError: the request asks for something that does not exist or cannot be.
        """
        outcome = self._attempt(request, later=later, owed=owed)
        if outcome.too_long is None or not outcome.decision.startswith("failed:"):
            return outcome
        return self.rescue(request) or outcome

    def rescue(self, request: Request) -> Outcome | None:
        """Make a prompt fit whose pruning failed or had no thread, quickly and without a model.

        Returns:
            The outcome; None when that fails as well, nothing may be pruned, or failures must be seen.
        """
        if self._settings.fail == "closed":
            return None
        outcome = self._attempt(request, quick=True)
        if outcome.body is None:
            return None
        log.warning("a prompt too long was cut by BM25 or from the middle: its own pruning could not be had")
        return outcome

    def _attempt(
        self, request: Request, *, quick: bool = False, later: bool = False, owed: bool = False
    ) -> Outcome:
        options = request.options
        tokens, too_long = 0, None
        try:
            located = request.protocol.locate(request.body, self.rules(request))
            # A wrong pipeline name is an error even when there is nothing to prune today.
            if options.name is not None:
                self._check(options.name)
            history = self._gate.history(request.protocol, request.body, options)
            if any(job.whole_text for job in located.jobs):
                history = history.forgotten()  # what earlier questions did not need is needed now
            plan = self._plan(request, located, history)
            tokens, too_long = plan.before, plan.too_long
            if quick and plan.stand_in is None:
                quickly = for_question(self._config.tokenizer, options.output)
                plan = dataclasses.replace(plan, stand_in=quickly)
            elif plan.stand_in is None:
                plan = self._by_another(plan, later, owed)
            reason = skip_reason(plan.facts)
            return self._prune(plan) if reason is None else self._unpruned(plan, reason)
        except RequestError:
            raise
        except Exception as error:
            # Whatever a pruner raises, the request must not be lost: it is logged, counted and visible.
            log.exception("pruning failed")
            detail = f"{type(error).__name__}: {error}"
            decision = failed(type(error).__name__)
            return Outcome(decision, None, tokens, tokens, too_long=too_long, detail=detail)

    def _plan(self, request: Request, located: Located, history: History) -> Plan:
        """Sort, count and weigh the documents, as far as it takes to decide."""
        options = request.options
        contexts = options.context_documents()
        jobs = [job for job in history.open(located.jobs) if job.spans]
        opened = sum(len(job.spans) for job in jobs)
        if contexts and not jobs:
            jobs = [Job(located.jobs[0].query if located.jobs else options.query, ())]
        facts = Facts(
            documents=opened + len(contexts),
            short_documents=located.short,
            few_shot=located.few_shot,
            whole_text=any(job.whole_text for job in jobs),
            has_query=any(job.query is not None for job in jobs),
            replayed=sum(len(job.spans) for job in located.jobs) - opened,
            obliged=history.explicit,
        )
        # The prompt goes with its earlier turns as they were sent.
        room = self.room(dataclasses.replace(request, body=history.replay(request.body)))
        if facts.replayed and room.too_long is not None:
            return self._plan(request, located, history.forgotten())
        stand_in = None
        if facts.documents and not facts.has_query:
            named = options.name is not None and not self._config.build(options.name).uses_query
            asked_for = not facts.whole_text and (named or options.budget is not None)
            facts = dataclasses.replace(facts, without_query=asked_for or room.too_long is not None)
            stand_in = None if named else without_question(self._config.tokenizer, options.output)
        plan = Plan(request, history, contexts, tuple(jobs), facts, stand_in=stand_in)
        if skip_reason(facts) is not None:
            return plan
        jobs = [job for job in jobs if job.query is not None or facts.without_query]
        counter = get_counter(self._config.tokenizer)
        spans = [span for job in jobs for span in job.spans]
        # Not `count_many`: the pipeline asks for the same starts.
        sizes = self._gate.ledger.tokens(
            [span.text for span in spans], lambda texts: [len(counter.starts(text)) for text in texts]
        )
        tokens = dict(zip(spans, sizes, strict=True))
        room.know(sum(tokens.values()), [span.text for span in tokens])
        beside = count(counter, [context.text for context in contexts])
        # A budget holds for a prompt; of a batch the largest one decides for all.
        sizes = [sum(tokens[span] for span in job.spans) for job in jobs]
        sizes[0] += beside
        largest = max(sizes)
        main = jobs[sizes.index(largest)]
        left = room.documents(largest)
        before, after = history.beside(main)
        asked = _left(options.budget, largest, before, after)
        lean: Mapping[Span, Shared] = {}
        if left is not None and options.budget is None and len(jobs) == 1 and main.query and not contexts:
            lean = self._lean(main, tokens, left)
        budget = _budget(asked, largest, None if lean else left)
        if before and _too_little(
            budget, options.budget, largest, before, self._settings.min_document_tokens
        ):
            return self._plan(request, located, history.forgotten())
        plan = dataclasses.replace(
            plan,
            jobs=tuple(jobs),
            tokens=tokens,
            context_tokens=beside,
            shared=self._shared(history, jobs, tokens, lean) if left is None or lean else (),
            lean=lean,
            budget=budget,
            too_long=room.too_long,
        )
        shared = {item.span for item in plan.shared}
        size = largest - sum(tokens[span] for span in main.spans if span in shared)
        if not contexts:
            fresh = [span for span in main.spans if span not in shared]
            weighing = self._gate.weigh(
                plan.base, history, request.protocol, main, fresh, size, self._method(request)
            )
            plan = dataclasses.replace(plan, weighing=weighing)
        facts = dataclasses.replace(
            facts,
            document_tokens=size,
            min_tokens=self._settings.min_document_tokens,
            budget_tokens=budget.limit(largest) if budget is not None else None,
            room_tokens=left,
            shared=len(shared),
            obliged=history.explicit or (left is not None and not lean),
            cost=plan.weighing.cost if plan.weighing is not None else None,
        )
        return dataclasses.replace(plan, facts=facts)

    def _by_another(self, plan: Plan, later: bool, owed: bool) -> Plan:
        """Have a budget held by what knows the question, where the pipeline prunes nothing.

        What comes behind (``later``) holds it. BM25 does where that could not, and for a prompt that the
        model would refuse. A budget that the request asks for is otherwise held by the pipeline itself.
        """
        tokens_hold = later and len(plan.jobs) == 1
        if plan.budget is None or not (tokens_hold or owed or plan.too_long is not None):
            return plan
        if any(job.query is None for job in plan.jobs):
            return plan
        if not self._config.build(self._method(plan.request)).prunes_nothing:
            return plan
        if tokens_hold:
            return dataclasses.replace(plan, budget=None, later=plan.facts.budget_tokens)
        options = plan.request.options
        quickly = for_question(self._config.tokenizer, options.output, "owed" if owed else "idle")
        return dataclasses.replace(plan, stand_in=quickly)

    def _shared(
        self, history: History, jobs: Sequence[Job], tokens: dict[Span, int], lean: Mapping[Span, Shared]
    ) -> tuple[Shared, ...]:
        """Documents that came before with another question, pruned as far as that needs no question."""
        spans = [span for job in jobs for span in self._gate.shared(history, job)]
        return tuple(lean.get(span) or self._for_any_question(span, tokens[span]) for span in spans)

    def _lean(self, job: Job, tokens: dict[Span, int], room: int) -> dict[Span, Shared]:
        """The documents as they go for any question, when pages among them make that fit; else none.

        Such a prompt is as free as one that fits: it goes so, or is pruned by its method and no budget.
        """
        if all(span.kind != "html" for span in job.spans):
            return {}
        lean = {span: self._for_any_question(span, tokens[span]) for span in job.spans}
        return lean if sum(item.tokens for item in lean.values()) <= room else {}

    def _for_any_question(self, span: Span, tokens: int) -> Shared:
        """A document as it is sent whatever is asked about it, so that the upstream's cache holds."""
        if span.kind != "html":
            return Shared(span, span.text, tokens)
        pipeline = self._config.build(self._settings.shared_pipeline)
        result = pipeline.prune("", [_document(span, 0)])
        return Shared(span, result.documents[0].text, result.tokens_after, result)

    def _unpruned(self, plan: Plan, reason: str) -> Outcome:
        """Nothing is pruned for the question; what was pruned before, or is without a question, stays so."""
        if reason == "reuse-expected" or plan.lean:
            left = [span for job in plan.prunable() for span in job.spans]
            more = (plan.lean.get(span) or self._for_any_question(span, plan.tokens[span]) for span in left)
            shared = (*plan.shared, *more)
            plan = dataclasses.replace(plan, shared=shared, weighing=None)
        request, history, base = plan.request, plan.history, plan.base
        changed = base != request.body
        body = request.protocol.insert_contexts(base, plan.contexts) if plan.contexts and changed else base
        expected = None
        if plan.weighing is not None:
            expected = plan.weighing.unpruned(model_name(body))
        elif plan.jobs and not plan.contexts:
            expected = self._gate.unweighed(history, request.protocol, body)
        before, after = (plan.before, plan.unpruned) if plan.tokens or changed else (0, 0)
        receipt = history.receipt
        if plan.results and changed:
            receipt = self._receipts.put("", plan.results, history.receipts)
        elif receipt is not None and self._receipts.get(receipt) is None:
            receipt = None  # newer ones have displaced it
        return Outcome(
            PRUNED if changed else skipped(reason),
            body if changed else None,
            before,
            after,
            receipt if changed else None,
            plan.too_long if changed else None,
            record=self._record(plan, body, plan.counts(), receipt),
            expected=expected,
            steps=steps_of(plan.results) if changed else {},
            fresh=plan.fresh(plan.counts()) if reason in _STILL_OPEN else None,
        )

    def _prune(self, plan: Plan) -> Outcome:
        request, contexts = plan.request, plan.contexts
        pipeline = plan.stand_in or self._config.build(self._method(request), request.options.output)
        edits = [(shared.span, shared.text) for shared in plan.shared]
        after = list[tuple[Span, int]]()
        results: list[PruneResult] = []
        kept_contexts: list[Context] = []
        seconds = 0.0
        for job in plan.prunable():
            documents = [_document(span, index) for index, span in enumerate(job.spans)]
            mine = contexts if not results else ()
            documents += [
                Document(c.text, kind=c.kind, id=c.id or f"contexts.{index}", title=c.title)
                for index, c in enumerate(mine)
            ]
            if not documents:
                continue
            begin = self._gate.clock()
            result = pipeline.prune(job.query or "", documents, plan.budget)
            seconds += self._gate.clock() - begin
            results.append(result)
            # A method may reorder documents: what stands in the request stays in its place, contexts follow.
            texts = {document.id: document.text for document in result.documents}
            sizes = {receipt.document_id: receipt.tokens_after for receipt in result.receipts}
            named = [document.id for document in documents]
            edits += [(span, texts[i]) for span, i in zip(job.spans, named, strict=False)]
            after += [(span, sizes[str(i)]) for span, i in zip(job.spans, named, strict=False)]
            given = dict(zip(named[len(job.spans) :], mine, strict=True))
            kept_contexts += [dataclasses.replace(given[i], text=t) for i, t in texts.items() if i in given]
        before = sum(result.tokens_before for result in results)
        left = sum(result.tokens_after for result in results)
        method = self._method(request)
        if plan.stand_in is None:
            self._gate.costs.pruned(method, before, seconds, left if plan.budget is None else None)
        if left >= before and all(text == span.text for span, text in edits) and not contexts:
            return self._unpruned(plan, "nothing-to-drop")
        after_all = plan.unpruned - plan.history.tokens[1] - before + left
        if plan.lean and after_all > (plan.facts.room_tokens or 0):
            return self._unpruned(plan, "no-room")  # the method kept more than they are in their lean form
        body = plan.body(edits)
        expected = None
        if plan.weighing is not None:
            done = self._gate.weigh_again(plan.weighing, plan.history, body, request.protocol, before - left)
            reason = skip_reason(dataclasses.replace(plan.facts, cost=done.cost))
            if reason is not None:
                return self._unpruned(plan, reason)
            expected = done.pruned(model_name(body), plan.weighing.cost, seconds)
        if contexts:
            body = request.protocol.insert_contexts(body, kept_contexts)
        receipt = self._receipts.put(
            "\n".join(job.query or "" for job in plan.jobs),
            [*plan.results, *results],
            plan.history.receipts,
        )
        return Outcome(
            PRUNED,
            body,
            plan.before,
            plan.unpruned - before + left,
            receipt,
            plan.too_long,
            record=self._record(plan, body, plan.counts(after), receipt),
            expected=expected,
            steps=steps_of([*plan.results, *results]),
            fresh=plan.fresh(plan.counts(after)),
        )

    def _method(self, request: Request) -> str:
        return request.options.name or self._settings.pipeline

    def _record(
        self, plan: Plan, body: Body, counts: dict[Path, tuple[int, int]], receipt: str | None
    ) -> Record:
        if plan.contexts:
            return Record()  # they are not part of the messages that the client will send again
        return self._gate.record(plan.history, plan.request.protocol, body, plan.jobs, counts, receipt)

    def _check(self, name: str) -> None:
        try:
            self._config.build(name)
        except UnknownNameError as error:
            raise RequestError(str(error), param="tokenprune.pipeline") from error


def _document(span: Span, index: int) -> Document:
    where = ".".join(str(step) for step in span.path)
    return Document(span.text, kind=span.kind, id=f"{where}#{index}", title=span.title)


def _budget(asked: Budget | None, tokens: int, room: int | None) -> Budget | None:
    """The budget asked for; a request that overflows the model's context gets at most what fits."""
    if room is None:
        return asked
    limit = asked.limit(tokens) if asked is not None else None
    fits = max(0, room)
    return Budget(max_tokens=fits if limit is None else min(limit, fits))


def _left(asked: Budget | None, tokens: int, before: int, after: int) -> Budget | None:
    """The budget for documents of ``tokens`` tokens beside replayed ones of ``before``, now ``after``."""
    limit = asked.limit(tokens + before) if asked is not None else None
    return asked if limit is None or before == 0 else Budget(max_tokens=max(0, limit - after))


def _too_little(left: Budget | None, asked: Budget | None, tokens: int, before: int, least: int) -> bool:
    """Whether replayed documents leave the others less than their share of the budget asked for, or no room.

    All are pruned anew then: the budget holds, and what the new documents say is not lost.
    """
    if left is None:
        return False
    limit = asked.limit(tokens + before) if asked is not None else None
    share = least if limit is None else limit * tokens / (tokens + before)
    return (left.limit(tokens) or 0) < min(share, tokens)
