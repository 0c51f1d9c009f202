"""The thirteen schedulers whose arithmetic diffusers has right, with their configuration pinned.

Calls a step: one, but for Heun and the two KDPM2 (two, one at the last) and PNDM (one more in all).
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call, Sample, Sampler

# Where the timesteps lie. "trailing" starts at the last trained timestep, where the latents are noise, and "leading", these
# three's default, does not: it begins with unit noise at a level that still holds signal (Lin et al. 2024, "Common Diffusion
# Noise Schedules and Sample Steps are Flawed"). "linspace" is what the sigma-based ones were published with.
_SPACING = {
    "DDPMScheduler": "trailing",
    "DDIMScheduler": "trailing",
    "PNDMScheduler": "trailing",
    "LMSDiscreteScheduler": "linspace",
    "EulerDiscreteScheduler": "linspace",
    "EulerAncestralDiscreteScheduler": "linspace",
    "DPMSolverMultistepScheduler": "linspace",
    "HeunDiscreteScheduler": "linspace",
    "KDPM2DiscreteScheduler": "linspace",
    "DPMSolverSinglestepScheduler": "linspace",
    "KDPM2AncestralDiscreteScheduler": "linspace",
    "UniPCMultistepScheduler": "linspace",
    "DEISMultistepScheduler": "linspace",
}


# These add up the network's own outputs of several steps. Added up, epsilon is what the published method integrates; v is not,
# and leaves three times its error (tests/generation/test_samplers.py), so they are always given epsilon.
_ADDS_UP_OUTPUTS = frozenset({"PNDMScheduler"})


def sample_stock(name: str, space: ModelSpace, noise: Tensor, num_inference_steps: int, generator: torch.Generator) -> Sampler:
    """Runs one diffusers scheduler over `noise` (float32 [1, C, T, h, w], unit variance); returns the clean latents."""
    scheduler = space.scheduler(name, timestep_spacing=_SPACING[name])
    gives_epsilon = name in _ADDS_UP_OUTPUTS and space.prediction_type == "v_prediction"
    if gives_epsilon:
        scheduler.register_to_config(prediction_type="epsilon")
    scheduler.set_timesteps(num_inference_steps)
    extra = _random_source(scheduler.step, generator)
    latents = noise * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps
    for number, timestep in enumerate(timesteps):
        seen = scheduler.scale_model_input(latents, timestep)
        output = yield Call(seen, timestep, number, len(timesteps))
        if gives_epsilon:
            output = space.epsilon_of_v(output, seen, timestep)
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
    return latents


def _random_source(step: Any, generator: torch.Generator) -> dict[str, torch.Generator]:
    """Stochastic schedulers draw from the request's own generator; the others take none."""
    return {"generator": generator} if "generator" in inspect.signature(step).parameters else {}


def stock_samplers() -> dict[str, Sample]:
    return {name: partial(sample_stock, name) for name in _SPACING}
