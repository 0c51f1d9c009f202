"""How many windows a clip takes if it is longer than the model's `max_frames`. Pure, so that estimates can use it.

generation/families/windows.py explains what windows are for, and which frames they contain.
"""

from __future__ import annotations

import math

SPREAD_SHARE = 0.4
"""The share of the timesteps, noisiest first, at which each window is spread over the whole clip."""


def count_spread_windows(num_frames: int, max_frames: int) -> int:
    """The fewest windows of `max_frames` that cover all frames."""
    return math.ceil(num_frames / max_frames)


def count_overlapping_windows(num_frames: int, max_frames: int) -> int:
    """Consecutive windows of `max_frames`; neighbors share at least half of their frames."""
    stride = max(1, max_frames // 2)
    return 1 + max(0, math.ceil((num_frames - max_frames) / stride))


def frames_computed(num_frames: int, max_frames: int) -> float:
    """Frames computed per call, averaged over a job's calls. More than `num_frames` if that exceeds `max_frames`."""
    if num_frames <= max_frames:
        return float(num_frames)
    spread, overlapping = count_spread_windows(num_frames, max_frames), count_overlapping_windows(num_frames, max_frames)
    return max_frames * (SPREAD_SHARE * spread + (1 - SPREAD_SHARE) * overlapping)
