"""Strength: every sampler begins at the same share of the trained timesteps, so all keep equally much of an init."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from promptreel.generation.model_space import ModelSpace
from promptreel.jobs.params import SCHEDULERS
from tests.generation.targets import MEAN, SPACES, STD, STOCHASTIC, TINY, exact_model, sample, unit_noise

SHAPE = (1, 4, 4, 16, 16)  # 4,096 elements: the mean's standard error is 0.008
INIT = 1.5  # two standard deviations from the target's mean
INVERSE = "DDIMInverseScheduler"
# These follow the reverse SDE. ScoreSdeVe and LCM add more noise, by a corrector and jumps, and so forget more of the init.
# KarrasVe's churn adds less.
FOLLOWS_SDE = frozenset({"DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"})


@dataclass(frozen=True)
class Posterior:
    """Exact mean and deviation of what an init of INIT everywhere becomes, by the probability flow ODE and the reverse SDE."""

    ode_mean: float
    ode_std: float
    sde_mean: float
    sde_std: float


def posterior(sigma: float) -> Posterior:
    kept = STD**2 / (STD**2 + sigma**2)
    return Posterior(
        ode_mean=MEAN + math.sqrt(kept) * (INIT - MEAN),
        ode_std=math.sqrt(kept) * sigma,
        sde_mean=MEAN + kept * (INIT - MEAN),
        sde_std=math.sqrt((kept * sigma) ** 2 + kept * sigma**2),
    )


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != INVERSE])
def test_init_is_kept_as_much_as_by_the_exact_posterior(name: str) -> None:
    spaces = [ModelSpace(SPACES[kind]) for kind in ("epsilon", "linear")]
    for space, strength in itertools.product(spaces, (0.3, 0.7)):
        start = {"init": torch.full(SHAPE, INIT), "strength": strength}
        latents, _ = sample(name, space, 50, exact_model(space), noise=unit_noise(SHAPE), **start)
        exact = posterior(space.sigma_at(strength * space.last_timestep))

        check_posterior(name, float(latents.mean()), float(latents.std()), exact)


def check_posterior(name: str, mean: float, std: float, exact: Posterior) -> None:
    if name not in STOCHASTIC:
        assert (mean, std) == pytest.approx((exact.ode_mean, exact.ode_std), abs=0.037)
    elif name in FOLLOWS_SDE:
        assert (mean, std) == pytest.approx((exact.sde_mean, exact.sde_std), abs=0.06)
    else:
        assert std == pytest.approx(exact.sde_std, abs=0.04)
        most = exact.ode_mean if name == "KarrasVeScheduler" else exact.sde_mean
        assert MEAN - 0.02 < mean < most + 0.02


@pytest.mark.parametrize("name", SCHEDULERS)
def test_distance_to_the_init_grows_with_strength(name: str) -> None:
    space = ModelSpace(SPACES["linear"])
    wild = INIT + unit_noise(SHAPE, seed=4)  # wider than the target, so that no inversion leads back to it
    distances = []
    for strength in (0.0, 0.2, 0.5, 0.8):
        start = {"init": wild, "strength": strength}
        latents, _ = sample(name, space, 20, exact_model(space), noise=unit_noise(SHAPE), **start)
        distances.append(float((latents - wild).norm() / wild.norm()))

    if name != INVERSE:  # it leads back to the init under the same prompt
        assert distances == sorted(distances)
        assert distances[3] - distances[1] > 0.2
    assert distances[0] < 0.15  # one step, from the lowest noise level of the method


@pytest.mark.parametrize("name", SCHEDULERS)
def test_all_samplers_begin_at_the_same_noise_level(name: str) -> None:
    space = ModelSpace(SPACES["linear"])
    for steps, strength in ((50, 0.55), (20, 0.3), (4, 0.7)):
        _, calls = sample(
            name, space, steps, exact_model(space), noise=unit_noise(TINY), init=torch.ones(TINY), strength=strength
        )
        began = max(float(call.timestep) for call in calls)

        # Half a step of the grid, plus KarrasVe's churn.
        assert began == pytest.approx(strength * space.last_timestep, abs=0.5 * 1000 / (steps - 1) + 25)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != INVERSE])
def test_strength_of_one_destroys_all_of_the_init(name: str) -> None:
    space = ModelSpace(SPACES["epsilon"])
    model, noise = exact_model(space), unit_noise(TINY)
    from_noise, _ = sample(name, space, 10, model, noise=noise)
    from_init, _ = sample(name, space, 10, model, noise=noise, init=torch.ones(TINY), strength=1.0)

    assert torch.equal(from_init, from_noise)


MULTISTEP = ("PNDM", "LMSDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "IPNDM")


@pytest.mark.parametrize("kind", ["epsilon", "linear"])
def test_multistep_method_begins_at_first_order_at_any_strength(kind: str) -> None:
    """The first step has no earlier outputs, so it must be Euler's. The result must be about as exact as Euler's, or better."""
    space = ModelSpace(SPACES[kind])
    init, noise = unit_noise(SHAPE, seed=4), unit_noise(SHAPE)

    def error(name: str, steps: int, strength: float) -> float:
        """Relative distance to the exact solution from the noise level at which the method begins."""
        start = {"init": init, "strength": strength}
        latents, calls = sample(name, space, steps, exact_model(space), noise=noise, **start)
        sigma = space.sigma_at(calls[0].timestep)
        solution = MEAN + math.sqrt(STD**2 / (STD**2 + sigma**2)) * (init + sigma * noise - MEAN)
        return float((latents - solution).norm() / solution.norm())

    for steps, strength in ((3, 0.1), (5, 0.1), (8, 0.2), (10, 0.1), (10, 0.3), (20, 0.1)):
        euler = error("EulerDiscreteScheduler", steps, strength)
        for name in MULTISTEP:  # their timesteps differ a little
            assert error(f"{name}Scheduler", steps, strength) < 1.25 * euler, (name, steps, strength)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_at_least_one_step_is_made(name: str) -> None:
    space = ModelSpace(SPACES["v"])
    for steps in (1, 20):
        _, calls = sample(name, space, steps, exact_model(space), noise=unit_noise(TINY), init=torch.ones(TINY), strength=0.0)

        assert 1 <= len(calls) <= 2


def test_pndm_with_an_init_calls_twice_at_its_second_timestep() -> None:
    space = ModelSpace(SPACES["epsilon"])
    start = {"init": torch.ones(TINY), "strength": 0.5}
    _, calls = sample("PNDMScheduler", space, 10, exact_model(space), noise=unit_noise(TINY), **start)

    assert [int(call.timestep) for call in calls] == [499, 399, 399, 299, 199, 99]
