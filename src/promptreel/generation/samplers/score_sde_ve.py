"""ScoreSdeVeScheduler: the predictor-corrector sampler of the variance-exploding SDE, on the checkpoint's noise levels.

Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", Algorithms 1 and 4. The
predictor is the ancestral one (appendix F), with the variance of the exact posterior. At 50 steps or fewer, the reverse
diffusion predictor adds too much noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Sampler, Start
from promptreel.generation.samplers.variance_exploding import ask_epsilon, count_steps, highest_sigma, noisy_latents

_SIGNAL_TO_NOISE = 0.15  # of a Langevin step: r in the paper


def sample_score_sde_ve(space: ModelSpace, start: Start) -> Sampler:
    """Two calls a step. Returns the clean latents, float32 [1, C, T, h, w]."""
    steps = count_steps(start)
    sigmas = _geometric_sigmas(highest_sigma(space, start), float(space.sigmas[0]), steps)
    latents = noisy_latents(start, sigmas[0])
    for step in range(steps):
        sigma, following = sigmas[step : step + 2]
        epsilon = yield from ask_epsilon(space, latents, sigma, number=2 * step, total=2 * steps)
        latents = _correct(latents, epsilon, sigma, start.generator)
        epsilon = yield from ask_epsilon(space, latents, sigma, number=2 * step + 1, total=2 * steps)
        # The last step ends at sigma 0, so it adds no noise and returns the mean.
        kept = (following / sigma) ** 2
        noise = torch.randn(latents.shape, generator=start.generator)
        latents = latents - sigma * (1 - kept) * epsilon + following * math.sqrt(1 - kept) * noise
    return latents


def _correct(latents: Tensor, epsilon: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """One step of Langevin dynamics at `sigma`, along the score -epsilon / sigma.

    The norms are of this request alone, so other requests in the batch do not change the step's size.
    """
    noise = torch.randn(latents.shape, generator=generator)
    score_norm = float(epsilon.norm()) / sigma
    size = 2 * (_SIGNAL_TO_NOISE * float(noise.norm()) / score_norm) ** 2
    return latents - size / sigma * epsilon + math.sqrt(2 * size) * noise


def _geometric_sigmas(highest: float, lowest: float, steps: int) -> list[float]:
    ratio = min(lowest / highest, 1.0)
    return [highest * ratio ** (step / steps) for step in range(steps)] + [0.0]
