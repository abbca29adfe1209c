"""``/v1/completions``: a prompt string or a list of them; prompts of token ids pass."""

from collections.abc import Sequence

from tokenprune_server.protocols.base import (
    Body,
    Context,
    Job,
    Located,
    Path,
    Protocol,
    Rules,
    Turn,
    context_block,
    limit_of,
    long_enough,
    no_place,
)
from tokenprune_server.protocols.shapes import is_json
from tokenprune_server.protocols.texts import query_of, read_text, without_code

_DEFAULT_OUTPUT = 16  # the API's own default of max_tokens


class CompletionsProtocol(Protocol):
    """OpenAI completions: each prompt string is a job of its own."""

    routes = ("/v1/completions",)

    def locate(self, body: Body, rules: Rules) -> Located:
        """Templates give passages and question; other long texts are documents if a query is given."""
        jobs: list[Job] = []
        short = few_shot = 0
        for text, path in _strings(body):
            if is_json(text):
                continue
            reading = read_text(text, path, rules)
            few_shot += reading.few_shot
            spans = reading.spans
            if reading.short or (spans and not long_enough(spans, rules)):
                short += 1
                spans = ()
            query, whole = query_of(reading.question, rules)
            jobs.append(Job(query, without_code(spans, query), whole))
        return Located(tuple(jobs), short, few_shot)

    def prompt_texts(self, body: Body) -> list[list[str]]:
        """Each prompt string is all that the model reads of a request of its own."""
        return [[text] for text, _ in _strings(body)]

    def prompts(self, body: Body) -> list[tuple[Turn, ...]]:
        """Each prompt string is one turn."""
        return [(Turn(path, "", ((path, text),)),) for text, path in _strings(body)]

    def output_tokens(self, body: Body, default: int) -> int:
        """``max_tokens``, whose default the API itself sets to 16."""
        return limit_of(body, ("max_tokens",), _DEFAULT_OUTPUT)

    def insert_contexts(self, body: Body, contexts: Sequence[Context]) -> Body:
        """The context block comes before the prompt."""
        prompt = body.get("prompt")
        if not isinstance(prompt, str):
            raise no_place("a single prompt string")
        return {**body, "prompt": context_block(contexts) + prompt}


def _strings(body: Body) -> list[tuple[str, Path]]:
    """The prompts that are strings, each with its path."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [(prompt, ("prompt",))]
    prompts = prompt if isinstance(prompt, list) else []
    return [(text, ("prompt", index)) for index, text in enumerate(prompts) if isinstance(text, str)]
