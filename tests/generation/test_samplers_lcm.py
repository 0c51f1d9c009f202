"""LCM: one call a jump with a distilled checkpoint, several with any other."""

from __future__ import annotations

import math

import pytest
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call
from tests.generation.targets import MEAN, SPACES, STD, Predict, error_of, exact_model, sample, unit_noise

NAME = "LCMScheduler"
SHAPE = (1, 4, 8, 32, 36)


def consistent_model(space: ModelSpace) -> Predict:
    """A perfectly distilled model: it predicts the end of the probability flow, not the mean of all possible clips."""

    def end_of_the_flow(latents: Tensor, sigma: float) -> Tensor:
        return MEAN + STD / math.hypot(STD, sigma) * (latents - MEAN)

    return exact_model(space, end_of_the_flow)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
def test_distilled_checkpoint_is_exact_in_any_number_of_steps(steps: int, kind: str) -> None:
    distilled = ModelSpace(SPACES[kind], distilled=True)
    latents, calls = sample(NAME, distilled, steps, consistent_model(distilled), noise=unit_noise(SHAPE))
    mean, std = error_of(latents)

    assert len(calls) == steps
    assert std == pytest.approx(0, abs=0.015)
    # A single jump keeps the last timestep's error of the mean. A second one starts from exact latents.
    assert mean == pytest.approx(-0.034 if steps == 1 else 0, abs=0.015)


def test_ordinary_checkpoint_keeps_the_deviation_that_one_call_a_jump_loses() -> None:
    ordinary, taken_for_distilled = ModelSpace(SPACES["linear"]), ModelSpace(SPACES["linear"], distilled=True)
    several, _ = sample(NAME, ordinary, 20, exact_model(ordinary), noise=unit_noise(SHAPE))
    one, _ = sample(NAME, taken_for_distilled, 20, exact_model(taken_for_distilled), noise=unit_noise(SHAPE))

    assert abs(error_of(several)[1]) < 0.02
    assert error_of(one)[1] < -0.3


def test_distilled_checkpoint_is_called_at_the_timesteps_of_its_distillation() -> None:
    space = ModelSpace(SPACES["epsilon"], distilled=True)
    calls: list[Call] = sample(NAME, space, 4, consistent_model(space), noise=unit_noise((1, 4, 1, 4, 4)))[1]

    assert [int(call.timestep) for call in calls] == [999, 759, 499, 259]
