"""LCM: one call a jump where the checkpoint was distilled for it, several where it was not."""

from __future__ import annotations

import math

import pytest
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call
from tests.generation.targets import MEAN, SPACES, STD, Predict, error_of, exact_network, sample, unit_noise

NAME = "LCMScheduler"
SHAPE = (1, 4, 8, 32, 36)


def consistent_network(space: ModelSpace) -> Predict:
    """What distillation would have made: it predicts the end of the probability flow, not the mean of what is possible."""

    def end_of_the_flow(latents: Tensor, sigma: float) -> Tensor:
        return MEAN + STD / math.hypot(STD, sigma) * (latents - MEAN)

    return exact_network(space, end_of_the_flow)


@pytest.mark.parametrize("space", ["epsilon", "v"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
def test_distilled_checkpoint_is_exact_in_any_number_of_steps(steps: int, space: str) -> None:
    distilled = ModelSpace(SPACES[space], distilled=True)
    latents, calls = sample(NAME, distilled, steps, consistent_network(distilled), noise=unit_noise(SHAPE))
    mean, std = error_of(latents)

    assert len(calls) == steps
    assert std == pytest.approx(0, abs=0.015)
    # One jump from the last timestep keeps that timestep's error of the mean; the second one is of exact latents.
    assert mean == pytest.approx(-0.034 if steps == 1 else 0, abs=0.015)


def test_ordinary_checkpoint_keeps_its_deviation_where_one_call_a_jump_loses_it() -> None:
    ordinary, taken_for_distilled = ModelSpace(SPACES["linear"]), ModelSpace(SPACES["linear"], distilled=True)
    several, _ = sample(NAME, ordinary, 20, exact_network(ordinary), noise=unit_noise(SHAPE))
    one, _ = sample(NAME, taken_for_distilled, 20, exact_network(taken_for_distilled), noise=unit_noise(SHAPE))

    assert abs(error_of(several)[1]) < 0.02
    assert error_of(one)[1] < -0.3


def test_distilled_checkpoint_is_asked_at_the_timesteps_of_its_distillation() -> None:
    space = ModelSpace(SPACES["epsilon"], distilled=True)
    calls: list[Call] = sample(NAME, space, 4, consistent_network(space), noise=unit_noise((1, 4, 1, 4, 4)))[1]

    assert [int(call.timestep) for call in calls] == [999, 759, 499, 259]
