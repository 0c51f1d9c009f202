"""The stock schedulers against a plain loop over diffusers' own, as its pipelines write it, configured by hand."""

from __future__ import annotations

import itertools
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.stock import stock_samplers
from tests.generation.checkpoints import TABLE
from tests.generation.targets import SPACES, TINY, sample, unit_noise

# What must be said for the result to be right; LMS to DEIS are right by themselves.
BY_HAND: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {"timestep_spacing": "trailing", "clip_sample": False},
    "DDIMScheduler": {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": False},
    "PNDMScheduler": {"timestep_spacing": "trailing", "skip_prk_steps": True},
    "KDPM2AncestralDiscreteScheduler": {"timestep_spacing": "trailing"},
}


def network(latents: Tensor, timestep: Tensor) -> Tensor:
    """Anything smooth that no method solves exactly, so that a different order of operations shows."""
    return torch.sin(1.3 * latents + float(timestep) / 300) + 0.3 * latents


def run_plain_loop(name: str, prediction_type: str, steps: int, *, init: Tensor | None = None, strength: float = 1.0) -> Tensor:
    """Text to video, or video to video with an init, as AnimateDiffPipeline and AnimateDiffVideoToVideoPipeline do it."""
    kind = getattr(diffusers, name)
    scheduler = kind(**TABLE, **BY_HAND.get(name, {}), prediction_type=prediction_type)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(1)
    first = (steps - int(steps * strength)) * scheduler.order
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    noise = unit_noise(TINY)
    latents = noise * scheduler.init_noise_sigma if init is None else scheduler.add_noise(init, noise, timesteps[:1])
    extra = {"generator": generator} if "generator" in kind.step.__code__.co_varnames else {}
    for timestep in timesteps:
        output = network(scheduler.scale_model_input(latents, timestep), timestep)
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
    return latents


def relative_distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", stock_samplers())
def test_latents_are_those_of_diffusers_own_loop(name: str, prediction_type: str) -> None:
    space = ModelSpace(TABLE | {"prediction_type": prediction_type})
    for steps in (9, 20):
        ours, _ = sample(name, space, steps, lambda call: network(call.latents, call.timestep), noise=unit_noise(TINY))
        theirs = run_plain_loop(name, prediction_type, steps)
        if name == "PNDMScheduler" and prediction_type == "v_prediction":
            assert relative_distance(ours, theirs) > 1e-3  # diffusers adds up v there, which is not what PNDM integrates
        else:
            assert relative_distance(ours, theirs) < 2e-6


# Begun in the middle, two are wrong in diffusers: PNDM's second call is at a timestep that it takes for the first one's, and
# LMS takes as high an order as if it had made the steps before.
@pytest.mark.parametrize("name", sorted(set(stock_samplers()) - {"PNDMScheduler", "LMSDiscreteScheduler"}))
def test_latents_with_an_init_are_those_of_diffusers_own_loop(name: str) -> None:
    space, init = ModelSpace(TABLE), unit_noise(TINY, seed=4)
    start = {"init": init, "strength": 0.7}
    ours, _ = sample(name, space, 10, lambda call: network(call.latents, call.timestep), noise=unit_noise(TINY), **start)

    assert relative_distance(ours, run_plain_loop(name, "epsilon", 10, init=init, strength=0.7)) < 2e-6


@pytest.mark.parametrize("name", stock_samplers())
def test_one_run_leaves_nothing_behind_for_the_next(name: str) -> None:
    """Scheduler objects are copied from one that the space keeps."""
    space = ModelSpace(SPACES["epsilon"])
    one, _ = sample(name, space, 9, lambda call: network(call.latents, call.timestep), noise=unit_noise(TINY))
    same, _ = sample(name, space, 9, lambda call: network(call.latents, call.timestep), noise=unit_noise(TINY))

    assert torch.equal(one, same)


@pytest.mark.parametrize("name", stock_samplers())
def test_few_steps_begin_at_pure_noise(name: str) -> None:
    """diffusers' own spacing of some has a single step begin at timestep 0, where it returns the noise."""
    models = [ModelSpace(SPACES[space]) for space in ("epsilon", "linear")]
    for model, steps in itertools.product(models, (1, 2)):
        _, calls = sample(name, model, steps, lambda call: network(call.latents, call.timestep), noise=unit_noise(TINY))

        assert float(calls[0].timestep) == model.last_timestep
