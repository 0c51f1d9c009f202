"""Shared by samplers over a list of timesteps: the first step at a strength, the first latents, and the DDIM step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from promptreel.generation.model_space import ModelSpace, vp_scales
from promptreel.generation.samplers.sampler import Start


def first_step(timesteps: Sequence[int] | np.ndarray[Any, Any], space: ModelSpace, start: Start) -> int:
    """Index of the timestep nearest to `strength` times the last trained one; 0 if no init is kept.

    `timesteps` fall, one for each step. diffusers' pipelines make `int(strength * steps)` steps instead. With few steps, that
    begins at another noise level, or makes no step at all.
    """
    if start.kept_init is None:
        return 0
    return int(np.argmin(np.abs(np.asarray(timesteps) - start.strength * space.last_timestep)))


def vp_latents(start: Start, sigma: float) -> Tensor:
    """First latents at `sigma`, variance preserving, [1, C, T, h, w]: noise, or the init with noise."""
    if start.kept_init is None:
        return start.noise
    signal, noise = vp_scales(sigma)
    return signal * start.kept_init + noise * start.noise


def ddim_move(latents: Tensor, epsilon: Tensor, sigma: float, following: float) -> Tensor:
    """A step along `epsilon` from `sigma` up or down to `following`.

    Song et al. 2021, "Denoising Diffusion Implicit Models", equation 12 without noise. For latents divided by their signal, it
    adds `(following - sigma) * epsilon`.
    """
    length = math.hypot(1, following)
    return latents * (math.hypot(1, sigma) / length) + epsilon * ((following - sigma) / length)
