"""What samplers share that were published for latents of the form `clean + sigma * epsilon`, whose variance explodes.

The network sees them divided by `sqrt(1 + sigma**2)`, at the timestep of that sigma.
"""

from __future__ import annotations

import math
from collections.abc import Generator

from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call, Start

# The noise levels that are worth one of at most 50 steps. Above 160, where DDPM's table ends but those to pure noise go on to
# 4096, nothing can be told of a clip; below 0.03, nothing can be seen of the noise.
_HIGHEST_SIGMA = 160.0
_LOWEST_SIGMA = 0.03
_RHO = 7


def highest_sigma(space: ModelSpace, start: Start) -> float:
    """Where to begin: at `strength` of the trained timesteps, and never above what is worth a step."""
    return min(space.sigma_at(_level(start) * space.last_timestep), _HIGHEST_SIGMA)


def count_steps(start: Start) -> int:
    """Steps from there to clean latents."""
    return max(1, round(start.num_inference_steps * _level(start)))


def _level(start: Start) -> float:
    return 1.0 if start.kept_init is None else start.strength


def noisy_latents(start: Start, sigma: float) -> Tensor:
    """What to begin with at `sigma`, [1, C, T, h, w]: the init with noise, or noise of the variance that latents have there."""
    if start.kept_init is None:
        return start.noise * math.hypot(1, sigma)
    return start.kept_init + sigma * start.noise


def karras_sigmas(space: ModelSpace, highest: float, steps: int) -> list[float]:
    """`steps` falling noise levels from `highest` on, evenly spaced in their 7th root towards the lowest, and 0.

    Karras et al. 2022, equation 5; the lowest itself is left out, since from there to 0 there is nothing left to do.
    """
    lowest = min(max(_LOWEST_SIGMA, float(space.sigmas[0])), highest)
    top, bottom = highest ** (1 / _RHO), lowest ** (1 / _RHO)
    return [(top + step / steps * (bottom - top)) ** _RHO for step in range(steps)] + [0.0]


def ask_epsilon(
    space: ModelSpace, latents: Tensor, sigma: float, *, number: int, total: int
) -> Generator[Call, Tensor, Tensor]:
    """One call at `latents` (clean + sigma * epsilon); returns the noise in them, of unit variance."""
    seen = latents / math.hypot(1, sigma)
    output = yield Call(seen, space.timestep_at(sigma), number, total)
    return space.epsilon(output, seen, sigma)


def ask_clean(space: ModelSpace, latents: Tensor, sigma: float, *, number: int, total: int) -> Generator[Call, Tensor, Tensor]:
    """One call at `latents` (clean + sigma * epsilon); returns the clean ones that the network sees in them."""
    seen = latents / math.hypot(1, sigma)
    output = yield Call(seen, space.timestep_at(sigma), number, total)
    return space.clean(output, seen, sigma)
