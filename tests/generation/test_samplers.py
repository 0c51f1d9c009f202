"""What holds for every sampler: its calls, its randomness, and that nothing it can be asked for breaks it."""

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
    exact_network,
    sample,
    unit_noise,
)

STEPS = (1, 2, 3, 4, 5, 7, 11, 50)
STRENGTHS = (None, 0.02, 0.3, 0.7, 1.0)


def test_every_scheduler_that_can_be_asked_for_has_a_sampler() -> None:
    assert set(all_samplers()) == set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_number_of_steps_at_any_strength_ends_in_latents_of_the_target(name: str) -> None:
    noise, init = unit_noise(TINY), torch.ones(TINY)
    models = [ModelSpace(SPACES[space]) for space in ("epsilon", "linear")]
    for model, steps, strength in itertools.product(models, STEPS, STRENGTHS):
        start = {} if strength is None else {"init": init, "strength": strength}
        latents, calls = sample(name, model, steps, exact_network(model), noise=noise, **start)

        assert latents.shape == TINY
        assert latents.dtype == torch.float32
        assert len(calls) == calls[-1].total
        assert len(calls) <= count_calls(name, steps)
        assert float((latents - MEAN).abs().max()) < 6 * STD, (model.prediction_type, steps, strength)  # and so finite


@pytest.mark.parametrize("name", SCHEDULERS)
def test_estimates_count_the_calls_that_the_sampler_makes(name: str) -> None:
    space = ModelSpace(SPACES["v"])
    for steps in (1, 2, 3, 8, 20):
        _, calls = sample(name, space, steps, exact_network(space), noise=unit_noise(TINY))

        assert len(calls) == count_calls(name, steps)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_model_sees_latents_of_the_noise_level_that_it_is_told(name: str) -> None:
    """A wrong scale or timestep shows here before it shows in the result."""
    for space in SPACES:
        model = ModelSpace(SPACES[space])
        _, calls = sample(name, model, 50, exact_network(model), noise=unit_noise((1, 4, 4, 16, 16)))

        for call in calls:
            sigma = model.sigma_at(call.timestep)
            assert 0 <= float(call.timestep) <= model.last_timestep, space
            if sigma > 0.5:  # below, what is left is the solver's own error
                deviation = math.hypot(STD, sigma) / math.hypot(1, sigma)
                assert float(call.latents.std()) == pytest.approx(deviation, rel=0.06), space


@pytest.mark.parametrize("name", SCHEDULERS)
def test_randomness_comes_from_the_requests_generator_alone(name: str) -> None:
    space = ModelSpace(SPACES["epsilon"])
    noise, network = unit_noise(TINY), exact_network(space)
    torch.manual_seed(1)
    one, _ = sample(name, space, 10, network, noise=noise)
    torch.manual_seed(2)
    same, _ = sample(name, space, 10, network, noise=noise)
    other, _ = sample(name, space, 10, network, noise=noise, seed=3)

    assert torch.equal(one, same)
    assert torch.equal(one, other) == (name not in STOCHASTIC)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_table_that_ends_in_pure_noise_gives_finite_latents(name: str) -> None:
    """Its last sigma would be infinite."""
    models = [ModelSpace(SPACES[space]) for space in ("zero-snr", "flow")]
    for model, steps in itertools.product(models, (1, 2, 10)):
        latents, _ = sample(name, model, steps, exact_network(model), noise=unit_noise(TINY))

        assert torch.isfinite(latents).all()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_only_the_inversion_of_a_clip_is_unguided(name: str) -> None:
    space = ModelSpace(SPACES["v"])
    _, calls = sample(name, space, 10, exact_network(space), noise=unit_noise(TINY), init=torch.ones(TINY), strength=0.5)
    _, from_noise = sample(name, space, 10, exact_network(space), noise=unit_noise(TINY))

    up = len(calls) // 2 if name == "DDIMInverseScheduler" else 0
    assert [call.guided for call in calls] == [False] * up + [True] * (len(calls) - up)
    assert all(call.guided for call in from_noise)
