"""KarrasVeScheduler: stochastic sampling with Heun's second-order correction, on the checkpoint's own noise levels.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", Algorithm 2.
"""

from __future__ import annotations

import torch

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Sampler, Start
from promptreel.generation.samplers.variance_exploding import (
    ask_epsilon,
    count_steps,
    highest_sigma,
    karras_sigmas,
    noisy_latents,
)

# A step first raises its noise level by this share. The paper divides S_churn by the number of steps, and bounds the share at
# 0.41. At 50 steps or fewer its S_churn reaches that bound, and so few steps do not recover the accuracy that this costs.
_CHURN = 0.1
_CHURNED_SIGMAS = (0.05, 50.0)  # the paper's S_tmin and S_tmax; S_noise is 1


def sample_karras_ve(space: ModelSpace, start: Start) -> Sampler:
    """Two calls a step, one at the last. Returns the clean latents, float32 [1, C, T, h, w]."""
    steps = count_steps(start)
    total = 2 * steps - 1
    sigmas = karras_sigmas(space, highest_sigma(space, start), steps)
    latents = noisy_latents(start, sigmas[0])
    for step in range(steps):
        sigma, following = sigmas[step : step + 2]
        churned = _churn(space, sigma)
        latents = latents + (churned**2 - sigma**2) ** 0.5 * torch.randn(latents.shape, generator=start.generator)
        slope = yield from ask_epsilon(space, latents, churned, number=2 * step, total=total)
        euler = latents + (following - churned) * slope
        if following > 0:
            slope_after = yield from ask_epsilon(space, euler, following, number=2 * step + 1, total=total)
            slope = (slope + slope_after) / 2
        latents = latents + (following - churned) * slope
    return latents


def _churn(space: ModelSpace, sigma: float) -> float:
    """The raised noise level, at most the highest that the model was trained on."""
    lowest, highest = _CHURNED_SIGMAS
    raised = sigma * (1 + _CHURN) if lowest <= sigma <= highest else sigma
    return max(sigma, min(raised, float(space.sigmas[-1])))
