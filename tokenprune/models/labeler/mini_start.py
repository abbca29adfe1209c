"""Where training starts: a BERT encoder as our network, before it has learned anything of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenprune.models.labeler.mini_layer import Layer, MiniConfig
from tokenprune.models.labeler.mini_network import N_FEATURES, MiniNetwork


def from_bert(state: dict[str, Tensor], config: MiniConfig) -> MiniNetwork:
    """Start from the weights of a BERT encoder in Hugging Face's layout.

    The second kind of BERT's token types is not used: both texts are read as the bi-encoder read them.
    """
    net = MiniNetwork(config)
    take = {k.removeprefix("bert."): v.float() for k, v in state.items()}
    with torch.no_grad():
        net.words.weight.copy_(take["embeddings.word_embeddings.weight"])
        first = take["embeddings.token_type_embeddings.weight"][0]
        net.places.weight.copy_(take["embeddings.position_embeddings.weight"][: config.positions] + first)
        _copy(net.norm, take, "embeddings.LayerNorm")
        for i, layer in enumerate(net.layers):
            assert isinstance(layer, Layer)
            at = f"encoder.layer.{i}."
            for part in ("weight", "bias"):
                names = [f"{at}attention.self.{n}.{part}" for n in ("query", "key", "value")]
                getattr(layer.qkv, part).copy_(torch.cat([take[n] for n in names]))
            _copy(layer.out, take, at + "attention.output.dense")
            _copy(layer.norm1, take, at + "attention.output.LayerNorm")
            _copy(layer.up, take, at + "intermediate.dense")
            _copy(layer.down, take, at + "output.dense")
            _copy(layer.norm2, take, at + "output.LayerNorm")
        # The fusion that needs no training: late interaction, cosine and exact matches in the window.
        net.direct.weight.zero_()
        net.direct.bias.fill_(-1.5)
        for column, value in ((0, 0.6), (1, 0.6), (4, 0.6), (5, 0.3)):
            net.direct.weight[0, N_FEATURES + column] = value
            net.direct.weight[0, column] = value / 2
    return net


def _copy(module: nn.Module, take: dict[str, Tensor], name: str) -> None:
    for part in ("weight", "bias"):
        getattr(module, part).copy_(take[f"{name}.{part}"])
