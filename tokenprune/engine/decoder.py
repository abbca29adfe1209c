"""The arithmetic of a Llama-like decoder, layer by layer, on packed rows of one or more sequences.

Rows of several sequences lie one behind the other without padding: matrix products see all of them at once,
attention goes sequence by sequence. A layer changes the hidden states in place. What is computed is what
transformers computes; for float32 in another order of sums only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenprune.engine.attention import attend
from tokenprune.engine.kv import KVMeter, LayerKV
from tokenprune.engine.pieces import in_pieces, row_pieces
from tokenprune.engine.weights import DecoderWeights, Projection, read_weights
from tokenprune.errors import ConfigError, ModelError
from tokenprune.given_up import look

if TYPE_CHECKING:
    import torch

# Rows that go through norm and feed-forward together: their intermediate values should stay in the cache of
# a CPU core. An accelerator takes as many as its memory allows.
_CPU_BYTES = 2**22
_ACCELERATOR_ROWS = 8192
_LEAST_ROWS = 128

# Rope types whose angles depend on how long a sequence is, by a state of the model's module.
_BY_LENGTH = ("dynamic", "longrope")
_ONE_LENGTH = threading.Lock()

Check = Callable[[], None]


def go_on() -> None:
    """Go on, unless nobody waits for the work of this thread any more."""
    look()


@dataclass(frozen=True, slots=True)
class Rotary:
    """Cosine and sine of each row, [n, 1, d / 2]: both halves of a head turn by the same angles."""

    cos: torch.Tensor
    sin: torch.Tensor

    def take(self, rows: torch.Tensor | slice) -> Rotary:
        """Return those of some rows."""
        return Rotary(self.cos[rows], self.sin[rows])


@dataclass(frozen=True, slots=True)
class Near:
    """A token sees its neighbourhood and the first tokens only (as in StreamingLLM, arXiv 2309.17453).

    Attributes:
        window: Positions, its own included.
        sinks: First tokens, which a model rests its attention on.
        free_from: Tokens from this position on (a question at the end) see everything; None: none do.
    """

    window: int
    sinks: int = 4
    free_from: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: The window is below 1, or sinks below 0.
        """
        if self.window < 1 or self.sinks < 0:
            raise ConfigError(f"a window is 1 or more and sinks 0 or more, not {self.window}, {self.sinks}")


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one sequence in a packed pass.

    Attributes:
        start: First row.
        end: Behind the last row.
        positions: int64 [end - start], ascending.
        kv: What the layer at hand holds of the sequence; the rows are added.
        near: What the rows see, instead of all before them; an approximation.
        visible: bool [rows, entries after adding] to say what each row sees (of the last row only, where only
            its output is asked for); None: all at or before its position.
    """

    start: int
    end: int
    positions: torch.Tensor
    kv: LayerKV
    near: Near | None = None
    visible: torch.Tensor | None = None


class Decoder:
    """A decoder read from a transformers model; shares its weights."""

    def __init__(self, model: Any, name: str = "") -> None:
        """Read ``model``; ``name`` is what it is known by, for messages and calibrations.

        Raises:
            ModelError: Not a family that the engine runs, or rotary embeddings on a part of a head only.
        """
        self.name = name
        self.weights: DecoderWeights = read_weights(model)
        import torch

        self.device = self.weights.embedding.device
        self.dtype = self.weights.embedding.dtype
        self.depth = len(self.weights.layers)
        self.vocabulary, self.hidden = self.weights.embedding.shape
        wide = self.weights.layers[0].gate_up.weight.shape[0]
        self._rows = _ACCELERATOR_ROWS
        if self.device.type == "cpu":
            self._rows = max(_LEAST_ROWS, _CPU_BYTES // (wide * self.dtype.itemsize))
        self._silu = isinstance(self.weights.activation, torch.nn.SiLU) or (
            type(self.weights.activation).__name__ == "SiLUActivation"
        )
        with torch.inference_mode():
            turned = self.rotary(torch.zeros(1, dtype=torch.long, device=self.device)).cos.shape[-1]
        if 2 * turned != self.weights.head_dim:
            raise ModelError("the engine needs rotary embeddings on whole heads")

    def new_kv(self, meter: KVMeter, capacity: int = 0) -> LayerKV:
        """Return an empty store for one layer of one sequence."""
        weights = self.weights
        return LayerKV(weights.kv_heads, weights.head_dim, self.dtype, self.device, meter, capacity)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return hidden states [n, hidden] of token ids int64 [n]; a new tensor."""
        from torch.nn.functional import embedding

        return embedding(ids, self.weights.embedding)

    def rotary(self, *positions: torch.Tensor) -> Rotary:
        """Return the rotation of packed rows; the model's own module computes it (all rope types).

        Args:
            positions: int64 [n] of each sequence.
        """
        import torch

        module = self.weights.rotary
        kind = getattr(module, "rope_type", "default")
        if kind not in _BY_LENGTH:
            return self._turn(module, positions[0] if len(positions) == 1 else torch.cat(positions))
        turned = []
        # The module remembers the longest sequence it saw; a sequence must not depend on others.
        with _ONE_LENGTH:
            for own in positions:
                if kind == "dynamic":
                    module.max_seq_len_cached = module.original_max_seq_len
                    module.inv_freq = module.original_inv_freq
                turned.append(self._turn(module, own))
        if len(turned) == 1:
            return turned[0]
        return Rotary(torch.cat([one.cos for one in turned]), torch.cat([one.sin for one in turned]))

    def _turn(self, module: Any, positions: torch.Tensor) -> Rotary:
        cos, sin = module(self.weights.embedding[:1], positions[None])
        half = cos.shape[-1] // 2
        return Rotary(cos[0, :, None, :half], sin[0, :, None, :half])

    def layer(
        self,
        number: int,
        x: torch.Tensor,
        rotary: Rotary,
        parts: Sequence[Part],
        *,
        last_only: bool = False,
        check: Check = go_on,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one layer.

        Args:
            number: of the layer, from 0.
            x: [n, hidden], packed; changed in place unless ``last_only``.
            rotary: of the rows.
            parts: cover the rows in order.
            last_only: compute the output of the last row of each part only; all keys and values are stored.
            check: called between the pieces of the work; raises to stop. What was done is void then.

        Returns:
            Hidden states behind the layer, [n, hidden] or [parts, hidden], and the rotated queries, [H, n, d]
            or [H, parts, d].
        """
        import torch

        weights, layer = self.weights, self.weights.layers[number]
        own = weights.heads * weights.head_dim
        if last_only:
            ends = torch.tensor([part.end - 1 for part in parts], device=x.device)
            key_value = self._project(x, layer.input_norm, layer.qkv.part(own, len(layer.qkv.weight)))
            x, turn = x[ends], rotary.take(ends)
            query = self._rotate(
                self._project(x, layer.input_norm, layer.qkv.part(0, own)), layer.q_norm, turn
            )
        else:
            projected = self._project(x, layer.input_norm, layer.qkv)
            query = self._rotate(projected[:, :own], layer.q_norm, rotary)
            key_value = projected[:, own:]
        attended = []
        for index, part in enumerate(parts):
            check()
            self._store(key_value[part.start : part.end], layer.k_norm, rotary, part)
            rows = slice(index, index + 1) if last_only else slice(part.start, part.end)
            near = part.near if layer.window is None else None
            attended.append(
                attend(
                    query[:, rows],
                    part.kv,
                    part.positions[-1:] if last_only else part.positions,
                    scale=weights.scale,
                    window=layer.window if near is None else near.window,
                    sinks=0 if near is None else near.sinks,
                    free_from=None if near is None else near.free_from,
                    visible=part.visible,
                )
            )
        whole = attended[0] if len(attended) == 1 else torch.cat(attended)
        in_pieces(lambda rows: self._add(x[rows], whole[rows], layer.out), self._pieces(len(x)), x.device)
        self._feed_forward(x, number, check)
        return x, query

    def query_and_keys(
        self, number: int, x: torch.Tensor, rotary: Rotary, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what a score rule looks at in a layer that is not run.

        Args:
            number: of the layer.
            x: [n, hidden], its input; not changed.
            rotary: of the rows.
            rows: int64 [w], those whose queries are asked for.

        Returns:
            Rotated queries [H, w, d] and keys [G, n, d].
        """
        weights, layer = self.weights, self.weights.layers[number]
        own, shared = weights.heads * weights.head_dim, weights.kv_heads * weights.head_dim
        keys = self._project(x, layer.input_norm, layer.qkv.part(own, own + shared))
        query = self._project(x[rows], layer.input_norm, layer.qkv.part(0, own))
        return (
            self._rotate(query, layer.q_norm, rotary.take(rows)),
            self._rotate(keys, layer.k_norm, rotary),
        )

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 logits [m, vocabulary] of hidden states [m, hidden] behind the last layer."""
        head = self.weights.head
        from torch.nn.functional import linear

        out: torch.Tensor = linear(self._norm(x, self.weights.norm), head.weight, head.bias).float()
        return out

    def _project(self, x: torch.Tensor, norm: torch.Tensor, projection: Projection) -> torch.Tensor:
        """[n, hidden] to [n, out], behind a norm."""
        from torch.nn.functional import linear

        pieces = self._pieces(len(x))
        if len(pieces) <= 1:
            return linear(self._norm(x, norm), projection.weight, projection.bias)
        out = x.new_empty((len(x), len(projection.weight)))
        in_pieces(lambda rows: _product(self._norm(x[rows], norm), projection, out[rows]), pieces, x.device)
        return out

    def _pieces(self, rows: int) -> list[slice]:
        return row_pieces(rows, self._rows, _LEAST_ROWS, self.device)

    def _rotate(
        self, flat: torch.Tensor, norm: torch.Tensor | None, rotary: Rotary, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[n, h d] to [h, n, d], each head normed where the model does so, and turned by its position."""
        import torch

        head_dim = self.weights.head_dim
        half = head_dim // 2
        heads = flat.view(len(flat), -1, head_dim)
        if norm is not None:
            heads = self._norm(heads, norm)
        if out is None:
            out = flat.new_empty((heads.shape[1], len(flat), head_dim))
        low, high = heads[..., :half], heads[..., half:]
        turned = out.transpose(0, 1)
        turned_low, turned_high = turned[..., :half], turned[..., half:]
        torch.mul(low, rotary.cos, out=turned_low).addcmul_(high, rotary.sin, value=-1)
        torch.mul(high, rotary.cos, out=turned_high).addcmul_(low, rotary.sin)
        return out

    def _store(self, key_value: torch.Tensor, norm: torch.Tensor | None, rotary: Rotary, part: Part) -> None:
        """Add keys and values [n, 2 G d] of a part to its store."""
        shared = key_value.shape[1] // 2
        keys, values = part.kv.extend(part.positions)
        self._rotate(key_value[:, :shared], norm, rotary.take(slice(part.start, part.end)), keys)
        values.copy_(key_value[:, shared:].view(len(key_value), -1, self.weights.head_dim).transpose(0, 1))

    def _feed_forward(self, x: torch.Tensor, number: int, check: Check) -> None:
        from torch.nn.functional import linear, silu

        layer = self.weights.layers[number]

        def run(piece: slice) -> None:
            rows = x[piece]
            both = linear(self._norm(rows, layer.middle_norm), layer.gate_up.weight, layer.gate_up.bias)
            gate, up = both.chunk(2, dim=-1)
            gate = silu(gate, inplace=True) if self._silu else self.weights.activation(gate)
            self._add(rows, gate.mul_(up), layer.down)

        check()
        in_pieces(run, self._pieces(len(x)), x.device, check)

    def _add(self, x: torch.Tensor, y: torch.Tensor, projection: Projection) -> None:
        """Add the projection of ``y`` to ``x`` in place."""
        if projection.bias is not None:
            x.add_(projection.bias)
        x.addmm_(y, projection.weight.t())

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm over the last dimension, a new tensor; half precision rounds where transformers does."""
        import torch

        epsilon = self.weights.epsilon
        if x.dtype is torch.float32:
            # The norm of a row is one pass over it; the square of the row is never written.
            scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
            return (x * scale.div_(x.shape[-1]).add_(epsilon).rsqrt_()).mul_(weight)
        wide = x.float()
        wide.mul_(wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_())
        return wide.to(x.dtype).mul_(weight)


def _product(x: torch.Tensor, projection: Projection, out: torch.Tensor) -> None:
    import torch

    if projection.bias is None:
        torch.mm(x, projection.weight.t(), out=out)
    else:
        torch.addmm(projection.bias, x, projection.weight.t(), out=out)
