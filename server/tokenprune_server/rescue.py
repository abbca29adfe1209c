"""What prunes where the method asked for cannot: quick pipelines that read no model."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from tokenprune.budget import Budget
from tokenprune.config import with_output
from tokenprune.document import Document
from tokenprune.pipeline import Pipeline
from tokenprune.receipt import PruneResult

_NO_QUESTION = (
    "there is no question to prune for: boilerplate went, and what exceeds the budget from the middle"
)
_FAILED = "the prompt exceeds the model's context and its own method failed: BM25 chose what fits"
_IDLE = "the prompt exceeds the model's context and its pipeline prunes nothing: BM25 chose what fits"
_OWED = "no tokens could be chosen under the budget: BM25 chose what fits"


@dataclass(frozen=True, slots=True)
class StandIn:
    """A pipeline that prunes in place of the one asked for.

    Attributes:
        pipeline: what prunes.
        note: why, for the receipts.
    """

    pipeline: Pipeline
    note: str

    def prune(self, query: str, documents: Sequence[Document], budget: Budget | None) -> PruneResult:
        """Prune as `Pipeline.prune` does, and note in each receipt what did."""
        result = self.pipeline.prune(query, documents, budget)
        receipts = [dataclasses.replace(r, notes=(*r.notes, self.note)) for r in result.receipts]
        return dataclasses.replace(result, receipts=receipts)


@lru_cache(maxsize=16)
def without_question(tokenizer: str, output: str | None) -> StandIn:
    """Pages lose their boilerplate; what exceeds the budget then goes from the middle.

    Both ends stay since a text that nobody marked as a document may begin or end with what to do with it.
    """
    pipeline = Pipeline(["boilerplate", "middle-out"], tokenizer=tokenizer)
    return StandIn(_written(pipeline, output), _NO_QUESTION)


@lru_cache(maxsize=16)
def for_question(
    tokenizer: str, output: str | None, why: Literal["failed", "idle", "owed"] = "failed"
) -> StandIn:
    """BM25 over sentences and blocks, for prompts that must be cut and have no method that can.

    Args:
        tokenizer: by which tokens are counted.
        output: what HTML becomes.
        why: there is none: it failed, the pipeline prunes nothing, or it was left to tokens in vain.
    """
    pipeline = Pipeline(["bm25-sentences"], tokenizer=tokenizer)
    return StandIn(_written(pipeline, output), {"failed": _FAILED, "idle": _IDLE, "owed": _OWED}[why])


def _written(pipeline: Pipeline, output: str | None) -> Pipeline:
    return pipeline if output is None else with_output(pipeline, output)
