"""The trie of block paths: what HtmlRAG's generative step scores (arXiv 2411.02959, section 3.4).

A block's path is a string such as ``<body><div2><p>``. A language model that is asked for the path of the
relevant block writes it token by token; the paths of all blocks share their beginnings, so they form a trie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tokenprune.arrays import FloatArray, IntArray

FLOOR = float(np.log(1e-9))  # the least a step can count, as in the published code


@dataclass(frozen=True)
class PathTrie:
    """Token paths, merged where they begin alike.

    Nodes are numbered so that parents come first; node 0 is the root, the end of the prompt.

    Attributes:
        token: int64 [m], token of each node, -1 for the root.
        parent: int64 [m], -1 for the root.
        depth: int64 [m], tokens from the root.
        children: nodes below each node.
        leaf: int64 [p], node at which each path ends.
    """

    token: IntArray
    parent: IntArray
    depth: IntArray
    children: list[list[int]]
    leaf: IntArray

    @classmethod
    def build(cls, paths: Sequence[Sequence[int]]) -> PathTrie:
        """Merge paths level by level; equal paths share a leaf.

        Args:
            paths: token ids of each path; an empty one ends at the root.
        """
        token, parent, depth = [-1], [-1], [0]
        children: list[list[int]] = [[]]
        leaf = np.zeros(len(paths), dtype=np.int64)
        known: dict[tuple[int, int], int] = {}
        for level in range(max(map(len, paths), default=0)):
            for p, path in enumerate(paths):
                if level >= len(path):
                    continue
                at, step = int(leaf[p]), int(path[level])
                node = known.setdefault((at, step), len(token))
                if node == len(token):
                    token.append(step)
                    parent.append(at)
                    depth.append(level + 1)
                    children.append([])
                    children[at].append(node)
                leaf[p] = node
        columns = [np.asarray(column, dtype=np.int64) for column in (token, parent, depth)]
        return cls(columns[0], columns[1], columns[2], children, leaf)

    def to_read(self) -> IntArray:
        """Nodes that a model must read: those with a choice at or below them, without the root; ascending."""
        wanted = np.asarray([len(c) > 1 for c in self.children], dtype=bool)
        for node in range(len(wanted) - 1, 0, -1):
            wanted[self.parent[node]] |= wanted[node]
        return np.flatnonzero(wanted[1:]) + 1

    def choices(self) -> list[int]:
        """Nodes with more than one child."""
        return [node for node, below in enumerate(self.children) if len(below) > 1]

    def score(self, log_weights: Callable[[int], FloatArray]) -> FloatArray:
        """Log probability of every path.

        Where there is one way to go on its probability is 1; otherwise it is the softmax over the children
        alone.

        Args:
            log_weights: node -> logits (or log probabilities) of its children's tokens, float64.

        Returns:
            float64 [p], sums of log probabilities along the paths; each step counts at least `FLOOR`.
        """
        total = np.zeros(len(self.token))
        for node, below in enumerate(self.children):
            if len(below) == 1:
                total[below[0]] = total[node]
            elif below:
                weights = log_weights(node)
                shifted = weights - weights.max()
                step = shifted - np.log(np.exp(shifted).sum())
                total[below] = total[node] + np.maximum(step, FLOOR)
        return total[self.leaf]
