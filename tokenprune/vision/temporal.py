"""Videos as segments whose static places can be averaged (HoliTom, arXiv 2505.21334, section 3.2)."""

from __future__ import annotations

import numpy as np
import torch

from tokenprune.arrays import IntArray


def static_runs(static: torch.Tensor) -> torch.Tensor:
    """For how many frames before each one a place has been static, int64 [frames, places].

    Args:
        static: bool [frames - 1, places], whether a place stays the same from one frame to the next.
    """
    runs = torch.zeros(len(static) + 1, static.shape[1], dtype=torch.int64, device=static.device)
    for frame, same in enumerate(static, start=1):
        runs[frame] = torch.where(same, runs[frame - 1] + 1, 0)
    return runs


def segment(runs: torch.Tensor) -> IntArray:
    """Cut a video so that averaging static places over their segments saves the most tokens.

    dp[i] = max(dp[i - 1], max over j < i of dp[j - 1] + static(j..i) * (i - j)), with static(j..i) the places
    that are static all the way from frame j to i. Of equal sums, a frame stays alone rather than in a
    segment, and the shorter segment wins.

    Args:
        runs: see `static_runs`.

    Returns:
        int64 [frames], the first frame of the segment each frame is in.
    """
    frames = len(runs)
    saved = np.zeros(frames + 1, dtype=np.int64)  # saved[i]: of the first i frames
    begin = np.arange(frames)  # first frame of a segment that ends here
    for last in range(1, frames):
        counts = torch.bincount(runs[last], minlength=last + 1).cpu().numpy()
        at_least = counts[::-1].cumsum()[::-1]  # places static for that many frames before this one
        length = np.arange(1, last + 1)
        total = saved[last - length] + at_least[length] * length
        best = int(total.argmax())
        saved[last + 1] = max(saved[last], int(total[best]))
        if total[best] > saved[last]:
            begin[last] = last - length[best]
    first = np.zeros(frames, dtype=np.int64)
    last = frames - 1
    while last >= 0:
        first[begin[last] : last + 1] = begin[last]
        last = int(begin[last]) - 1
    return first
