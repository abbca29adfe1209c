"""The network of `provence-mini`: late interaction and cross-attention in one encoder, sentences compared.

A bi-encoder that was trained on a billion pairs knows more about relevance than a small cross-encoder learns
in hours. So the network starts as that bi-encoder and grows into a cross-encoder:

- Question and passage travel in one sequence, ``[CLS] question [SEP] [CLS] passage [SEP]``, each with
  positions of its own. In the upper layers each may attend to the other, with a learned bias per layer, head
  and direction on the attention logits; a strongly negative start makes them two separate texts.
- Token states are compared as in ColBERT (arXiv 2004.12832, section 3.2): for each question token the best
  cosine among a sentence's tokens, weighed by what the question token says and how rare it is.
- Exact matches weighed by rarity stand beside it, since embeddings blur names and numbers.
- A small transformer over the sentences of the window compares each with the others: which sentence answers
  is a question of which answers best.

As in Provence (arXiv 2501.16214, section 3) one pass gives a keep logit per passage token and a rank score
per passage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.models.labeler.mini_layer import FAR, Layer, MiniConfig, Rows, embedding

N_FEATURES = 10
N_LIKENESS = 4  # columns of `MiniNetwork._likeness`
# Of a window's features, those of all it holds that the fused rank is judged by: late interaction of the last
# states, as a plain mean and weighed by rarity, and of those from before question and passage meet.
_FUSED_FEATURES = (0, 2, 3)


@dataclass
class Window:
    """A batch of (question, part of a passage) pairs.

    Attributes:
        ids: int64 [b, t], word pieces; padding is 0.
        passage: bool [b, t], whether a token stands behind the question's ``[SEP]``.
        position: int64 [b, t], counted from each ``[CLS]``.
        sentence: int64 [b, t], the sentence a passage token belongs to; -1 for all others.
        filled: bool [b, t], False for padding.
        sentences: number of sentences of the largest window.
        head: behind the column of the last question token of any row.
    """

    ids: Tensor
    passage: Tensor
    position: Tensor
    sentence: Tensor
    filled: Tensor
    sentences: int
    head: int


@dataclass
class Labelled:
    """What the network says.

    Attributes:
        token: float32 [b, t], keep logits; meaningful where ``sentence >= 0``.
        sentence: float32 [b, s], the part of it that is common to a sentence.
        rank: float32 [b], orders passages.
        keep_rank: float32 [b], the mean of ``rank`` and what the rank head says; they are the same unless the
            network is ``fused``. The fused rank alone has more wrong passages close behind the best.
        found: float32 [b, f], what the ranks are judged by; the last column is the best sentence's logit, the
            `N_LIKENESS` before it are there when the network is ``fused``.
        present: bool [b, s], which sentences a window has.
    """

    token: Tensor
    sentence: Tensor
    rank: Tensor
    keep_rank: Tensor
    found: Tensor
    present: Tensor


class MiniNetwork(nn.Module):  # type: ignore[misc]
    """See the module. Token states are computed in the dtype of the encoder, everything behind in float32."""

    idf: Tensor

    def __init__(self, config: MiniConfig) -> None:
        """Build the network with random weights.

        Raises:
            ValueError: the sizes do not go together.
        """
        if config.hidden % config.heads or not 0 <= config.cross_from <= config.layers:
            raise ValueError("hidden must be a multiple of heads, and cross_from at most layers")
        super().__init__()
        self.config = c = config
        self.words = embedding(c.vocab_size, c.hidden)
        self.places = embedding(c.positions, c.hidden)
        self.norm = nn.LayerNorm(c.hidden, eps=c.eps)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        crossing = c.layers - c.cross_from
        self.cross = nn.Parameter(torch.full((crossing, 2, c.heads), c.cross_start))
        self.register_buffer("idf", torch.ones(c.vocab_size))
        self.weigh = nn.Linear(c.hidden, 1)
        self.weigh_idf = nn.Parameter(torch.tensor(1.0))
        self.direct = nn.Linear(3 * N_FEATURES, 1)
        self.project = nn.Linear(2 * c.hidden + 3 * N_FEATURES, c.sentence_width)
        self.compare = nn.TransformerEncoderLayer(
            c.sentence_width, 4, 2 * c.sentence_width, dropout=0.1, activation="gelu", batch_first=True
        )
        self.judge = nn.Linear(c.sentence_width, 1)
        self.token = nn.Linear(c.hidden, 1)
        self.rank = nn.Sequential(
            nn.Linear(c.sentence_width + 2 * N_FEATURES + 1, c.sentence_width),
            nn.GELU(),
            nn.Linear(c.sentence_width, 1),
        )
        self.fuse: nn.Linear | None = None
        if c.fused:
            self.add_fusion()
        for last in (self.weigh, self.judge, self.token, self.rank[-1]):
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, window: Window) -> Labelled:
        """Label a batch."""
        return self.judge_states(window, *(x.float() for x in self.encode(window)))

    def add_fusion(self) -> None:
        """Let the rank be fused; it stays what it was until the weights of that are fitted."""
        self.config = replace(self.config, fused=True)
        self.fuse = nn.Linear(2 + len(_FUSED_FEATURES) + N_LIKENESS, 1, device=self.idf.device)
        nn.init.zeros_(self.fuse.weight)
        nn.init.zeros_(self.fuse.bias)
        with torch.no_grad():
            self.fuse.weight[0, 0] = 1.0

    def encoder_to(self, dtype: torch.dtype) -> None:
        """Compute token states in another format than what judges them."""
        for part in (self.words, self.places, self.norm, self.layers):
            part.to(dtype)

    def word_vectors(self, ids: Tensor) -> Tensor:
        """Return what tokens alone are to the first layer, without places, float32 [n, d] of unit length."""
        return F.normalize(self.norm(self.words(ids)).float(), dim=-1)

    def encode(self, w: Window) -> tuple[Tensor, Tensor, Tensor]:
        """Return token states: of the last layer, from before the texts meet, from halfway between."""
        rows = Rows(w.filled)
        x = self.norm(self.words(rows.packed(w.ids)) + self.places(rows.packed(w.position)))
        padding = torch.zeros(w.ids.shape, dtype=x.dtype, device=x.device).masked_fill(~w.filled, FAR)
        padding = padding[:, None, None, :]
        # A bias between two kinds of tokens is a product of two more columns of queries and keys, so that no
        # mask for each head has to be made and learned through. Below the first crossing layer it parts them.
        kinds = torch.stack((~w.passage, w.passage), -1)[:, None].float()
        heads = kinds.expand(-1, self.config.heads, -1, -1)
        other = heads.flip(-1)
        middle = halfway = x
        for i, layer in enumerate(self.layers):
            if i < self.config.cross_from:
                x = layer(x, rows, padding, (heads * FAR, other))
                middle = x
            else:
                bias = self.cross[i - self.config.cross_from].T[:, None]
                x = layer(x, rows, padding, (kinds * bias, other))
            if i + 1 == self.config.halfway:
                halfway = x
        return rows.padded(x), rows.padded(middle), rows.padded(halfway)

    def judge_states(self, w: Window, states: Tensor, middle: Tensor, halfway: Tensor) -> Labelled:
        """Judge sentences by their token states, float32 [b, t, d]."""
        b, _, d = states.shape
        s = max(1, w.sentences)
        slot = w.sentence.clamp(min=0)
        inside = w.sentence >= 0
        # Of both texts neither [CLS] nor [SEP], which is the last of their columns.
        last = (w.filled & ~w.passage).sum(1, keepdim=True) - 1
        asked = w.filled & ~w.passage & (w.position > 0) & (w.position < last)
        end = (w.filled & w.passage).sum(1, keepdim=True) - 1
        title = w.filled & w.passage & (w.position > 0) & (w.position < end) & ~inside
        size = torch.zeros(b, s, dtype=torch.float32, device=states.device).scatter_add(
            1, slot, inside.float()
        )
        present = size > 0
        features, whole = self._features(w, states, middle, slot, inside, title, asked, size)
        mean = self._mean(states, slot, inside, size)
        pull = (states * self._mean_query(states, asked)[:, None]).sum(-1) / d**0.5
        strength = torch.where(inside, pull, torch.full_like(pull, FAR))
        top = torch.full((b, s), FAR, dtype=torch.float32, device=states.device).scatter_reduce(
            1, slot, strength, "amax"
        )
        share = torch.exp(strength - top.gather(1, slot)) * inside
        total = (
            torch.zeros(b, s, dtype=torch.float32, device=states.device)
            .scatter_add(1, slot, share)
            .clamp(min=1e-6)
        )
        pulled = (
            torch.zeros(b, s, d, dtype=torch.float32, device=states.device).scatter_add(
                1, slot[:, :, None].expand(-1, -1, d), states * share[:, :, None]
            )
            / total[:, :, None]
        )
        count = present.sum(1, keepdim=True).clamp(min=1)[:, :, None]
        masked = features.masked_fill(~present[:, :, None], FAR)
        against_mean = features - (features * present[:, :, None]).sum(1, keepdim=True) / count
        against_best = features - masked.amax(1, keepdim=True)
        looks = torch.cat((features, against_mean, against_best), -1).masked_fill(~present[:, :, None], 0.0)
        x = F.gelu(self.project(torch.cat((mean, pulled, looks), -1)))
        # A window without sentences still needs one key to attend to.
        absent = ~present
        absent[:, 0] = False
        x = self.compare(x, src_key_padding_mask=absent)
        sentence = (self.direct(looks) + self.judge(x)).squeeze(-1)
        token = self.token(states).squeeze(-1) + sentence.gather(1, slot)
        best = sentence.masked_fill(absent, FAR).amax(1, keepdim=True)
        pooled = (x * ~absent[:, :, None]).sum(1) / (~absent).sum(1, keepdim=True)
        alike = [self._likeness(w, states, halfway, asked, inside | title)] if self.fuse is not None else []
        found = torch.cat((pooled, whole, *alike, best), -1)
        rank, own = self.rank_of(found), self.head_rank_of(found)
        return Labelled(token, sentence, rank, (rank + own) / 2, found, present)

    def rank_of(self, found: Tensor) -> Tensor:
        """Return the rank, float32 [b], of what was found in windows (`Labelled.found`)."""
        if self.fuse is None:
            return self.head_rank_of(found)
        rank: Tensor = self.fuse(self.columns(found))
        return rank.squeeze(-1)

    def head_rank_of(self, found: Tensor) -> Tensor:
        """Return what the rank head says of it, float32 [b]."""
        rank: Tensor = self.rank(self.for_head(found)) + found[:, -1:]
        return rank.squeeze(-1)

    def for_head(self, found: Tensor) -> Tensor:
        """Return the columns that the rank head reads."""
        if self.fuse is None:
            return found
        return torch.cat((found[:, : -N_LIKENESS - 1], found[:, -1:]), 1)

    def columns(self, found: Tensor) -> Tensor:
        """Return what a fused rank sums, float32 [b, f]; the first is what the rank head says."""
        parts = (self.config.sentence_width + N_FEATURES, N_FEATURES, N_LIKENESS, 1)
        _, whole, alike, best = found.split(parts, 1)
        own = self.head_rank_of(found)[:, None]
        return torch.cat((own, best, whole[:, _FUSED_FEATURES], alike), 1)

    def _likeness(self, w: Window, states: Tensor, halfway: Tensor, asked: Tensor, read: Tensor) -> Tensor:
        """Return float32 [b, N_LIKENESS]: question and passage as two texts.

        The cosine of their first tokens and that of the means over all their tokens, as bi-encoders compare
        texts; late interaction halfway through the layers in which they meet, plain and weighed by rarity.
        """
        begin = (w.passage & (w.position == 0)).float().argmax(1)
        first = states[torch.arange(len(begin), device=begin.device), begin]
        ours, theirs = ((states * (w.filled & part)[:, :, None]).sum(1) for part in (~w.passage, w.passage))
        asked, words = asked[:, : w.head], w.ids[:, : w.head]
        one = torch.zeros_like(w.sentence)
        late = self._interaction(halfway, one, read, asked, 1).squeeze(-1)
        idf = self.idf[words] * asked
        return (
            torch.stack(
                (
                    F.cosine_similarity(states[:, 0], first),
                    F.cosine_similarity(ours, theirs),
                    late.sum(1) / asked.sum(1).clamp(min=1),
                    (late * idf).sum(1) / idf.sum(1).clamp(min=1e-6),
                ),
                -1,
            )
            * 4
            - 2
        )

    def _features(
        self,
        w: Window,
        states: Tensor,
        middle: Tensor,
        slot: Tensor,
        inside: Tensor,
        title: Tensor,
        asked: Tensor,
        size: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return float32 [b, s, N_FEATURES] of sentences and [b, 2 * N_FEATURES] of whole windows.

        Of a window those of its sentences together, and of the same with the title.
        """
        s = size.shape[1]
        query = F.normalize(self._mean_query(states, asked), dim=-1)
        # Question tokens stand in the first columns; nothing else is compared with the passage.
        asked, words = asked[:, : w.head], w.ids[:, : w.head]
        idf = self.idf[words] * asked
        plain = asked.float() / asked.sum(1, keepdim=True).clamp(min=1)
        rare = idf / idf.sum(1, keepdim=True).clamp(min=1e-6)
        own = self.weigh(states[:, : w.head]).squeeze(-1)
        weight = F.softplus(own + self.weigh_idf * self.idf[words] / 4) * asked
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
        # The title is compared as one more sentence.
        read, place = inside | title, torch.where(title, s, slot)
        last = self._interaction(states, place, read, asked, s + 1)
        early = self._interaction(middle, place, read, asked, s + 1)
        same = (words[:, :, None] == w.ids[:, None, :]) & asked[:, :, None] & read[:, None, :]
        found = torch.zeros(*asked.shape, s + 1, dtype=torch.float32, device=states.device)
        found = found.scatter_reduce(2, place[:, None].expand(-1, asked.shape[1], -1), same.float(), "amax")

        def cosine(mask: Tensor) -> Tensor:
            mean = F.normalize((states * mask[:, :, None]).sum(1), dim=-1)
            return (mean * query).sum(-1, keepdim=True)

        def columns(a: Tensor, e: Tensor, f: Tensor, cos: Tensor, n: Tensor, f0: Tensor) -> Tensor:
            hits = (f * rare[:, :, None]).sum(1)
            return torch.stack(
                (
                    4 * (a * plain[:, :, None]).sum(1) - 2,
                    4 * (a * weight[:, :, None]).sum(1) - 2,
                    4 * (a * rare[:, :, None]).sum(1) - 2,
                    4 * (e * rare[:, :, None]).sum(1) - 2,
                    4 * cos - 2,
                    2 * hits,
                    2 * hits / (0.25 + 0.75 * n / 30),
                    (f * idf[:, :, None]).amax(1) / 4,
                    torch.log(n) - 3,
                    f0,
                ),
                -1,
            )

        def together(mask: Tensor, slots: int) -> Tensor:
            a, e, f = (x[:, :, :slots].amax(-1, keepdim=True) for x in (last, early, found))
            n = mask.sum(1, keepdim=True).clamp(min=1).float()
            return columns(a, e, f, cosine(mask), n, torch.zeros_like(n))[:, 0]

        vector = F.normalize(self._mean(states, slot, inside, size), dim=-1)
        first = torch.zeros_like(size)
        first[:, 0] = 1.0
        sentences = columns(
            last[:, :, :s],
            early[:, :, :s],
            found[:, :, :s],
            (vector * query[:, None]).sum(-1),
            size.clamp(min=1),
            first,
        )
        return sentences, torch.cat((together(inside, s), together(read, s + 1)), -1)

    @staticmethod
    def _interaction(x: Tensor, slot: Tensor, inside: Tensor, asked: Tensor, s: int) -> Tensor:
        """Best cosine of each question token in each sentence, [b, q, s]; ``asked``: bool [b, q]."""
        unit = F.normalize(x, dim=-1)
        cos = (unit[:, : asked.shape[1]] @ unit.transpose(1, 2)).masked_fill(~inside[:, None, :], -1.0)
        best = torch.full((*cos.shape[:2], s), -1.0, dtype=torch.float32, device=x.device)
        best = best.scatter_reduce(2, slot[:, None].expand(-1, cos.shape[1], -1), cos, "amax")
        return best * asked[:, :, None]

    @staticmethod
    def _mean(x: Tensor, slot: Tensor, inside: Tensor, size: Tensor) -> Tensor:
        total = torch.zeros(*size.shape, x.shape[-1], dtype=torch.float32, device=x.device)
        index = slot[:, :, None].expand(-1, -1, x.shape[-1])
        return total.scatter_add(1, index, x * inside[:, :, None]) / size.clamp(min=1)[:, :, None]

    @staticmethod
    def _mean_query(x: Tensor, asked: Tensor) -> Tensor:
        return (x * asked[:, :, None]).sum(1) / asked.sum(1, keepdim=True).clamp(min=1)
