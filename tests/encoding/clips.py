"""Deterministic clips to encode, and a player to read files back."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from promptreel.media import Clip


def make_noise(num_frames: int = 12, width: int = 96, height: int = 64, fps: int = 8) -> Clip:
    """Noise that moves to the right: hard to compress."""
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Clip(np.stack([np.roll(picture, 3 * index, axis=1) for index in range(num_frames)]), fps)


def make_flat(color: tuple[int, int, int], *, num_frames: int = 3, width: int = 64, height: int = 64) -> Clip:
    return Clip(np.full((num_frames, height, width, 3), color, np.uint8), 8)


def make_scene(num_frames: int = 12, size: int = 96, fps: int = 8) -> Clip:
    """A red disc that moves to the right over grass: flat colors, like the built-in model's."""
    y, x = np.mgrid[:size, :size] * (96 / size)
    background = np.where((y > 60)[..., None], (98, 184, 84), (152, 208, 250))
    discs = [(np.hypot(x - 20 - 2 * index % 56, y - 48) < 16)[..., None] for index in range(num_frames)]
    return Clip(np.stack([np.where(disc, (220, 40, 40), background) for disc in discs]).astype(np.uint8), fps)


def make_gradient(num_frames: int = 6, width: int = 128, height: int = 96) -> Clip:
    """Red grows to the right, green downwards, blue from frame to frame; no noise."""
    y, x = np.mgrid[:height, :width]
    red, green = x * 255 // (width - 1), y * 255 // (height - 1)
    blues = (60 + 15 * index for index in range(num_frames))
    return Clip(np.stack([np.stack([red, green, np.full_like(x, blue)], -1) for blue in blues]).astype(np.uint8), 8)


@dataclass(frozen=True)
class Played:
    """Decoded `frames`, uint8 [T, H, W, 3], the start of each in seconds, and the duration of the file."""

    frames: np.ndarray
    times: list[Fraction]
    seconds: Fraction
    stated_fps: Fraction | None


def play(path: Path) -> Played:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        return Played(
            frames=np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]),
            times=[frame.pts * frame.time_base for frame in decoded],
            seconds=Fraction(container.duration, av.time_base),
            stated_fps=stream.average_rate,
        )


def measure_psnr(clip: Clip, frames: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal frames."""
    error = np.mean((clip.frames.astype(float) - frames) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else np.inf
