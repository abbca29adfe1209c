"""The family of our own small labelers: `mini_network` behind a `Labeler`, weights packed in 8 bits.

A folder holds ``config.json`` (``model_type`` ``tokenprune_mini``, the sizes of `MiniConfig`, ``max_length``
and those of `JUDGEMENT`), ``tokenizer.json`` and ``model.safetensors``. A matrix is stored as int8
rows with one float32 scale each (``NAME`` and ``NAME.scale``), a quarter of its size and within 1/254 of a
row's largest weight; it is unpacked when it is loaded, so it runs in whatever format the machine is fast in.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenprune.arrays import Float32Array, IntArray
from tokenprune.errors import MissingExtraError, ModelError
from tokenprune.models.batches import PADDED_TOKENS_LONE, padded_tokens
from tokenprune.models.labeler.checkpoint import Checkpoint, Place, fill
from tokenprune.models.labeler.labeler import Labeler
from tokenprune.models.labeler.text import Frame
from tokenprune.models.labeler.types import DEFAULT_THRESHOLD, Batch, Read

if TYPE_CHECKING:
    import torch

    from tokenprune.models.labeler.mini_network import Labelled, MiniNetwork, Window

MODEL_TYPE = "tokenprune_mini"
# Fields of a config.json that say how a `Labeler` judges by what the network says, and their values where
# it has none of its own.
JUDGEMENT = {"default_threshold": DEFAULT_THRESHOLD, "lexical": 0.0, "rank_weight": 0.0, "rank_slack": 0.0}
_SCALE = ".scale"


def matches(config: dict[str, Any]) -> bool:
    """Tell our own checkpoints by their ``model_type``."""
    return config.get("model_type") == MODEL_TYPE


def load(checkpoint: Checkpoint, device: str | None, dtype: str | torch.dtype | None) -> Labeler:
    """Load a checkpoint; the encoder computes in ``dtype``, what judges its states in float32.

    Raises:
        ModelError: config or weights are not what the module describes.
        MissingExtraError: torch is not installed.
    """
    place = Place.pick(device, dtype)
    network = network_of(checkpoint)
    try:
        max_length = int(checkpoint.config["max_length"])
        judgement: dict[str, Any] = {
            k: float(checkpoint.config.get(k, value)) for k, value in JUDGEMENT.items()
        }
        if max_length > network.config.positions:
            raise ValueError(f"max_length {max_length} is more than its {network.config.positions} positions")
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong(checkpoint, error) from error
    reader, roles = checkpoint.reader()
    cls, sep = checkpoint.special(roles, "cls_token"), checkpoint.special(roles, "sep_token")
    runner = MiniRunner(network, place)
    on_cpu = place.device.startswith("cpu")
    return Labeler(
        checkpoint.name,
        reader,
        frame_of(cls, sep),
        runner,
        max_length,
        batch_tokens=PADDED_TOKENS_LONE if on_cpu else padded_tokens(place.device),
        lone_batches=on_cpu,
        words=runner,
        **judgement,
    )


def network_of(checkpoint: Checkpoint) -> MiniNetwork:
    """Return the network of a checkpoint, in float32.

    Raises:
        ModelError: config or weights are not what the module describes.
        MissingExtraError: torch is not installed.
    """
    try:
        import torch

        from tokenprune.models.labeler.mini_layer import MiniConfig
        from tokenprune.models.labeler.mini_network import MiniNetwork
    except ImportError as error:
        raise MissingExtraError("sentence labeling", "models", error.name or "torch") from error
    known = {f.name for f in fields(MiniConfig)}
    try:
        with torch.device("meta"):  # no weights to begin with: each of them is taken from the file
            network = MiniNetwork(MiniConfig(**{k: v for k, v in checkpoint.config.items() if k in known}))
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise _wrong(checkpoint, error) from error
    fill(network, unpack(checkpoint.weights()), checkpoint.name, assign=True)
    return network


def _wrong(checkpoint: Checkpoint, error: Exception) -> ModelError:
    return ModelError(f"the config.json of {checkpoint.name!r} does not describe a model: {error}")


def frame_of(cls: int, sep: int) -> Frame:
    """``[CLS] question [SEP] [CLS] title passage [SEP]``: two texts as the bi-encoder read them."""
    return Frame((cls,), (sep, cls), (sep,))


class MiniRunner:
    """Runs the network on batches of a `Labeler`, and lends it its `Words`."""

    def __init__(self, network: MiniNetwork, place: Place) -> None:
        """Put the network where it runs."""
        self._device = place.device
        self._network = network.eval().requires_grad_(False).to(place.device)
        self._network.encoder_to(place.dtype)

    def run(self, batch: Batch) -> Read:
        """Return rank logits [b] and keep probabilities [b, t]."""
        import torch

        with torch.inference_mode():
            said = self._network(window(batch, self._device))
            return read_of(said)

    def vectors(self, ids: IntArray) -> Float32Array:
        """Return the normalised input embeddings of tokens, without places, float32 [n, d]."""
        import torch

        with torch.inference_mode():
            found = self._network.word_vectors(torch.from_numpy(ids).to(self._device))
            return np.asarray(found.cpu().numpy(), dtype=np.float32)

    def rarity(self, ids: IntArray) -> Float32Array:
        """Return the inverse document frequencies that the network weighs words by, float32 [n]."""
        import torch

        found = self._network.idf[torch.from_numpy(ids).to(self._device)]
        return np.asarray(found.float().cpu().numpy(), dtype=np.float32)


def read_of(said: Labelled) -> Read:
    """Return what the network says as a `Labeler` takes it."""
    ranks = said.rank.cpu().numpy(), said.keep_rank.cpu().numpy()
    return Read(*ranks, said.token.sigmoid().cpu().numpy())


def window(batch: Batch, device: str) -> Window:
    """Read positions and parts off a batch: the second text begins one column behind the question's end."""
    import torch

    from tokenprune.models.labeler.mini_network import Window

    ids = torch.from_numpy(batch.ids).to(device)
    filled = torch.from_numpy(batch.mask).to(device).bool()
    column = torch.arange(ids.shape[1], device=device)[None]
    second = torch.from_numpy(batch.query[:, 1:] + 1).to(device)
    passage = (column >= second) & filled
    position = torch.where(passage, column - second, column) * filled
    sentence = torch.from_numpy(batch.sentence).to(device)
    sentences = int(batch.sentence.max(initial=-1)) + 1
    return Window(ids, passage, position, sentence, filled, sentences, int(batch.query[:, 1].max()))


def pack(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights as they are stored: matrices of 4,096 numbers or more in 8 bits a row."""
    import torch

    out: dict[str, torch.Tensor] = {}
    for name, weight in state.items():
        if weight.dim() != 2 or weight.numel() < 4096:
            out[name] = weight.detach().float().contiguous()
            continue
        scale = weight.detach().float().abs().amax(1).clamp(min=1e-12) / 127
        out[name] = torch.round(weight.detach().float() / scale[:, None]).to(torch.int8)
        out[name + _SCALE] = scale
    return out


def unpack(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo `pack`, in float32; nothing of the result lies in the memory of what was stored."""
    import torch

    out: dict[str, torch.Tensor] = {}
    for name, weight in stored.items():
        if name.endswith(_SCALE):
            continue
        if weight.dtype == torch.int8:
            if name + _SCALE not in stored:
                raise ModelError(f"{name} is stored in 8 bits without its scale")
            out[name] = weight.float().mul_(stored[name + _SCALE][:, None])
        else:
            out[name] = weight.clone()
    return out
