"""Shared by samplers published for variance-exploding latents, `clean + sigma * epsilon`.

The model sees these latents divided by `sqrt(1 + sigma**2)`, at the timestep of that sigma.
"""

from __future__ import annotations

import math
from collections.abc import Generator

from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call, Start

# Only noise levels between these are worth one of at most 50 steps. Above 160, latents say nothing about a clip. (DDPM's table
# ends there; tables that end in pure noise go up to 4096.) Below 0.03, the noise is invisible.
_HIGHEST_SIGMA = 160.0
_LOWEST_SIGMA = 0.03
_RHO = 7


def highest_sigma(space: ModelSpace, start: Start) -> float:
    """The first noise level: at `strength` times the last trained timestep, but at most _HIGHEST_SIGMA."""
    return min(space.sigma_at(_strength(start) * space.last_timestep), _HIGHEST_SIGMA)


def count_steps(start: Start) -> int:
    """Steps from `highest_sigma` to clean latents."""
    return max(1, round(start.num_inference_steps * _strength(start)))


def _strength(start: Start) -> float:
    return 1.0 if start.kept_init is None else start.strength


def noisy_latents(start: Start, sigma: float) -> Tensor:
    """First latents at `sigma`, [1, C, T, h, w]: the init with noise, or noise with the variance of latents at `sigma`."""
    if start.kept_init is None:
        return start.noise * math.hypot(1, sigma)
    return start.kept_init + sigma * start.noise


def karras_sigmas(space: ModelSpace, highest: float, steps: int) -> list[float]:
    """`steps` noise levels from `highest` downwards, evenly spaced in their 7th root, then 0.

    Karras et al. 2022, equation 5, without its lowest level: a step from there to 0 would change nothing.
    """
    lowest = min(max(_LOWEST_SIGMA, float(space.sigmas[0])), highest)
    top, bottom = highest ** (1 / _RHO), lowest ** (1 / _RHO)
    return [(top + step / steps * (bottom - top)) ** _RHO for step in range(steps)] + [0.0]


def ask_epsilon(
    space: ModelSpace, latents: Tensor, sigma: float, *, number: int, total: int
) -> Generator[Call, Tensor, Tensor]:
    """One call at `latents` (clean + sigma * epsilon); returns the predicted noise, of unit variance."""
    seen = latents / math.hypot(1, sigma)
    output = yield Call(seen, space.timestep_at(sigma), number, total)
    return space.epsilon(output, seen, sigma)


def ask_clean(space: ModelSpace, latents: Tensor, sigma: float, *, number: int, total: int) -> Generator[Call, Tensor, Tensor]:
    """One call at `latents` (clean + sigma * epsilon); returns the predicted clean latents."""
    seen = latents / math.hypot(1, sigma)
    output = yield Call(seen, space.timestep_at(sigma), number, total)
    return space.clean(output, seen, sigma)
