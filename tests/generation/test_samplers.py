"""Every scheduler against a target whose exact answer is known: latents that are N(0.5, 0.5^2), each on its own.

The exact model of it is E[x0 | x_t], in closed form, so that what is left is the sampler's own error. The figures were
measured with diffusers 0.42; a wrong noise table, a clipped sample or a wrong timestep is off by far more than the margin.
The mean error of about -0.034 that the deterministic ones share is the checkpoint's: its last noise level still holds signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call
from promptreel.generation.samplers.stock import stock_samplers
from promptreel.jobs.params import SCHEDULERS
from tests.generation.checkpoints import TABLE

MEAN, STD = 0.5, 0.5
SHAPE = (1, 4, 8, 48, 48)  # 73,728 elements: chance alone moves the mean by 0.004 STD
MARGIN = 0.012

Predict = Callable[[Call], Tensor]

# Error of the mean and of the standard deviation, in units of STD: at 20 steps, at 50 steps.
FIGURES = {
    "DDPMScheduler": (-0.003, -0.183, -0.001, -0.098),
    "DDIMScheduler": (-0.031, -0.109, -0.033, -0.046),
    "PNDMScheduler": (-0.034, -0.021, -0.034, -0.004),
    "LMSDiscreteScheduler": (-0.034, +0.001, -0.034, 0.000),
    "EulerDiscreteScheduler": (-0.030, -0.120, -0.032, -0.053),
    "EulerAncestralDiscreteScheduler": (-0.003, -0.187, -0.002, -0.098),
    "DPMSolverMultistepScheduler": (-0.031, -0.084, -0.033, -0.031),
    "HeunDiscreteScheduler": (-0.035, +0.009, -0.034, 0.000),
    "KDPM2DiscreteScheduler": (-0.036, +0.039, -0.035, +0.008),
    "DPMSolverSinglestepScheduler": (-0.031, -0.107, -0.033, -0.042),
    "KDPM2AncestralDiscreteScheduler": (-0.003, +0.099, -0.002, +0.029),
    "UniPCMultistepScheduler": (-0.031, -0.083, -0.033, -0.032),
    "DEISMultistepScheduler": (-0.036, +0.033, -0.035, +0.017),
}
TWO_CALLS_A_STEP = {"HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"}


def exact_model(space: ModelSpace) -> Predict:
    """The network that knows the target, in the space's own kind of prediction."""
    sigmas = ((1 - space.alphas_cumprod) / space.alphas_cumprod).sqrt().numpy()

    def predict(call: Call) -> Tensor:
        sigma = float(np.interp(float(call.timestep), np.arange(len(sigmas)), sigmas))
        signal, noise = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        gain = STD**2 * signal / (signal**2 * STD**2 + noise**2)
        clean = MEAN + gain * (call.latents - signal * MEAN)
        epsilon = (call.latents - signal * clean) / noise
        return epsilon if space.prediction_type == "epsilon" else signal * epsilon - noise * clean

    return predict


def unit_noise(shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Noise whose own mean and deviation are exact, so that they are no error of the sampler."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return (noise - noise.mean()) / noise.std()


def sample(name: str, space: ModelSpace, steps: int, noise: Tensor, predict: Predict, *, seed: int = 1) -> tuple[Tensor, int]:
    """The clean latents, and how many calls they took."""
    sampler = stock_samplers()[name](space, noise, steps, torch.Generator().manual_seed(seed))
    call, calls = next(sampler), 0
    while True:
        assert call.number == calls
        calls += 1
        assert calls <= call.total
        try:
            call = sampler.send(predict(call))
        except StopIteration as finished:
            return finished.value, calls


def expected_calls(name: str, steps: int) -> int:
    if name in TWO_CALLS_A_STEP:
        return 2 * steps - 1
    return steps + 1 if name == "PNDMScheduler" and steps > 1 else steps


def test_all_schedulers_have_figures_and_samplers() -> None:
    assert FIGURES.keys() == stock_samplers().keys() == set(SCHEDULERS)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_error_on_a_known_target_is_the_solvers_own(name: str, prediction_type: str) -> None:
    space = ModelSpace(TABLE | {"prediction_type": prediction_type})
    figures = FIGURES[name]
    for steps, (mean, std) in ((20, figures[:2]), (50, figures[2:])):
        latents, calls = sample(name, space, steps, unit_noise(), exact_model(space))

        assert calls == expected_calls(name, steps)
        assert (float(latents.mean()) - MEAN) / STD == pytest.approx(mean, abs=MARGIN)
        assert float(latents.std()) / STD - 1 == pytest.approx(std, abs=MARGIN)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 11, 49, 50])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_number_of_steps_ends_in_finite_latents(name: str, steps: int) -> None:
    space = ModelSpace(TABLE | {"prediction_type": "v_prediction"})
    latents, calls = sample(name, space, steps, unit_noise((1, 4, 2, 8, 8)), exact_model(space))

    assert calls == expected_calls(name, steps)
    assert torch.isfinite(latents).all()
    assert latents.dtype == torch.float32
    # In two steps these three jump from all noise to nearly none, and the method itself leaves half of it.
    assert float(latents.abs().max()) < (100 if name in TWO_CALLS_A_STEP and steps == 2 else 10)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_randomness_comes_from_the_requests_generator_alone(name: str) -> None:
    space = ModelSpace(TABLE)
    noise, predict = unit_noise((1, 4, 2, 8, 8)), exact_model(space)
    torch.manual_seed(1)
    one, _ = sample(name, space, 5, noise, predict)
    torch.manual_seed(2)
    same, _ = sample(name, space, 5, noise, predict)
    other, _ = sample(name, space, 5, noise, predict, seed=3)

    assert torch.equal(one, same)
    assert torch.equal(one, other) == (name not in {"DDPMScheduler"} and "Ancestral" not in name)


def test_zero_terminal_snr_table_gives_finite_latents() -> None:
    """Checkpoints with `rescale_betas_zero_snr` start from pure noise, where a sigma would be infinite."""
    space = ModelSpace(TABLE | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True})
    for name in SCHEDULERS:
        latents, _ = sample(name, space, 10, unit_noise((1, 4, 2, 8, 8)), exact_model(space))
        assert torch.isfinite(latents).all(), name


def test_prediction_type_that_is_neither_epsilon_nor_v_is_refused() -> None:
    with pytest.raises(ValueError, match="neither 'epsilon' nor 'v_prediction'"):
        ModelSpace(TABLE | {"prediction_type": "sample"})


def test_checkpoints_choices_of_sampling_are_left_out() -> None:
    """A checkpoint that says clip_sample, as DDIM's default does, must not clip our latents."""
    space = ModelSpace(TABLE | {"clip_sample": True, "timestep_spacing": "leading", "steps_offset": 1})
    scheduler = space.scheduler("DDIMScheduler", timestep_spacing="trailing")

    assert scheduler.config.clip_sample is False
    assert scheduler.config.timestep_spacing == "trailing"
    assert scheduler.config.steps_offset == 0
