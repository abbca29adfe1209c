"""HoliTom, the part before the language model: video tokens merged over time, then over space.

HoliTom, arXiv 2505.21334, section 3, read with its published code. A place is static from one frame to the
next where the cosine of its features is above tau. Dynamic programming cuts the video into segments so
that averaging static places over their segments saves the most tokens. What is left is brought to the budget
in one ratio: static (averaged) tokens of a segment by DPC-KNN clusters (K = 7), each .6 of its centre and .4
of the mean of its other members; dynamic tokens of each frame by the attention they get in the vision
encoder's last layer (here: the one whose features are read, which is the last in LLaVA-OneVision). Its
merging inside the language model is a method of its own.

Where we differ: budgets are met to the row, segments and frames sharing them by largest remainders where the
code rounds each up or down; equal densities are told apart by place, not by noise; rows stand where their
first token stood. Where averaging alone leaves fewer rows than the budget, static tokens that changed most
since the frame before stay on their own; the code leaves the rows unused. Views of one picture are frames
of which nothing is static.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune.errors import ConfigError
from tokenprune.vision.methods.base import VisionMethod, named

if TYPE_CHECKING:
    import torch

    from tokenprune.vision.tokens import Reduced, VisualTokens

_NEIGHBOURS = 7
_TAU, _TAU_TIGHT = 0.80, 0.65  # published for 15 % and more, and for 10 %
_TIGHT = 0.125


@named(
    "holitom",
    paper="HoliTom, arXiv 2505.21334",
    summary="video: static places averaged over segments, then clustered; moving ones by attention",
)
def holitom(tau: float | None = None, beta: float = 0.6) -> VisionMethod:
    """Compose the method.

    ``tau``: cosine above which a place is static between two frames; None takes the published .80, or .65 for
    budgets below an eighth of the tokens. ``beta``: share of its centre in a merged token.
    """
    if tau is not None and not -1 <= tau <= 1:
        raise ConfigError(f"tau must be a cosine from -1 to 1, not {tau}")
    if not 0 <= beta <= 1:
        raise ConfigError(f"beta must be a share from 0 to 1, not {beta}")

    def decide(tokens: VisualTokens, rows: int | None) -> Reduced:
        budget = rows or 1
        tight = budget < _TIGHT * len(tokens)
        threshold = tau if tau is not None else _TAU_TIGHT if tight else _TAU
        return _reduce(tokens, budget, threshold, beta)

    return VisionMethod(decide, needs=("received",))


def _reduce(tokens: VisualTokens, budget: int, tau: float, beta: float) -> Reduced:
    import torch

    from tokenprune.vision.merge import blend, density_peaks, means
    from tokenprune.vision.score import received
    from tokenprune.vision.select import apportion, best_of_groups
    from tokenprune.vision.tokens import Reduced

    device = tokens.features.device
    scores = received(tokens)
    owner = static_owners(tokens, tau, budget)
    # units: what the averaging over time leaves, in the order of their first tokens
    units, unit = owner.unique(return_inverse=True)
    features = means(tokens.features.float(), unit, len(units))
    averaged = torch.bincount(unit, minlength=len(units)) > 1
    # static units of a segment share its first frame: groups are (frame, dynamic or static)
    group = tokens.frame[units] * 2 + averaged
    shares = apportion(budget, torch.bincount(group, minlength=2 * tokens.grid[0]))
    order = group.sort(stable=True).indices
    attended = scores[units].masked_fill(averaged, 0)
    kept = order[best_of_groups(attended[order], group[order], shares)]
    row_of_unit = torch.full((len(units),), -1, dtype=torch.int64, device=device)
    moving = kept[~averaged[kept]]
    row_of_unit[moving] = moving  # by unit first; numbered below
    for number in (shares[1::2].nonzero().squeeze(1) * 2 + 1).tolist():
        members = (group == number).nonzero().squeeze(1)
        centres, cluster = density_peaks(features[members], int(shares[number]), _NEIGHBOURS)
        row_of_unit[members] = members[centres][cluster]
        features[members[centres]] = blend(features[members], centres, cluster, beta)
    rows = row_of_unit.unique()
    rows = rows[rows >= 0]
    number_of = torch.full((len(units) + 1,), -1, dtype=torch.int64, device=device)
    number_of[rows] = torch.arange(len(rows), device=device)
    into = number_of[row_of_unit][unit]  # -1 reads the last entry, which stays -1
    return Reduced(features[rows].to(tokens.features.dtype), units[rows], into, scores)


def static_owners(tokens: VisualTokens, tau: float, least: int) -> torch.Tensor:
    """For each token the place of the token it is averaged with: the first of its place in its segment.

    Args:
        tokens: all tokens of a video.
        tau: cosine above which a place is static between two frames.
        least: how many tokens must be left; static ones with the lowest cosines stay on their own for it.

    Returns:
        int64 [n]; a token's own place where it is dynamic.
    """
    import torch

    from tokenprune.vision.score import frame_cosines
    from tokenprune.vision.temporal import segment, static_runs

    cosines = frame_cosines(tokens)
    runs = static_runs(cosines > tau)
    frames, places = runs.shape
    begin = torch.from_numpy(segment(runs)).to(runs.device)
    frame = torch.arange(frames, device=runs.device)
    end = torch.searchsorted(begin, begin, right=True) - 1  # last frame of each one's segment
    static = (runs[end] >= (end - begin)[:, None]) & (end > begin)[:, None]
    place = torch.arange(places, device=runs.device)
    owner = torch.where(static, begin[:, None], frame[:, None]) * places + place
    owner = owner.flatten()
    own = torch.arange(len(owner), device=runs.device)
    follows = (owner != own).nonzero().squeeze(1)  # averaged into an earlier token
    free = least - (len(owner) - len(follows))
    if free > 0:
        least_alike = cosines.flatten()[follows - places].sort(stable=True).indices[:free]
        owner[follows[least_alike]] = follows[least_alike]
    return owner
