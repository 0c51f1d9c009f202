"""Clips longer than the motion modules carry: the network sees them through windows, and what it says is blended.

Each call is made of several forwards over windows of `max_frames` frames, whose outputs are averaged frame by frame as in
MultiDiffusion (Bar-Tal et al. 2023, "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation"). There are two
kinds of windows, and the timestep alone decides which:

- While there is much noise, what happens is decided: each window is spread over the whole clip and takes every second (third,
  ...) frame, so that the clip is planned as one, and a thing that moves to the left does so once, from end to end.
- Below that, how it looks is decided: each window is a run of frames, and overlaps with its neighbours by half. Weights fall
  off towards them, so that nowhere one window takes over from another at once.

Only spread windows make a clip whose neighbouring frames do not fit together; only runs make one that starts anew with each
window. The noise is drawn for one window and serves the whole clip, as in FreeNoise (Qiu et al. 2023, "FreeNoise: Tuning-Free
Longer Video Diffusion via Noise Rescheduling"), so that all windows begin with the same clip in mind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.seat import Rows
from promptreel.jobs.window_counts import SPREAD_SHARE, count_overlapping_windows, count_spread_windows


@dataclass(frozen=True)
class Window:
    """`frames`: the numbers of its frames, ascending, int64 [W]. `weights`: their part in the blend, float32 [W]; those of one
    frame in all windows add up to 1."""

    frames: Tensor
    weights: Tensor


def predict(rows: Rows, forward: Callable[[Rows], Tensor], on_window: Callable[[float], None]) -> Tensor:
    """What the network makes of rows of any length: [B, C, T, h, w] like `rows.latents`, by one forward for each window.

    `on_window` is told the share of the windows that is done, 0 at first, before each forward; it may raise to stop there.
    A clip as short as `max_frames` is one window, and nothing but its forward.
    """
    windows = plan_windows(
        rows.latents.shape[2], rows.checkpoint.card.max_frames, spread=_is_noisy(rows.timesteps, rows.checkpoint.space)
    )
    blended = torch.zeros(rows.latents.shape)
    for number, window in enumerate(windows):
        on_window(number / len(windows))
        if len(windows) == 1:
            return forward(rows)
        left = rows.remaining * len(windows) - number
        output = forward(replace(rows, latents=rows.latents[:, :, window.frames], remaining=left))
        blended[:, :, window.frames] += window.weights[:, None, None] * output
    return blended


def draw_noise(shape: tuple[int, ...], max_frames: int, generator: torch.Generator) -> Tensor:
    """Unit noise, float32 [1, C, T, h, w]. Beyond `max_frames` it is drawn for so many frames and stretched over the clip.

    A frame between two of those drawn, at a share `u` of the way, gets `cos(u * pi / 2)` of the one before it and
    `sin(u * pi / 2)` of the one behind it, which keeps the variance. So the frames that stand at one place in different spread
    windows have nearly the same noise, and a run of frames has noise that changes slowly.
    """
    num_frames = shape[2]
    drawn = torch.randn((*shape[:2], min(num_frames, max_frames), *shape[3:]), generator=generator)
    if num_frames <= max_frames:
        return drawn
    place = torch.linspace(0, max_frames - 1, num_frames)
    before = place.floor().long()
    angle = ((place - before) * torch.pi / 2)[:, None, None]
    behind = (before + 1).clamp(max=max_frames - 1)
    return angle.cos() * drawn[:, :, before] + angle.sin() * drawn[:, :, behind]


def _is_noisy(timesteps: Tensor, space: ModelSpace) -> bool:
    return float(timesteps[0]) >= (1 - SPREAD_SHARE) * space.last_timestep


def plan_windows(num_frames: int, max_frames: int, *, spread: bool) -> list[Window]:
    """Windows of equal length, `max_frames` at most, that hold every frame: spread over the clip, or runs that overlap."""
    if num_frames <= max_frames:
        return [Window(torch.arange(num_frames), torch.ones(num_frames))]
    windows = _spread(num_frames, max_frames) if spread else _overlapping(num_frames, max_frames)
    total = torch.zeros(num_frames)
    for window in windows:
        total[window.frames] += window.weights
    return [Window(window.frames, window.weights / total[window.frames]) for window in windows]


def _spread(num_frames: int, max_frames: int) -> list[Window]:
    """The clip's length is cut into equal steps, as many as the windows have frames together, and dealt out in turn."""
    count = count_spread_windows(num_frames, max_frames)
    middles = 2 * torch.arange(count * max_frames) + 1  # of the steps, in halves of a step
    frames = middles * num_frames // (2 * count * max_frames)
    return [Window(frames[number::count], torch.ones(max_frames)) for number in range(count)]


def _overlapping(num_frames: int, max_frames: int) -> list[Window]:
    """Evenly spread runs. Weights fall towards a neighbour, and not towards the ends of the clip, where there is none."""
    count = count_overlapping_windows(num_frames, max_frames)
    rising = torch.arange(1, max_frames + 1, dtype=torch.float32)
    windows = []
    for number in range(count):
        start = round(number * (num_frames - max_frames) / (count - 1))
        sides = [rising] * (number > 0) + [rising.flip(0)] * (number < count - 1)
        windows.append(Window(torch.arange(start, start + max_frames), torch.stack(sides).amin(0)))
    return windows
