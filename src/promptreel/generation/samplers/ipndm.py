"""IPNDMScheduler: the improved pseudo linear multistep method, on the checkpoint's noise levels.

Zhang and Chen 2022, "Fast Sampling of Diffusion Models with Exponential Integrator" (iPNDM), after Liu et al. 2022, "Pseudo
Numerical Methods for Diffusion Models on Manifolds". Adams-Bashforth combines the epsilons of up to four steps (two with
guidance), and a DDIM step follows the result. diffusers' class ignores the checkpoint's noise levels and uses its own.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.levels import ddim_move, first_step, vp_latents
from promptreel.generation.samplers.sampler import Call, Sampler, Start

# Adams-Bashforth weights of orders 1 to 4, newest epsilon first.
_WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def sample_ipndm(space: ModelSpace, start: Start) -> Sampler:
    """One call a step. Returns the clean latents, float32 [1, C, T, h, w]."""
    timesteps = np.linspace(space.last_timestep, 0, start.num_inference_steps + 1)[:-1].round()
    timesteps = timesteps[first_step(timesteps, space, start) :]
    sigmas = [*map(space.sigma_at, timesteps), 0.0]
    latents = vp_latents(start, sigmas[0])
    recent: deque[Tensor] = deque(maxlen=start.highest_order)
    for step, timestep in enumerate(timesteps):
        output = yield Call(latents, torch.tensor(timestep, dtype=torch.float32), step, len(timesteps))
        recent.appendleft(space.epsilon(output, latents, sigmas[step]))
        weights = _WEIGHTS[len(recent) - 1]
        epsilon = torch.stack([weight * past for weight, past in zip(weights, recent, strict=True)]).sum(0)
        latents = ddim_move(latents, epsilon, sigmas[step], sigmas[step + 1])
    return latents
