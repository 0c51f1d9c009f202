"""Strength: every sampler begins at the same share of the trained timesteps, and so keeps as much of an init clip."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from promptreel.generation.model_space import ModelSpace
from promptreel.jobs.params import SCHEDULERS
from tests.generation.targets import MEAN, SPACES, STD, STOCHASTIC, TINY, exact_network, sample, unit_noise

SHAPE = (1, 4, 4, 16, 16)  # 4,096 elements: chance moves the mean by 0.008, with noise whose own mean is exact by less
INIT = 1.5  # two standard deviations off the target's mean
INVERSE = "DDIMInverseScheduler"
# They follow the reverse SDE. The other stochastic ones add more noise than it has (their corrector, their jumps), so that they
# forget more of the init, or less (Karras et al. churn a little).
FOLLOWS_SDE = frozenset({"DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"})


@dataclass(frozen=True)
class Posterior:
    """Mean and deviation of what an init of INIT everywhere becomes, in closed form: along the flow's ODE, and by chance."""

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
def test_init_is_kept_as_the_exact_posterior_keeps_it(name: str) -> None:
    models = [ModelSpace(SPACES[space]) for space in ("epsilon", "linear")]
    for model, strength in itertools.product(models, (0.3, 0.7)):
        start = {"init": torch.full(SHAPE, INIT), "strength": strength}
        latents, _ = sample(name, model, 50, exact_network(model), noise=unit_noise(SHAPE), **start)
        exact = posterior(model.sigma_at(strength * model.last_timestep))

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
    wild = INIT + unit_noise(SHAPE, seed=4)  # wider than the target, so that an inversion does not lead back to it
    distances = []
    for strength in (0.0, 0.2, 0.5, 0.8):
        start = {"init": wild, "strength": strength}
        latents, _ = sample(name, space, 20, exact_network(space), noise=unit_noise(SHAPE), **start)
        distances.append(float((latents - wild).norm() / wild.norm()))

    if name != INVERSE:  # which leads back to the init under the same prompt
        assert distances == sorted(distances)
        assert distances[3] - distances[1] > 0.2
    assert distances[0] < 0.15  # one step is made, from the lowest level that the method has


@pytest.mark.parametrize("name", SCHEDULERS)
def test_all_begin_at_the_same_noise_level(name: str) -> None:
    space = ModelSpace(SPACES["linear"])
    for steps, strength in ((50, 0.55), (20, 0.3), (4, 0.7)):
        _, calls = sample(
            name, space, steps, exact_network(space), noise=unit_noise(TINY), init=torch.ones(TINY), strength=strength
        )
        began = max(float(call.timestep) for call in calls)

        # Half a step of a grid, and what Karras et al. churn.
        assert began == pytest.approx(strength * space.last_timestep, abs=0.5 * 1000 / (steps - 1) + 25)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != INVERSE])
def test_strength_of_one_destroys_all_of_the_init(name: str) -> None:
    space = ModelSpace(SPACES["epsilon"])
    network, noise = exact_network(space), unit_noise(TINY)
    from_noise, _ = sample(name, space, 10, network, noise=noise)
    from_init, _ = sample(name, space, 10, network, noise=noise, init=torch.ones(TINY), strength=1.0)

    assert torch.equal(from_init, from_noise)


MULTISTEP = ("PNDM", "LMSDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "IPNDM")


@pytest.mark.parametrize("space", ["epsilon", "linear"])
def test_multistep_method_begins_at_the_first_order_wherever_it_begins(space: str) -> None:
    """Of the few steps from an init the first has no outputs before it: it is Euler's, and what is left as exact at least."""
    model = ModelSpace(SPACES[space])
    init, noise = unit_noise(SHAPE, seed=4), unit_noise(SHAPE)

    def error(name: str, steps: int, strength: float) -> float:
        """Distance to where the flow leads from the level at which the method begins, relative."""
        start = {"init": init, "strength": strength}
        latents, calls = sample(name, model, steps, exact_network(model), noise=noise, **start)
        sigma = model.sigma_at(calls[0].timestep)
        solution = MEAN + math.sqrt(STD**2 / (STD**2 + sigma**2)) * (init + sigma * noise - MEAN)
        return float((latents - solution).norm() / solution.norm())

    for steps, strength in ((3, 0.1), (5, 0.1), (8, 0.2), (10, 0.1), (10, 0.3), (20, 0.1)):
        euler = error("EulerDiscreteScheduler", steps, strength)
        for name in MULTISTEP:  # whose grids of timesteps differ a little
            assert error(f"{name}Scheduler", steps, strength) < 1.25 * euler, (name, steps, strength)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_one_step_is_made_at_least(name: str) -> None:
    space = ModelSpace(SPACES["v"])
    for steps in (1, 20):
        _, calls = sample(name, space, steps, exact_network(space), noise=unit_noise(TINY), init=torch.ones(TINY), strength=0.0)

        assert 1 <= len(calls) <= 2


def test_pndm_begun_in_the_middle_looks_twice_at_its_second_timestep() -> None:
    space = ModelSpace(SPACES["epsilon"])
    start = {"init": torch.ones(TINY), "strength": 0.5}
    _, calls = sample("PNDMScheduler", space, 10, exact_network(space), noise=unit_noise(TINY), **start)

    assert [int(call.timestep) for call in calls] == [499, 399, 399, 299, 199, 99]
