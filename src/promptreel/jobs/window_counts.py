"""How many windows a clip takes that is longer than the motion modules carry. Pure, so that estimates can count with it.

What the windows are for, and which frames are in them, is said in generation/windows.py.
"""

from __future__ import annotations

import math

SPREAD_SHARE = 0.4
"""The share of the timesteps, the noisiest, at which each window is spread over the whole clip."""


def count_spread_windows(num_frames: int, max_frames: int) -> int:
    """As few windows of `max_frames` as hold all frames."""
    return math.ceil(num_frames / max_frames)


def count_overlapping_windows(num_frames: int, max_frames: int) -> int:
    """Windows of `max_frames`, one behind the other, of which neighbours have at least half of their frames in common."""
    stride = max(1, max_frames // 2)
    return 1 + max(0, math.ceil((num_frames - max_frames) / stride))


def frames_computed(num_frames: int, max_frames: int) -> float:
    """Frames that one call computes, on average over a job's calls: more than `num_frames` beyond `max_frames`."""
    if num_frames <= max_frames:
        return float(num_frames)
    spread, overlapping = count_spread_windows(num_frames, max_frames), count_overlapping_windows(num_frames, max_frames)
    return max_frames * (SPREAD_SHARE * spread + (1 - SPREAD_SHARE) * overlapping)
