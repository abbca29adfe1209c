"""Provence of naver (arXiv 2501.16214): DeBERTa-v3 with a rank head and a token head.

From the training code (naver/bergen, scripts/provence): weights ``deberta.*``, ``pooler.dense.*``,
``classifier.*``, ``token_classifier.*``; input ``[CLS] question [SEP] passage [SEP]`` of at most 512 tokens,
no segment numbers. The published folder says ``"model_type": "Provence"``.

Not certain, as the published modelling file cannot be read here: that its ``process`` lower-cases the
question and strips ASCII punctuation (so says an independent port of it to Rust; the questions it was trained
on look like that), and how a title is joined to its passage (here: as a sentence of its own before it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenprune.models.batches import padded_tokens
from tokenprune.models.labeler.checkpoint import Checkpoint, Place
from tokenprune.models.labeler.labeler import Labeler
from tokenprune.models.labeler.pooled import load_pooled
from tokenprune.models.labeler.text import Frame
from tokenprune.models.labeler.torch_heads import config_of

if TYPE_CHECKING:
    import torch

_WINDOW = 512  # tokens in training
_ARCHITECTURES = ("Provence", "DebertaV2ForCompressionAndRanking")


def matches(config: dict[str, Any]) -> bool:
    """Tell Provence by its model type, or the training code's class by its name."""
    return config.get("model_type") == "Provence" or any(
        a in _ARCHITECTURES for a in config.get("architectures") or ()
    )


def load(checkpoint: Checkpoint, device: str | None, dtype: str | torch.dtype | None) -> Labeler:
    """Make a labeler; see `Labeler.load`."""
    place = Place.pick(device, dtype)
    config = config_of("deberta-v2", checkpoint.config, checkpoint.name)
    config.pooler_hidden_size = config.hidden_size

    def encoder() -> Any:
        from transformers import DebertaV2Model

        return DebertaV2Model(config)

    def pooler() -> Any:
        from transformers.models.deberta_v2.modeling_deberta_v2 import ContextPooler

        return ContextPooler(config)

    network = load_pooled(
        checkpoint, place, "deberta", encoder, {"pooler": pooler}, lambda m, out: m.pooler(out[0].float())
    )
    reader, roles = checkpoint.reader()
    cls, sep = checkpoint.special(roles, "cls_token"), checkpoint.special(roles, "sep_token")
    return Labeler(
        name=checkpoint.name,
        text=reader,
        frame=Frame((cls,), (sep,), (sep,)),
        network=network,
        max_length=min(_WINDOW, int(config.max_position_embeddings)),
        plain_query=True,
        batch_tokens=padded_tokens(place.device),
    )
