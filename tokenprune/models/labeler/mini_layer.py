"""The encoder's parts of `mini_network`: its sizes and one transformer layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FAR = -1e4  # added to what does not count in a softmax
_LARGEST_LOGIT = 80.0


@dataclass(frozen=True)
class MiniConfig:
    """Sizes of the network.

    Args:
        vocab_size: word pieces.
        hidden: width of token states.
        layers: transformer layers.
        heads: attention heads of a layer.
        ffn: width of the feed-forward layers.
        positions: longest question or passage, in tokens.
        cross_from: first layer in which question and passage attend to each other.
        cross_start: attention-logit bias between them before training.
        sentence_width: width of the transformer over sentences.
        eps: of layer normalisation.
        fused: whether the rank is a weighted sum of what the rank head says and of how alike question and
            passage are as wholes.
    """

    vocab_size: int = 30522
    hidden: int = 384
    layers: int = 6
    heads: int = 12
    ffn: int = 1536
    positions: int = 512
    cross_from: int = 2
    cross_start: float = -5.0
    sentence_width: int = 96
    eps: float = 1e-12
    fused: bool = False

    @property
    def halfway(self) -> int:
        """How many layers are read halfway through those in which question and passage meet."""
        return (self.cross_from + self.layers) // 2

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as JSON can hold them."""
        return asdict(self)


def embedding(count: int, size: int) -> nn.Embedding:
    """Return random vectors, float32 [count, size]."""
    # Not torch's own start: `normal_` on the meta device, where nothing is drawn, imports for seconds.
    drawn = torch.empty(count, size).uniform_(-(3**0.5), 3**0.5)  # variance 1
    return nn.Embedding.from_pretrained(drawn, freeze=False)


class Rows:
    """Where the tokens of a padded batch stand: only attention needs the padding, the rest goes without."""

    def __init__(self, filled: Tensor) -> None:
        """Take bool [b, t], False for padding."""
        self.shape = filled.shape
        self._at = filled.flatten().nonzero().squeeze(1)
        self._full = len(self._at) == filled.numel()
        self._before = (filled.flatten().cumsum(0) - 1).clamp(min=0)

    def packed(self, x: Tensor) -> Tensor:
        """[b, t, ...] -> [n, ...], without padding."""
        flat = x.flatten(0, 1)
        return flat if self._full else flat.index_select(0, self._at)

    def padded(self, x: Tensor) -> Tensor:
        """[n, d] -> [b, t, d], 0 in padding."""
        if not self._full:
            x = x.new_zeros(self.shape.numel(), x.shape[-1]).index_copy(0, self._at, x)
        return x.view(*self.shape, -1)

    def spread(self, x: Tensor) -> Tensor:
        """[n, d] -> [b, t, d], padding being any token: sooner done where nothing looks at it."""
        return (x if self._full else x.index_select(0, self._before)).view(*self.shape, -1)


class Layer(nn.Module):  # type: ignore[misc]
    """A BERT layer (post-norm) whose attention takes a bias."""

    def __init__(self, config: MiniConfig) -> None:
        """Build a layer with random weights."""
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.out = nn.Linear(config.hidden, config.hidden)
        self.norm1 = nn.LayerNorm(config.hidden, eps=config.eps)
        self.up = nn.Linear(config.hidden, config.ffn)
        self.down = nn.Linear(config.ffn, config.hidden)
        self.norm2 = nn.LayerNorm(config.hidden, eps=config.eps)

    def forward(self, x: Tensor, rows: Rows, padding: Tensor, meet: tuple[Tensor, Tensor]) -> Tensor:
        """Attend to what is not padding.

        Args:
            x: the tokens of all rows one behind the other, [n, d].
            rows: where they stand.
            padding: added to the attention logits, [b, 1, 1, t].
            meet: further columns of queries and keys, [b, heads, t, 2]; their products are added as well.
        """
        b, t = rows.shape
        size = x.shape[-1] // self.heads
        q, k, v = rows.spread(self.qkv(x)).view(b, t, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        more_q, more_k = meet
        q = torch.cat((q, more_q.to(q.dtype) * size**0.5), -1)
        k = torch.cat((k, more_k.to(q.dtype)), -1)
        mixed = _attended(q, k, v, padding, size**-0.5)
        x = self.norm1(x + self.out(rows.packed(mixed.transpose(1, 2).flatten(2))))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


def _attended(q: Tensor, k: Tensor, v: Tensor, padding: Tensor, scale: float) -> Tensor:
    """Scaled dot-product attention, [b, heads, t, v's width]; ``q`` and ``k`` may be wider than ``v``."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.is_grad_enabled():
        return _attended_by_products(q, k, v, padding, scale)
    wider = q.shape[-1] - v.shape[-1]  # the fused kernels want one width
    mixed = F.scaled_dot_product_attention(q, k, F.pad(v, (0, wider)), attn_mask=padding, scale=scale)
    return mixed[..., : v.shape[-1]]


def _attended_by_products(q: Tensor, k: Tensor, v: Tensor, padding: Tensor, scale: float) -> Tensor:
    """The same in about half the time on CPUs that multiply bfloat16, whose fused kernel is slow.

    Exponentials are not shifted by the largest logit of their row, and their sums are a column of the last
    product. Logits are cut at +-80 for that: `FAR` and beyond still count nothing beside any other.
    """
    b, heads, t, size = v.shape
    logits = torch.baddbmm(
        padding.expand(b, heads, 1, t).reshape(b * heads, 1, t),
        q.flatten(0, 1),
        k.flatten(0, 1).transpose(1, 2),
        alpha=scale,
    )
    shares = logits.clamp_(-_LARGEST_LOGIT, _LARGEST_LOGIT).exp_()
    summed = torch.bmm(shares, F.pad(v, (0, 2), value=1.0).flatten(0, 1))  # an odd width is slow
    return (summed[..., :size] / summed[..., size : size + 1]).view(b, heads, t, size)
