"""The schedulers whose arithmetic diffusers has right, with their configuration pinned.

Calls a step: one, but for Heun and the two KDPM2 (two, one at the last) and PNDM (one more in all). Papers: Ho et al. 2020
(DDPM); Song et al. 2021 (DDIM); Liu et al. 2022 (PNDM); Karras et al. 2022 (Euler, Heun, KDPM2, LMS, as k-diffusion wrote them
down); Lu et al. 2022 (DPM-Solver++, single and multistep); Zhao et al. 2023 (UniPC); Zhang and Chen 2022 (DEIS). PNDM and LMS
are of the fourth order, with guidance of the second, as the others are by themselves.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import diffusers
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.levels import first_step
from promptreel.generation.samplers.sampler import Call, Sample, Sampler, Start

# Where the timesteps lie. "trailing" starts at the last trained timestep, where the latents are noise, and "leading", these
# three's default, does not: it begins with unit noise at a level that still holds signal (Lin et al. 2024, "Common Diffusion
# Noise Schedules and Sample Steps are Flawed"). "linspace" is what the sigma-based ones were published with. But it ends at
# timestep 0, and the last step before that takes the ancestral KDPM2 to a hundredth of a noise level by one look at a tenth of
# it, which multiplies every error of the network by ten and more.
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
    "KDPM2AncestralDiscreteScheduler": "trailing",
    "UniPCMultistepScheduler": "linspace",
    "DEISMultistepScheduler": "linspace",
}
# The "linspace" of these ends at timestep 0, where a step does nearly nothing. Of few steps that wastes one, and the others get
# too long: a single one would begin without noise, and three of Heun's leave several times the noise of the clip.
_ENDS_AT_ZERO = frozenset(
    {
        "LMSDiscreteScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
    }
)
_FEW_STEPS = 8
# These add up the network's own outputs of several steps. Added up, epsilon is what the published method integrates; v is not,
# and leaves three times its error, so they are always given epsilon.
_ADDS_UP_OUTPUTS = frozenset({"PNDMScheduler"})


def sample_stock(name: str, space: ModelSpace, start: Start, **chosen: Any) -> Sampler:
    """Runs a diffusers scheduler; returns the clean latents, float32 [1, C, T, h, w]. `chosen` goes into its configuration."""
    if name in _SPACING:
        chosen["timestep_spacing"] = _spacing(name, start.num_inference_steps)
    gives_epsilon = name in _ADDS_UP_OUTPUTS and space.prediction_type == "v_prediction"
    if gives_epsilon:
        chosen["prediction_type"] = "epsilon"
    scheduler = space.scheduler(name, **chosen)
    scheduler.set_timesteps(start.num_inference_steps)
    timesteps = _begin(scheduler, space, start)
    latents = _noisy_latents(scheduler, start, timesteps[:1])
    extra: dict[str, Any] = _random_source(scheduler.step, start.generator)
    for number, timestep in enumerate(timesteps):
        seen = scheduler.scale_model_input(latents, timestep)
        output = yield Call(seen, timestep, number, len(timesteps))
        if gives_epsilon:
            output = space.epsilon(output, seen, space.sigma_at(timestep))
        if isinstance(scheduler, diffusers.PNDMScheduler):  # its order is how many outputs it has kept, and one
            scheduler.ets = scheduler.ets[1 - start.highest_order :]
        if isinstance(scheduler, diffusers.LMSDiscreteScheduler):  # by itself it counts the steps above an init's too
            extra = {"order": min(number + 1, start.highest_order)}
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
    return latents


def _spacing(name: str, num_inference_steps: int) -> str:
    return "trailing" if name in _ENDS_AT_ZERO and num_inference_steps <= _FEW_STEPS else _SPACING[name]


def _begin(scheduler: Any, space: ModelSpace, start: Start) -> Tensor:
    """Sets the scheduler to the step where it begins; returns the timesteps of the calls from there on."""
    timesteps: Tensor = scheduler.timesteps
    if isinstance(scheduler, diffusers.PNDMScheduler):
        # Its second call looks at the second timestep, and its third does again, wherever it begins.
        falling = torch.unique_consecutive(timesteps)
        falling = falling[first_step(falling.numpy(), space, start) :]
        return torch.cat([falling[:2], falling[1:]])
    first = scheduler.order * first_step(timesteps[:: scheduler.order].numpy(), space, start)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return timesteps[first:]


def _noisy_latents(scheduler: Any, start: Start, timestep: Tensor) -> Tensor:
    """What to begin with at the first timestep, in the scheduler's own scale: noise, or the init with noise."""
    if start.kept_init is None:
        return start.noise * scheduler.init_noise_sigma
    noisy: Tensor = scheduler.add_noise(start.kept_init, start.noise, timestep)
    return noisy


def _random_source(step: Any, generator: torch.Generator) -> dict[str, Any]:
    """Stochastic schedulers draw from the request's own generator; the others take none."""
    return {"generator": generator} if "generator" in inspect.signature(step).parameters else {}


def stock_samplers() -> dict[str, Sample]:
    """The thirteen that run as diffusers has them on any checkpoint."""
    return {name: partial(sample_stock, name) for name in _SPACING}
