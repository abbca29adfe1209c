"""The ATP module of ATP-LLaVA: small heads that say, per prompt and layer, what a visual token must reach.

ATP-LLaVA, arXiv 2412.00447, section 3. Behind some layers of the language model

    S = (visual-to-visual attention logit + text-to-visual attention probability) / 2,

both means over heads and queries, says how much a token is looked at, and a score of uniform samplings of the
patch grid says how much it is needed to cover the picture. A token stays where S > theta_r or
S_spatial > theta_s; a head predicts both thresholds. In training a mask sigmoid((score - theta) T) takes the
place of the decision, T = 10, and the larger of both counts.

No code was published and the text could be read in part only. What is ours for want of it:

- logits are those a token receives (mean over visual queries, whether or not they may see it);
- scores are standardised over the visual tokens of a prompt, so that thresholds and T mean the same in every
  model and layer; ``balanced`` does so with both parts of S before they are added, else the probabilities,
  which are small, hardly count beside logits;
- the head's input: means of the hidden states of the visual tokens and of the text behind them, with means
  and deviations of both parts of S; it is a perceptron of one hidden layer;
- a token on the sampling of stride s has S_spatial = 1 - lambda / s^2, lambda = 3, of the coarsest that it is
  on (as an independent reimplementation reads equation 5); tokens on none have only S, where 0 for them
  would let a theta_s of 0 keep all of them by half in training and none in use;
- default layers are at 4/32, 14/32 and 24/32 of the depth (that reimplementation's).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenprune.errors import ConfigError, ModelError

_FORMAT = "tokenprune-atp-1"
_HIDDEN_FROM = -1e9  # logit of a key that nobody sees: finite, so that gradients stay numbers
_DEFAULT_SHARES = (4 / 32, 14 / 32, 24 / 32)


@dataclass(frozen=True, slots=True)
class ATPConfig:
    """What an ATP module is for and how it decides.

    Attributes:
        depth: Layers of the language model.
        hidden: Its hidden size.
        layers: It acts behind these, from 0, ascending; empty: the default ones.
        width: Hidden size of a head.
        temperature: T of the soft mask.
        strides: Of the samplings of the patch grid.
        sample_weight: lambda.
        balanced: Standardise both parts of S before they are added.
    """

    depth: int
    hidden: int
    layers: tuple[int, ...] = ()
    width: int = 64
    temperature: float = 10.0
    strides: tuple[int, ...] = (2, 4)
    sample_weight: float = 3.0
    balanced: bool = True

    def __post_init__(self) -> None:
        """Fill in the layers and check the ranges.

        Raises:
            ConfigError: No layer is left behind one, they do not ascend, or a value is out of range.
        """
        if not self.layers:
            layers = {max(0, round(share * self.depth) - 1) for share in _DEFAULT_SHARES}
            object.__setattr__(self, "layers", tuple(sorted(layers)))
        ascend = all(a < b for a, b in zip(self.layers, self.layers[1:], strict=False))
        if not ascend or self.layers[0] < 0 or self.layers[-1] >= self.depth - 1:
            raise ConfigError(f"layers must ascend within 0..{self.depth - 2}, not {self.layers}")
        if self.temperature <= 0 or self.width < 1 or min(self.strides, default=1) < 1:
            raise ConfigError("temperature, width and strides must be above 0")


@dataclass(frozen=True, slots=True)
class Margin:
    """What the module says of the tokens of b prompts.

    Attributes:
        margin: float32 [b, n], how far a visual token is above the threshold it clears best; it stays when
            above 0, and one always is. Elsewhere meaningless.
        redundant: float32 [b, n], S standardised.
        theta_r: float32 [b], for it.
        theta_s: float32 [b], for the spatial score.
    """

    margin: Tensor
    redundant: Tensor
    theta_r: Tensor
    theta_s: Tensor

    def log_mask(self, temperature: float) -> Tensor:
        """Return the logarithm of the soft mask, [b, n], at most 0."""
        return F.logsigmoid(self.margin * temperature)


class ATPModule(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A head for each of the layers; see the module's text."""

    def __init__(self, config: ATPConfig) -> None:
        """Start with heads that keep about five of six tokens of any picture."""
        super().__init__()
        self.config = config
        self.heads = nn.ModuleDict(
            {
                str(layer): nn.Sequential(
                    nn.Linear(2 * config.hidden + 4, config.width), nn.GELU(), nn.Linear(config.width, 2)
                )
                for layer in config.layers
            }
        )
        with torch.no_grad():
            for head in self.heads.values():
                head[-1].weight.zero_()
                head[-1].bias.copy_(torch.tensor([-1.0, 0.0]))

    def forward(
        self,
        layer: int,
        hidden: Tensor,
        query: Tensor,
        keys: Tensor,
        scale: float,
        *,
        visual: Tensor,
        asking: Tensor,
        places: Tensor,
        weight: Tensor,
    ) -> Margin:
        """Decide behind one layer.

        Args:
            layer: Number of the layer, one of the config's.
            hidden: [b, n, hidden], its output.
            query: [b, H, n, d], its rotated queries.
            keys: [b, G, n, d], its rotated keys.
            scale: Of the attention logits.
            visual: bool [b, n]; at least one in each prompt.
            asking: bool [b, n], text whose attention counts; at least one in each prompt.
            places: int64 [b, n, 3], picture, row and column of visual tokens.
            weight: float32 [b, n], logarithm of how much of each token is there: 0 for all of it.
        """
        there = weight.exp() * visual
        received, seen = attention_scores(query, keys, scale, visual, asking, weight)
        parts = [_standardised(part, there) for part in (received, seen)]
        both = (parts[0].value + parts[1].value) / 2 if self.config.balanced else (received + seen) / 2
        redundant = _standardised(both, there).value
        states = [_unit(_mean(hidden.float(), m)) for m in (there, asking.float())]
        numbers = torch.stack([part for one in parts for part in (one.mean, one.deviation)], 1)
        out = self.heads[str(layer)](torch.cat([*states, numbers], 1))
        theta_r, theta_s = out[:, 0], out[:, 1].sigmoid()
        margin = torch.maximum(redundant - theta_r[:, None], self.spatial(places) - theta_s[:, None])
        # A picture of which nothing is left could not be asked about: the best token stays.
        best = (margin + weight).masked_fill(~visual, -torch.inf).argmax(1, keepdim=True)
        saved = torch.zeros_like(visual).scatter(1, best, True) & (margin <= 0)
        return Margin(margin.masked_fill(saved, 1.0), redundant, theta_r, theta_s)

    def spatial(self, places: Tensor) -> Tensor:
        """Return S_spatial, float32 [...], of places int64 [..., 3]; far below 0 off all samplings."""
        score = torch.full(places.shape[:-1], _HIDDEN_FROM, dtype=torch.float32, device=places.device)
        for stride in self.config.strides:
            on = (places[..., 1] % stride == 0) & (places[..., 2] % stride == 0)
            value = max(0.0, 1 - self.config.sample_weight / stride**2)
            score = torch.where(on, score.clamp(min=value), score)
        return score

    def save(self, path: str | Path) -> None:
        """Write weights and config to a safetensors file.

        Raises:
            ModelError: The file cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        about = {"format": _FORMAT, "config": json.dumps(asdict(self.config))}
        try:
            save_file(self.state_dict(), str(path), metadata=about)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot write {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> ATPModule:
        """Read what :meth:`save` wrote, on the CPU and in evaluation mode.

        Raises:
            ModelError: There is no such file, or it is none of ours.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about.get("format") != _FORMAT:
                raise ModelError(f"{path} holds no ATP module of this release; train one (train_atp)")
            read = json.loads(about["config"])
            config = ATPConfig(**read | {name: tuple(read[name]) for name in ("layers", "strides")})
            module = cls(config)
            module.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"cannot read the ATP module {path}: {error}") from error
        module.eval()
        return module


