"""(c) How well a model expects the gold answer: mean NLL per token after the context that a method leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.common.nll import MODEL, stored_nll, summarise
from benchmarks.html import data, methods
from benchmarks.html.context import Context
from benchmarks.html.methods import Method
from tokenprune.errors import TokenPruneError
from tokenprune.models.causal_lm import load_causal_lm
from tokenprune.tokens import get_counter

SETS = ("docs", "wikitables")
Contexts = dict[str, Callable[[data.Question], "str | Exception"]]


def clean_cut(question: data.Question, tokens: int) -> str:
    """Clean the whole page and cut it at the end to ``tokens``."""
    import tokenprune as tp

    page = tp.Document(question.html, kind="html")
    text = tp.Pipeline(["clean-html"]).prune("", [page]).documents[0].text
    starts = get_counter().starts(text)
    return text if len(starts) <= tokens else text[: int(starts[tokens])]


def contexts(context: Context, budget: int) -> tuple[Contexts, dict[str, str]]:
    """Return what is compared, and the version of each."""
    cut = context.options.context
    found: Contexts = {
        "no context": lambda q: "",
        f"page, cleaned, {cut} tokens": lambda q: clean_cut(q, cut),
    }
    versions = {name: methods.code_version() for name in found}
    wanted: list[Method] = [m for m in context.methods if m.name in context.options.nll_methods]
    for name in context.options.nll_methods:
        try:
            wanted.append(methods.ours(name, "markdown"))
        except TokenPruneError as error:
            if not name.startswith(("chunks", "htmlrag-mended", "htmlrag-published")):
                context.note(f"nll: skipped {name} as Markdown: {error}")
    for method in wanted:
        found[method.label] = _only(method, budget)
        versions[method.label] = method.version
    return found, versions


def _only(method: Method, budget: int) -> Callable[[data.Question], str | Exception]:
    return lambda q: method.run(q.question, q.html, [budget])[budget]


def run(context: Context) -> dict[str, Any]:
    if context.data is None:
        return {"skipped": "no data folder (set TOKENPRUNE_DATA)"}
    options, store = context.options, context.store("nll")
    lm = load_causal_lm(MODEL)
    compared, versions = contexts(context, options.nll_budget)
    result: dict[str, Any] = {"model": MODEL, "budget": options.nll_budget, "sets": {}}
    for set_name in SETS:
        questions = data.questions(context.data, set_name, options.nll_sample, options.seed)
        work = [(q, name) for q in questions for name in compared]
        values: dict[str, dict[str, dict[str, float]]] = {name: {} for name in compared}
        with methods.remembering():
            for question, name in context.track(work, len(work), f"nll: {set_name}"):
                key = f"{set_name}|{question.id}|{name}|{options.nll_budget}|{versions[name]}"
                if key not in store:
                    text = compared[name](question)
                    if isinstance(text, Exception):
                        context.note(f"nll: {name} raised {type(text).__name__}; no context is used")
                        text = ""
                    case = f"{set_name}|{question.id}"
                    found = stored_nll(store, lm, case, text, question.question, question.answer)
                    store.put(key, found)
                values[name][question.id] = store[key]
        result["sets"][set_name] = summarise(values, "100-word chunks, BM25")
    store.close()
    return result
