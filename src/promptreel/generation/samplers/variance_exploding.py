"""Shared by samplers for variance exploding latents, `clean + sigma * epsilon`.

The model gets the latents divided by `sqrt(1 + sigma**2)`, and the timestep of that sigma.
"""

from __future__ import annotations

import math
from collections.abc import Generator

from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call, Start

# Noise levels outside this range are not worth one of at most 50 steps. Above 160, the latents say nothing about the clip:
# DDPM's table ends there, others go on to pure noise at 4096. Below 0.03, the noise cannot be seen.
_HIGHEST_SIGMA = 160.0
_LOWEST_SIGMA = 0.03
_RHO = 7


def highest_sigma(space: ModelSpace, start: Start) -> float:
    """The first noise level: that of timestep `strength * last_timestep`, but at most 160."""
    return min(space.sigma_at(_level(start) * space.last_timestep), _HIGHEST_SIGMA)


def count_steps(start: Start) -> int:
    """How many steps are made from the first noise level to clean latents."""
    return max(1, round(start.num_inference_steps * _level(start)))


def _level(start: Start) -> float:
    return 1.0 if start.kept_init is None else start.strength


def noisy_latents(start: Start, sigma: float) -> Tensor:
    """The first latents, [1, C, T, h, w]: the init with noise of level `sigma`, or noise of the latents' variance there."""
    if start.kept_init is None:
        return start.noise * math.hypot(1, sigma)
    return start.kept_init + sigma * start.noise


def karras_sigmas(space: ModelSpace, highest: float, steps: int) -> list[float]:
    """`steps` falling noise levels that begin with `highest`, evenly spaced in their 7th root, then 0.

    Karras et al. 2022, equation 5, without the lowest level: a step from there to 0 would change nothing.
    """
    lowest = min(max(_LOWEST_SIGMA, float(space.sigmas[0])), highest)
    top, bottom = highest ** (1 / _RHO), lowest ** (1 / _RHO)
    return [(top + step / steps * (bottom - top)) ** _RHO for step in range(steps)] + [0.0]


def ask_epsilon(
    space: ModelSpace, latents: Tensor, sigma: float, *, number: int, total: int
) -> Generator[Call, Tensor, Tensor]:
    """Makes one call for `latents` (clean + sigma * epsilon). Returns epsilon."""
    seen = latents / math.hypot(1, sigma)
    output = yield Call(seen, space.timestep_at(sigma), number, total)
    return space.epsilon(output, seen, sigma)


def ask_clean(space: ModelSpace, latents: Tensor, sigma: float, *, number: int, total: int) -> Generator[Call, Tensor, Tensor]:
    """Makes one call for `latents` (clean + sigma * epsilon). Returns the clean latents by the model's prediction."""
    seen = latents / math.hypot(1, sigma)
    output = yield Call(seen, space.timestep_at(sigma), number, total)
    return space.clean(output, seen, sigma)
