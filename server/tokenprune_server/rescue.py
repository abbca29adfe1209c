"""What prunes where the method asked for cannot: quick pipelines that read no model."""

from functools import lru_cache

from tokenprune.config import with_output
from tokenprune.pipeline import Pipeline


@lru_cache(maxsize=16)
def without_question(tokenizer: str, output: str | None) -> Pipeline:
    """Pages lose their boilerplate; what exceeds the budget then goes from the middle.

    Both ends stay since a text that nobody marked as a document may begin or end with what to do with it.
    """
    return _written(Pipeline(["boilerplate", "middle-out"], tokenizer=tokenizer), output)


@lru_cache(maxsize=16)
def for_question(tokenizer: str, output: str | None) -> Pipeline:
    """BM25 over sentences and blocks, for prompts that must be cut and whose own method failed."""
    return _written(Pipeline(["bm25-sentences"], tokenizer=tokenizer), output)


def _written(pipeline: Pipeline, output: str | None) -> Pipeline:
    return pipeline if output is None else with_output(pipeline, output)
