"""XProvence of naver (arXiv 2601.18886): Provence in many languages, on XLM-RoBERTa (bge-reranker-v2-m3).

From the training code (naver/bergen, commit c0fdb73, scripts/xprovence): weights ``roberta.*`` with
``roberta.pooler.dense.*``, ``classifier.*``, ``token_classifier.*``; input ``<s> question </s> passage </s>``
(one ``</s>`` between them, not XLM-RoBERTa's two), windows of 512 tokens, questions as they are.

Not certain, as the published folder cannot be read here: what its config.json calls itself (any mention of
XProvence in ``model_type``, ``architectures`` or ``auto_map`` counts), and its default threshold: wrappers of
others name 0.3 for the first version and 0.1 for the second; 0.3 is taken unless the config has one.
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

_WINDOW = 512  # tokens in training; the backbone could read 8,192
_THRESHOLD = 0.3


def matches(config: dict[str, Any]) -> bool:
    """Tell XProvence by its own name, or the training code's class by its name."""
    names = [config.get("model_type"), *(config.get("architectures") or ())]
    names += [v for v in (config.get("auto_map") or {}).values() if isinstance(v, str)]
    return any("xprovence" in str(n).lower() or n == "XLMRobertaForCompressionAndRanking" for n in names if n)


def load(checkpoint: Checkpoint, device: str | None, dtype: str | torch.dtype | None) -> Labeler:
    """Make a labeler; see `Labeler.load`."""
    place = Place.pick(device, dtype)
    config = config_of("xlm-roberta", checkpoint.config, checkpoint.name)

    def encoder() -> Any:
        from transformers import XLMRobertaModel

        return XLMRobertaModel(config)

    network = load_pooled(checkpoint, place, "roberta", encoder, {}, lambda _, out: out.pooler_output)
    reader, roles = checkpoint.reader()
    cls, sep = checkpoint.special(roles, "cls_token"), checkpoint.special(roles, "sep_token")
    positions = int(config.max_position_embeddings) - int(config.pad_token_id) - 1
    return Labeler(
        name=checkpoint.name,
        text=reader,
        frame=Frame((cls,), (sep,), (sep,)),
        network=network,
        max_length=min(_WINDOW, positions),
        default_threshold=float(checkpoint.config.get("default_threshold", _THRESHOLD)),
        batch_tokens=padded_tokens(place.device),
    )
