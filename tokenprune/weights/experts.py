"""STUN's first step: of experts that routers treat alike one stays (Lee et al. 2024, arXiv 2409.06211).

Deviations: behaviour is the cosine of router rows plus the correlation of router probabilities over the
calibration text (the paper's lambda_1 and lambda_2 at 1); clusters merge by average linkage; of a cluster the
expert that most probability went to stays, and its weights are not replaced by the cluster's mean. All layers
keep as many.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tokenprune.errors import RecipeError
from tokenprune.models.progress import SILENT, Reporter
from tokenprune.weights.journal import Journal
from tokenprune.weights.kept import Kept, Shape
from tokenprune.weights.stream import Stream

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RouterSimilarity:
    """Cluster experts by router rows and by when they are called."""

    rows: float = 1.0
    calls: float = 1.0

    def run(
        self,
        model: Any,
        windows: torch.Tensor,
        sparsity: float,
        reporter: Reporter = SILENT,
        journal: Journal | None = None,
    ) -> Kept:
        """Return what stays; ``sparsity`` is the share of experts that go, rounded. The model stays as it is.

        Raises:
            RecipeError: No layer of the model has experts, or fewer would stay than a token visits.
        """
        import torch

        shape, kept = Shape.of(model.config), Kept.all_of(model.config)
        counts = {n for n in shape.experts if n is not None}
        if not counts:
            raise RecipeError("this recipe prunes experts, the model has none")
        total = max(counts)
        stay = total - round(sparsity * total)
        if stay < shape.experts_per_token:
            raise RecipeError(
                f"{stay} of {total} experts would stay, a token visits {shape.experts_per_token}: prune less"
            )
        journal = journal or Journal()
        done = journal.get("experts")
        if done is not None:
            return Kept.of_plain(done)
        stream, layers = Stream(model, windows), list(kept.layers)
        reporter.stage("comparing experts", float(len(layers)))
        for index, layer in enumerate(layers):
            logits: list[torch.Tensor] = []
            if layer.experts is not None:
                gate = model.model.layers[index].mlp.gate
                handle = gate.register_forward_hook(lambda m, i, o, into=logits: into.append(o[0].detach()))
                stream.advance(index)
                handle.remove()
                chances = torch.cat(logits).float().softmax(-1)
                alike = self.similarity(gate.weight.data, chances)
                groups = clusters(alike, stay)
                use = chances.sum(0)
                chosen = tuple(sorted(max(group, key=lambda e: float(use[e])) for group in groups))
                layers[index] = replace(layer, experts=chosen)
            else:
                stream.advance(index)
            reporter.advance(1)
        kept = Kept(tuple(layers))
        journal.put("experts", kept.plain())
        return kept

    def similarity(self, rows: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
        """Return how alike experts are [E, E].

        Args:
            rows: Router weights [E, hidden].
            chances: Router probabilities [tokens, E].
        """
        import torch

        unit = torch.nn.functional.normalize(rows.float(), dim=1)
        return self.rows * (unit @ unit.T) + self.calls * torch.corrcoef(chances.T).nan_to_num(0.0)


def clusters(alike: torch.Tensor, count: int) -> list[list[int]]:
    """Merge the two groups that are most alike on average until ``count`` are left."""
    groups = [[index] for index in range(len(alike))]
    while len(groups) > count:
        pairs = [(a, b) for a in range(len(groups)) for b in range(a)]
        a, b = max(pairs, key=lambda p: float(alike[groups[p[0]]][:, groups[p[1]]].mean()))
        groups[b] = sorted(groups[b] + groups[a])
        del groups[a]
    return groups
