"""provence-mini's encoder as an ONNX graph, written out operator by operator: no exporter is needed.

As in torch (tokenprune/models/labeler/mini_network.py), tokens travel without padding but for attention.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tokenprune.models.labeler.mini import read_of, window
from tokenprune.models.labeler.mini_network import MiniNetwork, Window
from tokenprune.models.labeler.types import Batch, Read

_OPSET = 20  # the first with Gelu
_HIDDEN_LOGIT = -1e4


class OnnxNetwork:
    """`tokenprune.models.labeler.Network` whose token states come from ONNX Runtime, all else from torch."""

    def __init__(self, network: MiniNetwork, threads: int) -> None:
        """Build the session, with all graph optimisations.

        Raises:
            ImportError: onnx or onnxruntime is not installed.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._network = network.eval()
        self._session = onnxruntime.InferenceSession(
            _Graph(network).model(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, batch: Batch) -> Read:
        """Return rank logits [b] and keep probabilities [b, t]."""
        with torch.inference_mode():
            seen = window(batch, "cpu")
            return read_of(self._network.judge_states(seen, *self.encode(seen)))

    def encode(self, w: Window) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what `MiniNetwork.encode` returns, in float32."""
        filled = w.filled.numpy()
        at = np.flatnonzero(filled)
        apart = (w.passage[:, :, None] != w.passage[:, None, :]).numpy()
        padding = np.where(filled, 0, _HIDDEN_LOGIT).astype(np.float32)[:, None, None, :]
        found = self._session.run(
            None,
            {
                "ids": w.ids.numpy().reshape(-1)[at],
                "position": w.position.numpy().reshape(-1)[at],
                "at": at,
                # Padding looks like the first token; attention does not see it.
                "back": np.maximum(np.cumsum(filled) - 1, 0).reshape(filled.shape),
                "kinds": np.stack((~w.passage.numpy(), w.passage.numpy()), -1)[:, None].astype(np.float32),
                "padding": padding,
                "alone": np.where(apart[:, None], np.float32(_HIDDEN_LOGIT), padding),
            },
        )
        states, middle, halfway = (np.zeros((filled.size, f.shape[-1]), np.float32) for f in found)
        states[at], middle[at], halfway[at] = found
        last, before, between = (
            torch.from_numpy(x).view(*filled.shape, -1) for x in (states, middle, halfway)
        )
        return last, before, between


class _Graph:
    """Nodes and constants as they are added; names are numbered."""

    def __init__(self, network: MiniNetwork) -> None:
        self.net = network
        self.config = network.config
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.size = self.config.hidden // self.config.heads

    def const(self, value: Any) -> str:
        from onnx import numpy_helper

        if isinstance(value, torch.Tensor):
            value = np.ascontiguousarray(value.detach().float().numpy())
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def ints(self, *values: int) -> str:
        return self.const(np.asarray(values, dtype=np.int64))

    def linear(self, x: str, module: Any) -> str:
        return self.add("Gemm", x, self.const(module.weight.T), self.const(module.bias))

    def norm(self, x: str, module: Any) -> str:
        weights = self.const(module.weight), self.const(module.bias)
        return self.add("LayerNormalization", x, *weights, axis=-1, epsilon=module.eps)

    def heads(self, x: str, axes: tuple[int, ...]) -> str:
        """[n, hidden] -> [b, t, heads, size], its axes reordered."""
        padded = self.add("Gather", x, "back")  # [b, t, hidden]
        split = self.add("Reshape", padded, self.ints(0, 0, self.config.heads, self.size))
        return self.add("Transpose", split, perm=axes)

    def layer(self, x: str, layer: Any, mask: str, cross: torch.Tensor | None) -> str:
        h = self.config.hidden
        parts = self.add("Split", self.linear(x, layer.qkv), self.ints(h, h, h), axis=-1)
        del self.nodes[-1].output[:]
        self.nodes[-1].output.extend([f"{parts}_{p}" for p in "qkv"])
        q, v = (self.heads(f"{parts}_{p}", (0, 2, 1, 3)) for p in "qv")
        k = self.heads(f"{parts}_k", (0, 2, 3, 1))
        q = self.add("Mul", q, self.const(np.float32(self.size**-0.5)))
        if cross is not None:  # [2, heads]: two more columns, see `MiniNetwork.encode`
            q = self.add("Concat", q, self.add("Mul", "kinds", self.const(cross.T[:, None])), axis=-1)
            ones = self.const(np.ones((self.config.heads, 1, 1), dtype=np.float32))
            k = self.add("Concat", k, self.add("Mul", "flipped", ones), axis=2)
        weights = self.add("Softmax", self.add("Add", self.add("MatMul", q, k), mask), axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", weights, v), perm=(0, 2, 1, 3))
        flat = self.add("Gather", self.add("Reshape", mixed, self.ints(-1, h)), "at")
        x = self.norm(self.add("Add", x, self.linear(flat, layer.out)), layer.norm1)
        wide = self.add("Gelu", self.linear(x, layer.up))
        return self.norm(self.add("Add", x, self.linear(wide, layer.down)), layer.norm2)

    def model(self) -> bytes:
        """Return the serialised model."""
        from onnx import TensorProto, helper

        net = self.net
        words = self.add("Gather", self.const(net.words.weight), "ids")
        places = self.add("Gather", self.const(net.places.weight), "position")
        x = middle = halfway = self.norm(self.add("Add", words, places), net.norm)
        turned = self.add("Transpose", "kinds", perm=(0, 1, 3, 2))
        self.nodes.append(helper.make_node("Gather", [turned, self.ints(1, 0)], ["flipped"], axis=2))
        for i, layer in enumerate(net.layers):
            above = i - self.config.cross_from
            if above < 0:
                x = middle = self.layer(x, layer, "alone", None)
            else:
                x = self.layer(x, layer, "padding", net.cross[above])
            if i + 1 == self.config.halfway:
                halfway = x
        whole, real = TensorProto.INT64, TensorProto.FLOAT
        inputs = [
            helper.make_tensor_value_info(name, kind, shape)
            for name, kind, shape in (
                ("ids", whole, ["n"]),
                ("position", whole, ["n"]),
                ("at", whole, ["n"]),
                ("back", whole, ["b", "t"]),
                ("kinds", real, ["b", 1, "t", 2]),
                ("padding", real, ["b", 1, 1, "t"]),
                ("alone", real, ["b", 1, "t", "t"]),
            )
        ]
        shape = ["n", self.config.hidden]
        outputs = [helper.make_tensor_value_info(name, real, shape) for name in (x, middle, halfway)]
        graph = helper.make_graph(self.nodes, "encoder", inputs, outputs, self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
        serialised: bytes = made.SerializeToString()
        return serialised
