"""Targets with a known exact answer, and the model that would predict them without an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace, vp_scales
from promptreel.generation.samplers.catalogue import all_samplers
from promptreel.generation.samplers.sampler import Call, Sampler, Start
from tests.generation.checkpoints import TABLE

# DDPM's own noise table, which the built-in model is trained on: sigma goes up to 157.
LINEAR_TABLE: dict[str, Any] = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
SPACES: dict[str, dict[str, Any]] = {
    "epsilon": TABLE,
    "v": TABLE | {"prediction_type": "v_prediction"},
    "linear": LINEAR_TABLE | {"prediction_type": "v_prediction"},
    "zero-snr": TABLE | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
}
MEAN, STD = 0.5, 0.5  # of the Gaussian target; latents are independent
TINY = (1, 4, 2, 4, 4)
STOCHASTIC = frozenset(
    f"{name}Scheduler" for name in ("DDPM", "EulerAncestralDiscrete", "KDPM2AncestralDiscrete", "KarrasVe", "ScoreSdeVe", "LCM")
)

Clean = Callable[[Tensor, float], Tensor]
"""The expected clean latents, given latents `clean + sigma * epsilon` and sigma."""
Predict = Callable[[Call], Tensor]


def gaussian(latents: Tensor, sigma: float) -> Tensor:
    return MEAN + STD**2 / (STD**2 + sigma**2) * (latents - MEAN)


def exact_model(space: ModelSpace, clean: Clean = gaussian) -> Predict:
    """The model that knows the target; its outputs are of the space's `prediction_type`."""

    def predict(call: Call) -> Tensor:
        sigma = space.sigma_at(call.timestep)
        signal, noise = vp_scales(sigma)
        expected = clean(call.latents / signal, sigma)
        epsilon = (call.latents - signal * expected) / noise
        return epsilon if space.prediction_type == "epsilon" else signal * epsilon - noise * expected

    return predict


def unit_noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Noise with mean 0 and deviation 1 exactly, so that a clip's errors are the sampler's."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (noise - noise.mean()) / noise.std()


def run(sampler: Sampler, predict: Predict) -> tuple[Tensor, list[Call]]:
    """The clean latents, and all calls."""
    call, calls = next(sampler), []
    while True:
        assert call.number == len(calls) < call.total
        calls.append(call)
        try:
            call = sampler.send(predict(call))
        except StopIteration as finished:
            return finished.value, calls


def sample(
    name: str, space: ModelSpace, steps: int, predict: Predict, *, noise: Tensor, seed: int = 1, **start: Any
) -> tuple[Tensor, list[Call]]:
    generator = torch.Generator().manual_seed(seed)
    return run(all_samplers()[name](space, Start(noise, steps, generator, **start)), predict)


def error_of(latents: Tensor) -> tuple[float, float]:
    """Error of the mean and of the standard deviation of Gaussian latents, in units of STD."""
    return (float(latents.double().mean()) - MEAN) / STD, float(latents.double().std()) / STD - 1
