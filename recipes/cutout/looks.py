"""How a clip looks, whatever it shows: are its edges sharp, its papers clean, and does what stands still stand still?

None of the measures knows what was asked for. A blurred clip has soft edges; one with blotches, noise or halos is dirty; one
whose still parts change from frame to frame flickers. Clips are looked at in the size that the world is drawn in, as a viewer
sees them: a clip that was made smaller is scaled up first, and is as soft as that makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from recipes.cutout.world import SIZE, scaled

ACROSS = 9  # pixels: how far an edge is looked at on both sides together
EDGE = 64  # levels of 255 between two papers at the least
PATCH = 8  # pixels of a side
EDGE_IN_PATCH = 40  # a patch with more levels than these between its pixels has an edge in it
EVERY = 5  # one frame in five says how sharp and clean all are
STILL = 24  # a pixel that changes by fewer levels in a clip shows something that stands still


@dataclass(frozen=True)
class Looks:
    """Means over a clip, or over several.

    sharpness: the share of an edge's height that lies between two neighbouring pixels; a drawn edge has about 0.7.
    dirt: the standard deviation, in levels of 255, within patches of 8x8 pixels that no edge goes through.
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
    """[T, 3, H, W]: along rows and columns, the steepest step within nine pixels, as a share of all that changes in them.

    The mean over the places where the steepest step is in the middle and the change is an edge's.
    """
    shares = []
    for axis in (-1, -2):
        lines = clip.transpose(axis, -1)
        steps = lines.diff(dim=-1).abs()
        height = _range(lines, ACROSS)
        middle = steps[..., ACROSS // 2 - 1 : ACROSS // 2 - 1 + height.shape[-1]]
        steepest = F.max_pool1d(steps.flatten(0, -2), ACROSS - 1, 1).unflatten(0, steps.shape[:-1])
        at_edge = (height >= EDGE) & (middle == steepest[..., : height.shape[-1]])
        shares.append((middle / height.clamp(min=1))[at_edge])
    return float(torch.cat(shares).mean()) if sum(map(len, shares)) else 0.0


def _range(lines: Tensor, length: int) -> Tensor:
    """The largest less the smallest of each `length` neighbours along the last axis."""
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
