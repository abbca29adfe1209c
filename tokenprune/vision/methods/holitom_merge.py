"""HoliTom inside the language model: tokens that leave are averaged into those that stay.

HoliTom, arXiv 2505.21334, section 3.3: as in FastV the visual tokens are ranked by the attention of the last
token in the last layer that sees them all; but each one that leaves is averaged into the one that stays and
is most like it (cosine of the hidden states). Published for LLaVA-OneVision-7B: before layer 18 of 28, half
of the tokens; other depths in proportion here.

Where we differ: several tokens that go into one give their mean with it. The published code takes the mean of
two again and again, token by token, so that later ones weigh more; for one token the two are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tokenprune.engine.schedule import LayerView, Reduction
from tokenprune.vision.llm import After
from tokenprune.vision.methods.base import named


@dataclass(frozen=True, slots=True)
class HoliTomMerge:
    """The reducer.

    Attributes:
        after: When visual tokens leave, and how many stay.
        note: What is to be said where only the rows that stayed are known.
    """

    after: After

    note: ClassVar[str] = "what is drawn as dropped was averaged into the most similar rows that stayed"

    def acts_after(self, layer: int, depth: int) -> bool:
        """Tell whether ``layer`` is the last that sees everything; see :meth:`After.is_behind`."""
        return self.after.is_behind(layer, depth)

    def reduce(self, view: LayerView) -> Reduction | None:
        """Merge visual tokens into visual tokens; text and pinned tokens stay as they are."""
        import torch
        from torch.nn.functional import normalize

        keep = self.after.most_looked_at(view, slice(-1, None))
        if keep is None or view.visual is None:
            return None
        into = torch.full((len(view.hidden),), -1, dtype=torch.long, device=keep.device)
        into[keep] = torch.arange(len(keep), device=keep.device)
        leaves = (into < 0).nonzero()[:, 0]
        takers = (view.visual[keep] & ~view.pinned[keep]).nonzero()[:, 0]
        if len(takers):
            states = normalize(view.hidden.float(), dim=-1)
            into[leaves] = takers[(states[leaves] @ states[keep[takers]].T).argmax(1)]
        return Reduction(keep, into)


@named(
    "holitom-merge",
    paper="HoliTom, arXiv 2505.21334",
    summary="half of the tokens merged into the most similar ones behind two thirds of the language model",
    where="inside",
)
def holitom_merge(layers: int | float = 18 / 28, keep: int | float = 0.5) -> HoliTomMerge:
    """Compose the method.

    ``layers``: layers that see everything, or a share of the depth; ``keep``: visual tokens that stay, or
    their share. Together with ``holitom`` before the language model it is the whole of HoliTom.
    """
    return HoliTomMerge(After(layers, keep))
