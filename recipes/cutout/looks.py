"""Measures how a clip looks, whatever it shows: sharp edges, clean papers, and no flicker.

The measures do not know the prompt. A blurred clip is less sharp. Blotches, noise and halos are dirt. Still parts that change
from frame to frame flicker. Smaller clips are first scaled up to the size that the world is drawn in, as a viewer would see
them. That lowers their sharpness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from recipes.cutout.world import SIZE, scaled

EDGE_WINDOW = 9  # pixels across an edge
EDGE = 64  # levels of 255: the least difference between two papers
PATCH = 8  # pixels: the side of a patch
EDGE_IN_PATCH = 40  # levels: a patch with a wider range contains an edge
EVERY = 5  # sharpness and dirt are measured in every fifth frame
STILL = 24  # levels: a pixel with a narrower range over a clip shows something still


@dataclass(frozen=True)
class Looks:
    """Means over one or more clips.

    sharpness: the share of an edge's height that lies between two neighboring pixels; about 0.7 for a drawn edge.
    dirt: the standard deviation, in levels of 255, within patches of 8x8 pixels without an edge.
    flicker: the second difference in time, in levels of 255, of pixels that show something still.
    """

    sharpness: float
    dirt: float
    flicker: float


@torch.no_grad()
def look_at(frames: np.ndarray) -> Looks:
    """The looks of one clip, uint8 [T, H, W, 3]."""
    clip = torch.from_numpy(scaled(frames, SIZE)).permute(0, 3, 1, 2).float()
    some = clip[::EVERY]
    return Looks(sharpness=_sharpness(some), dirt=_dirt(some), flicker=_flicker(clip))


def mean(looks: Sequence[Looks]) -> Looks:
    rows = [asdict(one) for one in looks]
    return Looks(**{name: sum(row[name] for row in rows) / len(rows) for name in rows[0]})


def _sharpness(clip: Tensor) -> float:
    """Sharpness of frames [T, 3, H, W]: the mean, over all edges, of the steepest step divided by the edge's height.

    A window of nine pixels of a row or column contains an edge if its range is an edge's and its middle step is the steepest.
    """
    shares = []
    for axis in (-1, -2):
        lines = clip.transpose(axis, -1)
        steps = lines.diff(dim=-1).abs()
        height = _range(lines, EDGE_WINDOW)
        middle = steps[..., EDGE_WINDOW // 2 - 1 : EDGE_WINDOW // 2 - 1 + height.shape[-1]]
        steepest = F.max_pool1d(steps.flatten(0, -2), EDGE_WINDOW - 1, 1).unflatten(0, steps.shape[:-1])
        at_edge = (height >= EDGE) & (middle == steepest[..., : height.shape[-1]])
        shares.append((middle / height.clamp(min=1))[at_edge])
    return float(torch.cat(shares).mean()) if sum(map(len, shares)) else 0.0


def _range(lines: Tensor, length: int) -> Tensor:
    """The maximum minus the minimum of each `length` neighbors along the last axis."""
    flat = lines.flatten(0, -2)
    result = F.max_pool1d(flat, length, 1) + F.max_pool1d(-flat, length, 1)
    return result.unflatten(0, lines.shape[:-1])


def _dirt(clip: Tensor) -> float:
    patches = clip.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).flatten(-2)  # [T, 3, h, w, 64]
    height = (patches.amax(-1) - patches.amin(-1)).amax(1)
    spread = patches.var(-1, correction=0).mean(1).sqrt()
    clean = spread[height <= EDGE_IN_PATCH]
    return float(clean.mean()) if len(clean) else 0.0


def _flicker(clip: Tensor) -> float:
    still = (clip.amax(0) - clip.amin(0)).amax(0) < STILL
    change = (clip[2:] - 2 * clip[1:-1] + clip[:-2]).abs().mean((0, 1))
    return float(change[still].mean()) if still.any() else 0.0
