"""What samplers share that walk down a list of timesteps: where strength lets them begin, and the step of DDIM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from promptreel.generation.model_space import ModelSpace, vp_scales
from promptreel.generation.samplers.sampler import Start


def first_step(timesteps: Sequence[int] | np.ndarray[Any, Any], space: ModelSpace, start: Start) -> int:
    """The step whose timestep is nearest to `strength` of the trained ones; 0 where nothing is kept of an init.

    `timesteps` fall, one for each step. diffusers' pipelines count steps, `int(strength * steps)`: for a few steps that is
    another noise level, or no step at all.
    """
    if start.kept_init is None:
        return 0
    return int(np.argmin(np.abs(np.asarray(timesteps) - start.strength * space.last_timestep)))


def vp_latents(start: Start, sigma: float) -> Tensor:
    """What to begin with at `sigma`, variance preserving, [1, C, T, h, w]: noise, or the init with noise."""
    if start.kept_init is None:
        return start.noise
    signal, noise = vp_scales(sigma)
    return signal * start.kept_init + noise * start.noise


def ddim_move(latents: Tensor, epsilon: Tensor, sigma: float, following: float) -> Tensor:
    """From one noise level to another, up or down, along `epsilon` (Song et al. 2021, "Denoising Diffusion Implicit Models").

    Equation 12 without noise; in latents divided by their signal it is `+ (following - sigma) * epsilon`.
    """
    length = math.hypot(1, following)
    return latents * (math.hypot(1, sigma) / length) + epsilon * ((following - sigma) / length)
