"""The schedulers of diffusers whose arithmetic is right, with their configuration pinned.

Papers: Ho et al. 2020 (DDPM); Song et al. 2021 (DDIM); Liu et al. 2022 (PNDM); Karras et al. 2022 (Euler, Heun, KDPM2 and LMS,
as in k-diffusion); Lu et al. 2022 (DPM-Solver++, single and multistep); Zhao et al. 2023 (UniPC); Zhang and Chen 2022 (DEIS).
PNDM and LMS have fourth order without guidance and second order with it; the others have at most second order.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.levels import first_step
from promptreel.generation.samplers.sampler import Call, Sample, Sampler, Start


@dataclass(frozen=True)
class _Stock:
    """How a scheduler of diffusers is configured.

    `spacing`: where the timesteps lie. "trailing" starts at the last trained timestep, where latents are pure noise. "leading",
    the default of the first three, starts lower, where they still hold signal (Lin et al. 2024, "Common Diffusion Noise
    Schedules and Sample Steps are Flawed"). The sigma-based schedulers were published with "linspace". It ends at timestep 0.

    `ends_at_zero`: the last step of "linspace", at timestep 0, changes nearly nothing. With few steps, the others then become
    too long: a single step would begin without noise, and three of Heun's would leave much noise. So "trailing" is used there.

    `adds_up_outputs`: the scheduler sums the model's outputs of several steps. That is right for epsilon. For v it leaves three
    times the error, so v is converted to epsilon first.
    """

    spacing: str
    ends_at_zero: bool = False
    adds_up_outputs: bool = False


_STOCK = {
    "DDPMScheduler": _Stock("trailing"),
    "DDIMScheduler": _Stock("trailing"),
    "PNDMScheduler": _Stock("trailing", adds_up_outputs=True),
    "LMSDiscreteScheduler": _Stock("linspace", ends_at_zero=True),
    "EulerDiscreteScheduler": _Stock("linspace", ends_at_zero=True),
    "EulerAncestralDiscreteScheduler": _Stock("linspace", ends_at_zero=True),
    "DPMSolverMultistepScheduler": _Stock("linspace"),
    "HeunDiscreteScheduler": _Stock("linspace", ends_at_zero=True),
    "KDPM2DiscreteScheduler": _Stock("linspace", ends_at_zero=True),
    "DPMSolverSinglestepScheduler": _Stock("linspace"),
    # With "linspace", its last step goes to a hundredth of a noise level after one call at a tenth of it. That would multiply
    # the model's errors by more than ten.
    "KDPM2AncestralDiscreteScheduler": _Stock("trailing"),
    "UniPCMultistepScheduler": _Stock("linspace"),
    "DEISMultistepScheduler": _Stock("linspace"),
}
_FEW_STEPS = 8


def sample_stock(name: str, space: ModelSpace, start: Start, **chosen: Any) -> Sampler:
    """Runs a scheduler of diffusers. Returns the clean latents, float32 [1, C, T, h, w]. `chosen`: further options."""
    stock = _STOCK.get(name)  # None for LCM's, whose sampler runs it on distilled models
    if stock is not None:
        chosen["timestep_spacing"] = _choose_spacing(stock, start.num_inference_steps)
    gives_epsilon = stock is not None and stock.adds_up_outputs and space.prediction_type == "v_prediction"
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
        if isinstance(scheduler, diffusers.PNDMScheduler):  # its order is the number of kept outputs plus one
            scheduler.ets = scheduler.ets[1 - start.highest_order :]
        if isinstance(scheduler, diffusers.LMSDiscreteScheduler):  # its own order also counts the steps that an init skips
            extra = {"order": min(number + 1, start.highest_order)}
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
    return latents


def _choose_spacing(stock: _Stock, num_inference_steps: int) -> str:
    return "trailing" if stock.ends_at_zero and num_inference_steps <= _FEW_STEPS else stock.spacing


def _begin(scheduler: Any, space: ModelSpace, start: Start) -> Tensor:
    """Sets the scheduler to its first step. Returns the timesteps of all calls."""
    timesteps: Tensor = scheduler.timesteps
    if isinstance(scheduler, diffusers.PNDMScheduler):
        # Its second and third call are both at the second timestep, wherever it begins.
        falling = torch.unique_consecutive(timesteps)
        falling = falling[first_step(falling.numpy(), space, start) :]
        return torch.cat([falling[:2], falling[1:]])
    first = scheduler.order * first_step(timesteps[:: scheduler.order].numpy(), space, start)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return timesteps[first:]


def _noisy_latents(scheduler: Any, start: Start, timestep: Tensor) -> Tensor:
    """The first latents, in the scheduler's own scale: noise, or the init with noise."""
    if start.kept_init is None:
        return start.noise * scheduler.init_noise_sigma
    noisy: Tensor = scheduler.add_noise(start.kept_init, start.noise, timestep)
    return noisy


def _random_source(step: Any, generator: torch.Generator) -> dict[str, Any]:
    """The argument of stochastic schedulers: they draw from the request's own generator."""
    return {"generator": generator} if "generator" in inspect.signature(step).parameters else {}


def stock_samplers() -> dict[str, Sample]:
    """The schedulers that run as diffusers has them on any checkpoint."""
    return {name: partial(sample_stock, name) for name in _STOCK}
