"""The schedulers that diffusers implements correctly, with their configuration pinned.

Most make one call a step. Heun and both KDPM2 make two, but one at the last step; PNDM makes one extra call in all. PNDM and
LMS have fourth order, or second with guidance. The others never exceed second order.

Papers: Ho et al. 2020 (DDPM); Song et al. 2021 (DDIM); Liu et al. 2022 (PNDM); Karras et al. 2022 (Euler, Heun, KDPM2, LMS, as
in k-diffusion); Lu et al. 2022 (DPM-Solver++, single and multistep); Zhao et al. 2023 (UniPC); Zhang and Chen 2022 (DEIS).
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
class _Options:
    """How to run one of diffusers' schedulers.

    `spacing` is its `timestep_spacing`; None keeps diffusers' default. "trailing" starts at the last trained timestep, where
    latents are noise. "leading", the default of DDPM, DDIM and PNDM, starts lower with the same unit noise, at a level that
    still holds signal (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed"). "linspace" is what the
    sigma-based schedulers were published with.

    `ends_at_zero`: with "linspace", the last step is at timestep 0 and does nearly nothing. Few steps cannot spare one: a
    single step would begin without noise, and three of Heun's leave several times the noise of the clip. So few steps use
    "trailing".

    `sums_outputs`: the scheduler adds up the model's outputs of several steps. The published method sums epsilons; sums of v
    leave three times the error. So the scheduler always gets epsilon.
    """

    spacing: str | None = None
    ends_at_zero: bool = False
    sums_outputs: bool = False


_OPTIONS = {
    "DDPMScheduler": _Options("trailing"),
    "DDIMScheduler": _Options("trailing"),
    "PNDMScheduler": _Options("trailing", sums_outputs=True),
    "LMSDiscreteScheduler": _Options("linspace", ends_at_zero=True),
    "EulerDiscreteScheduler": _Options("linspace", ends_at_zero=True),
    "EulerAncestralDiscreteScheduler": _Options("linspace", ends_at_zero=True),
    "DPMSolverMultistepScheduler": _Options("linspace"),
    "HeunDiscreteScheduler": _Options("linspace", ends_at_zero=True),
    "KDPM2DiscreteScheduler": _Options("linspace", ends_at_zero=True),
    "DPMSolverSinglestepScheduler": _Options("linspace"),
    # "linspace" ends at timestep 0. The step before it would reduce sigma to a hundredth by a call at sigma / 10, which
    # multiplies the model's errors tenfold or more.
    "KDPM2AncestralDiscreteScheduler": _Options("trailing"),
    "UniPCMultistepScheduler": _Options("linspace"),
    "DEISMultistepScheduler": _Options("linspace"),
}
_FEW_STEPS = 8
_DRAWING_NOISE = frozenset(
    {"DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LCMScheduler"}
)
"""Their noise would be another one in float64.

The others' steps are made in float64 for flow models. Those begin at a sigma in the thousands, where float32 loses what is
beside the noise: with four steps, Euler's latents were off by 3e-5 of their size, Heun's and PNDM's by 3e-3.
"""


def sample_stock(name: str, space: ModelSpace, start: Start) -> Sampler:
    """Runs a diffusers scheduler; returns the clean latents, float32 [1, C, T, h, w]."""
    options = _OPTIONS.get(name, _Options())  # lcm.py runs LCMScheduler, which needs none
    gives_epsilon = options.sums_outputs and space.prediction_type == "v_prediction"
    scheduler = space.scheduler(name, **_configuration(options, start.num_inference_steps, gives_epsilon=gives_epsilon))
    scheduler.set_timesteps(start.num_inference_steps)
    timesteps = _begin(scheduler, space, start)
    dtype = torch.float64 if space.is_flow and name not in _DRAWING_NOISE else torch.float32
    latents = _noisy_latents(scheduler, start, timesteps[:1]).to(dtype)
    extra: dict[str, Any] = _random_source(scheduler.step, start.generator)
    for number, timestep in enumerate(timesteps):
        seen = scheduler.scale_model_input(latents, timestep)
        output = (yield Call(seen.float(), timestep, number, len(timesteps))).to(dtype)
        if gives_epsilon:
            output = space.epsilon(output, seen, space.sigma_at(timestep))
        if isinstance(scheduler, diffusers.PNDMScheduler):  # its order is the number of outputs kept here, plus one
            scheduler.ets = scheduler.ets[1 - start.highest_order :]
        if isinstance(scheduler, diffusers.LMSDiscreteScheduler):  # by default it also counts the steps that an init skips
            extra = {"order": min(number + 1, start.highest_order)}
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
    return latents.float()


def _configuration(options: _Options, steps: int, *, gives_epsilon: bool) -> dict[str, str]:
    chosen = {}
    if options.spacing is not None:
        chosen["timestep_spacing"] = "trailing" if options.ends_at_zero and steps <= _FEW_STEPS else options.spacing
    if gives_epsilon:
        chosen["prediction_type"] = "epsilon"
    return chosen


def _begin(scheduler: Any, space: ModelSpace, start: Start) -> Tensor:
    """Moves the scheduler to its first step at this strength; returns the timesteps of the remaining calls."""
    timesteps: Tensor = scheduler.timesteps
    if isinstance(scheduler, diffusers.PNDMScheduler):
        # PNDM's second and third calls are both at its second timestep, wherever it begins.
        falling = torch.unique_consecutive(timesteps)
        falling = falling[first_step(falling.numpy(), space, start) :]
        return torch.cat([falling[:2], falling[1:]])
    first = scheduler.order * first_step(timesteps[:: scheduler.order].numpy(), space, start)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return timesteps[first:]


def _noisy_latents(scheduler: Any, start: Start, timestep: Tensor) -> Tensor:
    """First latents, in the scheduler's own scale: noise, or the init with noise of the first timestep."""
    if start.kept_init is None:
        return start.noise * scheduler.init_noise_sigma
    noisy: Tensor = scheduler.add_noise(start.kept_init, start.noise, timestep)
    return noisy


def _random_source(step: Any, generator: torch.Generator) -> dict[str, Any]:
    """The argument that makes a stochastic scheduler draw from the request's generator; empty for the others."""
    return {"generator": generator} if "generator" in inspect.signature(step).parameters else {}


def stock_samplers() -> dict[str, Sample]:
    """The schedulers that suit every checkpoint."""
    return {name: partial(sample_stock, name) for name in _OPTIONS}
