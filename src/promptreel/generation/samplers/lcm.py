"""LCMScheduler: multistep consistency sampling. Jump to clean latents, add noise again, jump again.

Song et al. 2023, "Consistency Models", Algorithm 1; Luo et al. 2023, "Latent Consistency Models".
"""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call, Sampler, Start
from promptreel.generation.samplers.stock import sample_stock
from promptreel.generation.samplers.variance_exploding import (
    ask_clean,
    count_steps,
    highest_sigma,
    karras_sigmas,
    noisy_latents,
)

_MOST_JUMPS = 4
_LEAST_CALLS = 3  # for a jump; fewer do not follow the probability flow


def sample_lcm(space: ModelSpace, start: Start) -> Sampler:
    """One call a step. Returns the clean latents, float32 [1, C, T, h, w].

    A distilled model makes each jump in one call, as diffusers' class assumes. Another model's single call would give the mean
    of all possible clips, a third too flat. For such a model, a jump takes several calls, along the probability flow that
    distillation would have taught.
    """
    if space.distilled:
        return (yield from sample_stock("LCMScheduler", space, start))
    return (yield from _jump_in_several_calls(space, start))


def _jump_in_several_calls(space: ModelSpace, start: Start) -> Sampler:
    steps = count_steps(start)
    jumps = max(1, min(_MOST_JUMPS, steps // _LEAST_CALLS))
    highest = highest_sigma(space, start)
    timestep = float(space.timestep_at(highest))
    latents = noisy_latents(start, highest)
    number = 0
    for jump in range(jumps):
        sigma = space.sigma_at(timestep * (1 - jump / jumps))
        if jump > 0:
            latents = latents + sigma * torch.randn(latents.shape, generator=start.generator)
        calls = steps // jumps + (jump < steps % jumps)
        sigmas = karras_sigmas(space, sigma, calls)
        latents = yield from _integrate(space, latents, sigmas, number=number, total=steps)
        number += calls
    return latents


def _integrate(
    space: ModelSpace, latents: Tensor, sigmas: list[float], *, number: int, total: int
) -> Generator[Call, Tensor, Tensor]:
    """Follows the probability flow from `sigmas[0]` to 0 by DPM-Solver++(2M), one call a step; returns clean latents.

    Lu et al. 2022, "DPM-Solver++", Algorithm 2, for latents `clean + sigma * epsilon`: h is the decrease of log(sigma), and the
    clean latents of two calls are extrapolated to the middle of the step.
    """
    last = len(sigmas) - 2  # the step to 0, which ends at the model's clean latents
    clean_before, h_before = latents, math.inf
    for call in range(last):
        sigma, following = sigmas[call : call + 2]
        clean = yield from ask_clean(space, latents, sigma, number=number + call, total=total)
        h = math.log(sigma / following)
        middle = clean + h / (2 * h_before) * (clean - clean_before)
        latents = following / sigma * latents + (1 - following / sigma) * middle
        clean_before, h_before = clean, h
    return (yield from ask_clean(space, latents, sigmas[last], number=number + last, total=total))
