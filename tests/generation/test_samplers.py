"""What is true of every sampler: its calls, its randomness, and good latents for every valid request."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.catalogue import all_samplers
from promptreel.jobs.params import SCHEDULERS, count_calls
from tests.generation.targets import (
    MEAN,
    SPACES,
    STD,
    STOCHASTIC,
    TINY,
    exact_model,
    sample,
    unit_noise,
)

STEPS = (1, 2, 3, 4, 5, 7, 20)
STRENGTHS = (None, 0.02, 0.3, 0.7, 1.0)


def test_every_scheduler_has_a_sampler() -> None:
    assert set(all_samplers()) == set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_steps_and_strength_give_latents_of_the_target(name: str) -> None:
    noise, init = unit_noise(TINY), torch.ones(TINY)
    spaces = [ModelSpace(SPACES[kind]) for kind in ("epsilon", "linear")]
    for space, steps, strength in itertools.product(spaces, STEPS, STRENGTHS):
        start = {} if strength is None else {"init": init, "strength": strength}
        latents, calls = sample(name, space, steps, exact_model(space), noise=noise, **start)

        assert latents.shape == TINY
        assert latents.dtype == torch.float32
        assert len(calls) == calls[-1].total
        assert len(calls) <= count_calls(name, steps)
        assert float((latents - MEAN).abs().max()) < 6 * STD, (space.prediction_type, steps, strength)  # NaN fails too


@pytest.mark.parametrize("name", SCHEDULERS)
def test_estimates_count_the_calls_that_the_sampler_makes(name: str) -> None:
    space = ModelSpace(SPACES["v"])
    for steps in (1, 2, 3, 8, 20):
        _, calls = sample(name, space, steps, exact_model(space), noise=unit_noise(TINY))

        assert len(calls) == count_calls(name, steps)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_latents_of_each_call_have_the_noise_of_its_timestep(name: str) -> None:
    """Shows a wrong scale or timestep earlier than the result does."""
    for kind in SPACES:
        space = ModelSpace(SPACES[kind])
        _, calls = sample(name, space, 50, exact_model(space), noise=unit_noise((1, 4, 4, 16, 16)))

        for call in calls:
            sigma = space.sigma_at(call.timestep)
            assert 0 <= float(call.timestep) <= space.last_timestep, kind
            if sigma > 0.5:  # below, the solver's own error dominates
                deviation = math.hypot(STD, sigma) / math.hypot(1, sigma)
                assert float(call.latents.std()) == pytest.approx(deviation, rel=0.06), kind


@pytest.mark.parametrize("name", SCHEDULERS)
def test_all_randomness_comes_from_the_requests_generator(name: str) -> None:
    space = ModelSpace(SPACES["epsilon"])
    noise, model = unit_noise(TINY), exact_model(space)
    torch.manual_seed(1)
    one, _ = sample(name, space, 10, model, noise=noise)
    torch.manual_seed(2)
    same, _ = sample(name, space, 10, model, noise=noise)
    other, _ = sample(name, space, 10, model, noise=noise, seed=3)

    assert torch.equal(one, same)
    assert torch.equal(one, other) == (name not in STOCHASTIC)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_table_that_ends_in_pure_noise_gives_finite_latents(name: str) -> None:
    """Without a bound, the last sigma would be infinite."""
    spaces = [ModelSpace(SPACES[kind]) for kind in ("zero-snr", "flow")]
    for space, steps in itertools.product(spaces, (1, 2, 10)):
        latents, _ = sample(name, space, steps, exact_model(space), noise=unit_noise(TINY))

        assert torch.isfinite(latents).all()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_only_calls_that_invert_an_init_are_unguided(name: str) -> None:
    space = ModelSpace(SPACES["v"])
    _, calls = sample(name, space, 10, exact_model(space), noise=unit_noise(TINY), init=torch.ones(TINY), strength=0.5)
    _, from_noise = sample(name, space, 10, exact_model(space), noise=unit_noise(TINY))

    inverting = len(calls) // 2 if name == "DDIMInverseScheduler" else 0
    assert [call.guided for call in calls] == [False] * inverting + [True] * (len(calls) - inverting)
    assert all(call.guided for call in from_noise)
