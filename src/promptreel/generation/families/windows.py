"""Clips of more frames than the motion modules take: the UNet sees them through windows, and its outputs are averaged.

Each call is made of several forwards over windows of `max_frames` frames, whose outputs are averaged frame by frame as in
MultiDiffusion (Bar-Tal et al. 2023, "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation"). There are two
kinds of windows, and the timestep alone decides which:

- At high noise, the outputs decide what happens. Each window is spread over the whole clip and takes every second (third,
  ...) frame. So the clip is planned as one: a thing that moves to the left does so once, from end to end.
- At low noise, they decide how things look. Each window is a run of frames and overlaps its neighbors by half. Weights fall off
  towards the neighbors, so no frame shows a sudden change of windows.

With spread windows alone, neighboring frames would not fit together; with runs alone, the motion would start anew in each
window. The noise is drawn for one window and serves the whole clip, as in FreeNoise (Qiu et al. 2023, "FreeNoise: Tuning-Free
Longer Video Diffusion via Noise Rescheduling"), so that all windows start from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from promptreel.generation.families.family import Forward, Rows
from promptreel.generation.model_space import ModelSpace
from promptreel.jobs.window_counts import SPREAD_SHARE, count_overlapping_windows, count_spread_windows


@dataclass(frozen=True)
class Window:
    """`frames`: the numbers of its frames, ascending, int64 [W]. `weights`: their share in the blend, float32 [W]. A frame's
    weights in all windows add up to 1."""

    frames: Tensor
    weights: Tensor


def predict_in_windows(rows: Rows, forward: Forward, on_window: Callable[[float], None]) -> Tensor:
    """The UNet's output for rows of any length, [B, C, T, h, w] like `rows.latents`: one forward for each window.

    Before each forward, `on_window` gets the share of the windows that is done; it may raise, to stop. A clip of at most
    `max_frames` frames is one window, and just its forward.
    """
    windows = plan_windows(
        rows.latents.shape[2], rows.model.card.max_frames, spread=_is_noisy(rows.timesteps, rows.model.space)
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
    """Unit noise, float32 [1, C, T, h, w]. For a longer clip, noise for `max_frames` frames is stretched over it.

    A frame at a share `u` of the way between two drawn ones gets `cos(u * pi / 2)` of the first and `sin(u * pi / 2)` of the
    second, which keeps the variance. So frames at the same position in different spread windows have nearly the same noise,
    and the noise of a run changes slowly.
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
    """Windows of equal length, at most `max_frames`, that cover all frames: spread over the clip, or overlapping runs."""
    if num_frames <= max_frames:
        return [Window(torch.arange(num_frames), torch.ones(num_frames))]
    windows = _spread(num_frames, max_frames) if spread else _overlapping(num_frames, max_frames)
    total = torch.zeros(num_frames)
    for window in windows:
        total[window.frames] += window.weights
    return [Window(window.frames, window.weights / total[window.frames]) for window in windows]


def _spread(num_frames: int, max_frames: int) -> list[Window]:
    """Divides the clip into equal steps, one for each frame of all windows, and deals them to the windows in turn."""
    count = count_spread_windows(num_frames, max_frames)
    middles = 2 * torch.arange(count * max_frames) + 1  # of the steps, in halves of a step
    frames = middles * num_frames // (2 * count * max_frames)
    return [Window(frames[number::count], torch.ones(max_frames)) for number in range(count)]


def _overlapping(num_frames: int, max_frames: int) -> list[Window]:
    """Evenly spaced runs. Weights fall off towards a neighboring run, not towards the clip's ends."""
    count = count_overlapping_windows(num_frames, max_frames)
    rising = torch.arange(1, max_frames + 1, dtype=torch.float32)
    windows = []
    for number in range(count):
        start = round(number * (num_frames - max_frames) / (count - 1))
        sides = [rising] * (number > 0) + [rising.flip(0)] * (number < count - 1)
        windows.append(Window(torch.arange(start, start + max_frames), torch.stack(sides).amin(0)))
    return windows
