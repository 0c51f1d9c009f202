"""DDIMInverse: up and down again with an init clip, the map that inversion undoes without one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call
from tests.generation.targets import MEAN, SPACES, STD, TINY, exact_network, sample, unit_noise

NAME = "DDIMInverseScheduler"
SHAPE = (1, 4, 4, 16, 16)
INIT = MEAN + STD * unit_noise(SHAPE, seed=7)


@pytest.mark.parametrize(("steps", "most"), [(20, 0.10), (50, 0.045)])
def test_clip_comes_back_under_the_same_prompt(steps: int, most: float) -> None:
    space = ModelSpace(SPACES["epsilon"])
    latents, calls = sample(NAME, space, steps, exact_network(space), noise=unit_noise(SHAPE), init=INIT, strength=1.0)

    assert float((latents - INIT).norm() / INIT.norm()) < most
    top = next(call for call in calls if call.guided)
    assert float(top.latents.std()) == pytest.approx(1, abs=0.03)  # inverted all the way to noise
    assert int(top.timestep) == space.last_timestep


def test_noise_of_the_request_does_not_matter_with_a_clip() -> None:
    space = ModelSpace(SPACES["v"])
    one, other = (
        sample(NAME, space, 5, exact_network(space), noise=unit_noise(SHAPE, seed=seed), init=INIT, strength=0.6)[0]
        for seed in (1, 2)
    )

    assert torch.equal(one, other)


def test_clip_moves_to_another_prompt_and_keeps_its_details() -> None:
    """The prompt's target is 0.4 brighter; the clip was inverted under its own."""
    space = ModelSpace(SPACES["linear"])
    own = exact_network(space)
    prompted = exact_network(space, lambda latents, sigma: 0.4 + MEAN + STD**2 / (STD**2 + sigma**2) * (latents - 0.4 - MEAN))

    def network(call: Call) -> Tensor:
        return prompted(call) if call.guided else own(call)

    latents, _ = sample(NAME, space, 50, network, noise=unit_noise(SHAPE), init=INIT, strength=0.8)

    assert float((latents - INIT).mean()) == pytest.approx(0.4, abs=0.05)
    details = torch.stack([(latents - latents.mean()).flatten(), (INIT - INIT.mean()).flatten()])
    assert float(torch.corrcoef(details)[0, 1]) > 0.999


def test_map_without_a_clip_falls_back_to_ddim_where_it_does_not_contract() -> None:
    """A network so steep that every correction overshoots, as a strong guidance may be: what is left is DDIM's own step."""
    space, noise = ModelSpace(SPACES["epsilon"]), unit_noise(TINY)

    def steep(call: Call) -> Tensor:
        return 10 * call.latents

    inverse, _ = sample(NAME, space, 20, steep, noise=noise)
    ddim, _ = sample("DDIMScheduler", space, 20, steep, noise=noise)

    assert float((inverse - ddim).norm() / ddim.norm()) < 1e-3


def test_map_without_a_clip_is_better_than_ddim_where_it_contracts() -> None:
    space, noise = ModelSpace(SPACES["linear"]), unit_noise(SHAPE)
    inverse, _ = sample(NAME, space, 20, exact_network(space), noise=noise)
    ddim, _ = sample("DDIMScheduler", space, 20, exact_network(space), noise=noise)

    assert abs(float(inverse.std()) - STD) < 0.2 * abs(float(ddim.std()) - STD)
