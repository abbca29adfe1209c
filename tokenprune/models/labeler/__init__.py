"""Sentence labelers: one pass over question and passage gives a rank score and a keep probability per token.

Provence (arXiv 2501.16214) and its relatives. `labeler` reads passages with a network, `families` tells the
published checkpoints apart, one file each; nothing heavy is imported here.
"""

from tokenprune.models.labeler.labeler import Labeler
from tokenprune.models.labeler.types import DEFAULT_THRESHOLD, Batch, Labels, Network, Passage, Read, Words

__all__ = ["DEFAULT_THRESHOLD", "Batch", "Labeler", "Labels", "Network", "Passage", "Read", "Words"]
