"""A network, a tokenizer and questions small enough to train within a test."""

import numpy as np
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from tokenprune.models.labeler.mini import frame_of
from tokenprune.models.labeler.mini_layer import MiniConfig
from tokenprune.models.labeler.mini_network import MiniNetwork
from tokenprune.models.labeler.text import TextReader
from tokenprune.training.sets import Item, Passage
from tokenprune.training.windows import WindowMaker

ANIMALS = "cat dog bird fish horse cow pig hen".split()
COLOURS = "red blue green black white brown pink grey".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
VOCAB = {
    w: i
    for i, w in enumerate([*SPECIAL, *ANIMALS, *COLOURS, *"what colour is the ? . a and it sleeps".split()])
}
SIZES = MiniConfig(
    vocab_size=len(VOCAB), hidden=32, layers=3, heads=4, ffn=48, positions=64, cross_from=1, sentence_width=16
)


def tokenizer():
    made = Tokenizer(WordPiece(VOCAB, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(SPECIAL)
    return made


def maker(max_length=40):
    return WindowMaker(TextReader(tokenizer(), 0, 1), frame_of(2, 3), max_length)


def network(seed=0):
    torch.manual_seed(seed)
    return MiniNetwork(SIZES)


def item(n=0, set_name="selqa", passages=None, **more):
    """A question on the colour of an animal; one sentence says it."""
    rng = np.random.default_rng(n)
    animals, colours = rng.permutation(ANIMALS)[:4], rng.permutation(COLOURS)[:4]
    made = [
        Passage(
            "the " + str(animals[0]),
            tuple(f"the {a} is {c}." for a, c in zip(animals[i::2], colours[i::2], strict=True)),
            (1 - i, 0),
        )
        for i in range(2)
    ]
    return Item(
        id=str(n),
        set_name=set_name,
        question=f"what colour is the {animals[0]}?",
        passages=tuple(passages or made),
        source="s",
        group=str(n),
        label_type="gold",
        answers=(),
        **more,
    )
