"""Previews of a job's clip, computed from its latents while it is denoised.

Each of the model's predictions implies clean latents. Decoding them would take as long as several calls, so a matrix that
was fitted to the VAE turns each latent into one pixel.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call
from promptreel.media import Clip

log = logging.getLogger(__name__)

MOST_PREVIEWS = 10
"""For one job."""
SECONDS_APART = 1.5
"""The least time between two previews. One takes about 30 ms of CPU time."""

OnPreview = Callable[[Clip], None]
"""Called with the expected clip, one pixel for each latent."""

_PICTURES = 16
_SIDE = 64
_RECTANGLES = 3  # on each picture


class Previews:
    """Shows the previews of one job. An error is logged once and ends the previews, not the job."""

    def __init__(
        self,
        show: OnPreview | None,
        *,
        space: ModelSpace,
        colors: Callable[[], Tensor],
        fps: int,
        seconds_apart: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`colors` returns the matrix of `fit_colors`; it is called when the first preview is due. `show` None: no previews."""
        self._show = show
        self._space = space
        self._colors = colors
        self._fps = fps
        self._seconds_apart = seconds_apart
        self._clock = clock
        self._due_at = clock() + seconds_apart
        self._due_number = 0

    def offer(self, call: Call, prediction: Tensor) -> None:
        """Shows a preview if one is due. `prediction` is the guided one at `call`, in the space's own type."""
        if self._show is None or not self._is_due(call):
            return
        try:
            clean = self._space.clean(prediction, call.latents, self._space.sigma_at(call.timestep))
            self._show(Clip(to_pixels(clean, self._colors()).numpy(), self._fps))
        except Exception:  # any error: a job does not need its previews
            log.warning("a preview could not be made, and there are no more of this job", exc_info=True)
            self._show = None
        self._due_at = self._clock() + self._seconds_apart
        self._due_number = call.number + math.ceil(call.total / MOST_PREVIEWS)

    def _is_due(self, call: Call) -> bool:
        is_last = call.number + 1 == call.total  # the clip itself comes next
        return not is_last and call.number >= self._due_number and self._clock() >= self._due_at


def fit_colors(encode: Callable[[Tensor], Tensor]) -> Tensor:
    """A matrix [C + 1, 3] from latents and a 1 to red, green and blue, 0 to 1, by least squares over made-up pictures.

    `encode` turns frames, uint8 [T, H, W, 3], into latents [1, C, T, h, w], scaled as in training.
    """
    pictures = _draw_pictures()
    latents = encode(pictures)[0].transpose(0, 1).float().cpu()
    height, width = latents.shape[2:]
    pixels = adaptive_avg_pool2d(pictures.permute(0, 3, 1, 2).float() / 255, (height, width))
    rows = _with_ones(latents.permute(0, 2, 3, 1)).flatten(0, 2)
    solution: Tensor = torch.linalg.lstsq(rows.double(), pixels.permute(0, 2, 3, 1).flatten(0, 2).double()).solution
    return solution.float()


def to_pixels(latents: Tensor, colors: Tensor) -> Tensor:
    """Clean latents [1, C, T, h, w] as frames of one pixel a latent, uint8 [T, h, w, 3]."""
    pixels = _with_ones(latents[0].permute(1, 2, 3, 0)) @ colors
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


def _with_ones(latents: Tensor) -> Tensor:
    return torch.cat([latents, torch.ones_like(latents[..., :1])], dim=-1)


def _draw_pictures() -> Tensor:
    """Rectangles of random colors on flat ground, uint8 [_PICTURES, _SIDE, _SIDE, 3]; the same ones each time.

    Flat areas with few edges are what most latents of a clip are of: they fit better than gradients or chequers.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    pictures = draw(0, 256, _PICTURES, 1, 1, 3).repeat(1, _SIDE, _SIDE, 1)
    for picture in pictures:
        for _ in range(_RECTANGLES):
            top, left = draw(0, _SIDE - 8, 2).tolist()
            height, width = draw(8, _SIDE // 2, 2).tolist()
            picture[top : top + height, left : left + width] = draw(0, 256, 3)
    return pictures.to(torch.uint8)
