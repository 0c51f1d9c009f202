"""Shared by samplers that step through a falling list of timesteps: the first step for a strength, and DDIM's step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from promptreel.generation.model_space import ModelSpace, vp_scales
from promptreel.generation.samplers.sampler import Start


def first_step(timesteps: Sequence[int] | np.ndarray[Any, Any], space: ModelSpace, start: Start) -> int:
    """The step whose timestep is nearest to `strength * last_timestep`; 0 if nothing is kept of an init.

    `timesteps` are falling, one for each step. diffusers' pipelines use `int(strength * steps)` instead. With few steps, that
    gives another noise level, or no step at all.
    """
    if start.kept_init is None:
        return 0
    return int(np.argmin(np.abs(np.asarray(timesteps) - start.strength * space.last_timestep)))


def vp_latents(start: Start, sigma: float) -> Tensor:
    """The first latents, variance preserving, [1, C, T, h, w]: noise, or the init with noise of level `sigma`."""
    if start.kept_init is None:
        return start.noise
    signal, noise = vp_scales(sigma)
    return signal * start.kept_init + noise * start.noise


def ddim_move(latents: Tensor, epsilon: Tensor, sigma: float, following: float) -> Tensor:
    """A DDIM step from `sigma` to `following`, up or down (Song et al. 2021, "Denoising Diffusion Implicit Models").

    Equation 12 without noise. For latents divided by their signal, it adds `(following - sigma) * epsilon`.
    """
    length = math.hypot(1, following)
    return latents * (math.hypot(1, sigma) / length) + epsilon * ((following - sigma) / length)
