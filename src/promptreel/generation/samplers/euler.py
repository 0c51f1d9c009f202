"""Euler's method (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models").

diffusers' EulerDiscreteScheduler keeps latents as `clean + sigma * noise` in float32. A flow model's first sigma is in the
thousands. There, float32 loses so much of what is beside the noise that the clip is off by 3e-5 of its size. So for flow models
the same steps are made in float64.
"""

from __future__ import annotations

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.levels import ddim_move, vp_latents
from promptreel.generation.samplers.sampler import Call, Sampler, Start
from promptreel.generation.samplers.stock import begin, sample_stock

_NAME = "EulerDiscreteScheduler"


def sample_euler(space: ModelSpace, start: Start) -> Sampler:
    """Returns the clean latents, float32 [1, C, T, h, w]."""
    if not space.is_flow:
        return (yield from sample_stock(_NAME, space, start))
    _, timesteps = begin(_NAME, space, start)
    sigmas = [*map(space.sigma_at, timesteps), 0.0]
    latents = vp_latents(start, sigmas[0]).double()
    for number, timestep in enumerate(timesteps):
        output = yield Call(latents.float(), timestep, number, len(timesteps))
        epsilon = space.epsilon(output.double(), latents, sigmas[number])
        latents = ddim_move(latents, epsilon, sigmas[number], sigmas[number + 1])
    return latents.float()