@dataclass(frozen=True, slots=True)
class _Standardised:
    """[b, n] with mean 0 and deviation 1 over the tokens that count, and [b] what these were."""

    value: Tensor
    mean: Tensor
    deviation: Tensor


def attention_scores(
    query: Tensor, keys: Tensor, scale: float, visual: Tensor, asking: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the two parts of S; see :meth:`ATPModule.forward` for the arguments.

    Returns:
        float32 [b, n] each: mean attention logit that a key receives from the visual tokens, and mean
        attention probability from the text that asks, over heads and those that look; where a query may look
        is the causal mask's business in the second only.
    """
    _, heads, size, width = query.shape
    groups = keys.shape[1]
    wide = keys.float().repeat_interleave(heads // groups, 1)
    there = weight.exp() * visual
    looking = torch.einsum("bhnd,bn->bhd", query.float(), there / there.sum(1, keepdim=True))
    received = torch.einsum("bhd,bhnd->bn", looking, wide) * (scale / heads)
    # Rows that ask, and rows that fill up where other prompts of the batch have more.
    most = int(asking.sum(1).max())
    order = asking.int().sort(dim=1, descending=True, stable=True).indices[:, :most]
    counts = asking.gather(1, order).float()
    rows = query.float().gather(2, order[:, None, :, None].expand(-1, heads, -1, width))
    logits = rows @ wide.transpose(2, 3) * scale + weight[:, None, None, :]
    behind = torch.arange(size, device=query.device) > order[:, :, None]
    found = logits.masked_fill(behind[:, None], -torch.inf).softmax(-1)
    seen = torch.einsum("bhtn,bt->bn", found, counts / counts.sum(1, keepdim=True)) / heads
    return received, seen


def hidden_from_all(there: Tensor) -> Tensor:
    """Return the weight, as in :meth:`ATPModule.forward`, of tokens of which only some are there, bool."""
    return torch.where(there, 0.0, _HIDDEN_FROM)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean over tokens of [b, n, d] by weights [b, n]: [b, d]."""
    return torch.einsum("bnd,bn->bd", values, weight / weight.sum(1, keepdim=True))


def _unit(values: Tensor) -> Tensor:
    """Divide [b, d] by the root of its mean square."""
    return values * values.square().mean(-1, keepdim=True).add(1e-6).rsqrt()


def _standardised(values: Tensor, weight: Tensor) -> _Standardised:
    total = weight.sum(1)
    mean = (values * weight).sum(1) / total
    apart = values - mean[:, None]
    deviation = ((apart.square() * weight).sum(1) / total).sqrt()
    return _Standardised(apart / (deviation[:, None] + 1e-6), mean, deviation)
