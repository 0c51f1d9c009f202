"""DDIMInverse: inverts and denoises an init; without one, takes the steps that inversion would undo."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call
from tests.generation.targets import MEAN, SPACES, STD, TINY, exact_model, sample, unit_noise

NAME = "DDIMInverseScheduler"
SHAPE = (1, 4, 4, 16, 16)
INIT = MEAN + STD * unit_noise(SHAPE, seed=7)


@pytest.mark.parametrize(("steps", "most"), [(20, 0.10), (50, 0.045)])
def test_init_comes_back_under_the_same_prompt(steps: int, most: float) -> None:
    space = ModelSpace(SPACES["epsilon"])
    latents, calls = sample(NAME, space, steps, exact_model(space), noise=unit_noise(SHAPE), init=INIT, strength=1.0)

    assert float((latents - INIT).norm() / INIT.norm()) < most
    top = next(call for call in calls if call.guided)
    assert float(top.latents.std()) == pytest.approx(1, abs=0.03)  # inverted all the way to noise
    assert int(top.timestep) == space.last_timestep


def test_noise_of_the_request_does_not_matter_with_an_init() -> None:
    space = ModelSpace(SPACES["v"])
    one, other = (
        sample(NAME, space, 5, exact_model(space), noise=unit_noise(SHAPE, seed=seed), init=INIT, strength=0.6)[0]
        for seed in (1, 2)
    )

    assert torch.equal(one, other)


def test_init_follows_another_prompt_and_keeps_its_details() -> None:
    """The prompt's target is 0.4 brighter than the one that the init was inverted under."""
    space = ModelSpace(SPACES["linear"])
    own = exact_model(space)
    prompted = exact_model(space, lambda latents, sigma: 0.4 + MEAN + STD**2 / (STD**2 + sigma**2) * (latents - 0.4 - MEAN))

    def model(call: Call) -> Tensor:
        return prompted(call) if call.guided else own(call)

    latents, _ = sample(NAME, space, 50, model, noise=unit_noise(SHAPE), init=INIT, strength=0.8)

    assert float((latents - INIT).mean()) == pytest.approx(0.4, abs=0.05)
    details = torch.stack([(latents - latents.mean()).flatten(), (INIT - INIT.mean()).flatten()])
    assert float(torch.corrcoef(details)[0, 1]) > 0.999


def test_steps_without_an_init_are_ddims_if_the_iteration_does_not_contract() -> None:
    """The model is so steep that every correction overshoots, as with strong guidance."""
    space, noise = ModelSpace(SPACES["epsilon"]), unit_noise(TINY)

    def steep(call: Call) -> Tensor:
        return 10 * call.latents

    inverse, _ = sample(NAME, space, 20, steep, noise=noise)
    ddim, _ = sample("DDIMScheduler", space, 20, steep, noise=noise)

    assert float((inverse - ddim).norm() / ddim.norm()) < 1e-3


def test_steps_without_an_init_are_better_than_ddims_if_the_iteration_contracts() -> None:
    space, noise = ModelSpace(SPACES["linear"]), unit_noise(SHAPE)
    inverse, _ = sample(NAME, space, 20, exact_model(space), noise=noise)
    ddim, _ = sample("DDIMScheduler", space, 20, exact_model(space), noise=noise)

    assert abs(float(inverse.std()) - STD) < 0.2 * abs(float(ddim.std()) - STD)
