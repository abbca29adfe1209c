"""FastV: the first layers see every visual token, the others only those that are looked at there.

FastV, arXiv 2403.06764, section 4: behind layer K the visual tokens are ranked by the attention that the last
token of the prompt pays them in layer K, mean over heads, and the lowest R of them leave. Positions stay as
they were. Published for LLaVA-1.5-13B at K = 2, R = 50 % and 75 %: A-OKVQA 81.9 -> 81.3 and 80.9.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune.engine.schedule import LayerView, Reduction
from tokenprune.vision.llm import After
from tokenprune.vision.methods.base import named


@dataclass(frozen=True, slots=True)
class FastV:
    """The reducer.

    Attributes:
        after: When visual tokens leave, and how many stay.
        question: Rank by the attention of the question instead of the last token.
    """

    after: After
    question: bool = False

    def acts_after(self, layer: int, depth: int) -> bool:
        """Tell whether ``layer`` is the K-th; raises what :meth:`After.is_behind` raises."""
        return self.after.is_behind(layer, depth)

    def reduce(self, view: LayerView) -> Reduction | None:
        """Keep text and the visual tokens that are looked at most."""
        keep = self.after.most_looked_at(view, view.window if self.question else slice(-1, None))
        return None if keep is None else Reduction(keep)


@named(
    "fastv",
    paper="FastV, arXiv 2403.06764",
    summary="tokens that the last token attends to in an early layer of the language model",
    where="inside",
)
def fastv(layers: int | float = 2, keep: int | float = 0.5, question: bool = False) -> FastV:
    """Compose the method.

    ``layers``: K, layers that see everything, or a share of the depth; ``keep``: visual tokens that stay, or
    their share, 1 - R. ``question`` (not in the paper) ranks by the attention of the question, the window of
    the engine's marks: behind a chat template the last token belongs to the template.
    """
    return FastV(After(layers, keep), question)
