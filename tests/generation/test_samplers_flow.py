"""Flow models: every sampler on a tiny Wan transformer, through ModelSpace's conversions."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call
from promptreel.jobs.params import SCHEDULERS
from tests.generation.targets import SPACES, STOCHASTIC, TINY, Predict, sample, unit_noise

Velocity = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def velocity() -> Velocity:
    """What a tiny Wan transformer with random weights predicts at latents and a timestep up to 1000."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    ).eval()
    text = torch.randn(1, 8, 16)

    @torch.inference_mode()
    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        output: Tensor = transformer(latents, timestep.reshape(1), text, return_dict=False)[0]
        return output

    return predict


@pytest.fixture(scope="module")
def fine_solution(velocity: Velocity) -> Tensor:
    """400 steps of diffusers' own scheduler for flow models."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(400)
    latents = unit_noise(TINY)
    for timestep in scheduler.timesteps:
        latents = scheduler.step(velocity(latents, timestep), timestep, latents).prev_sample
    return latents


def converted(space: ModelSpace, velocity: Velocity) -> Predict:
    def predict(call: Call) -> Tensor:
        output = velocity(*space.to_model(call.latents, call.timestep))
        return space.from_model(output, call.latents, call.timestep)

    return predict


@pytest.mark.parametrize("name", SCHEDULERS)
def test_flow_model_is_sampled_by_every_scheduler(name: str, velocity: Velocity, fine_solution: Tensor) -> None:
    space = ModelSpace(SPACES["flow"])
    latents, _ = sample(name, space, 50, converted(space, velocity), noise=unit_noise(TINY))

    assert torch.isfinite(latents).all()
    # The transformer changes the noise by over half of its norm, and a stochastic sampler by over all of it.
    distance = float((latents - fine_solution).norm() / fine_solution.norm())
    assert distance > 0.5 if name in STOCHASTIC else distance < 0.02


def test_steps_from_a_sigma_in_the_thousands_are_precise(velocity: Velocity) -> None:
    """Heun's method (Karras et al. 2022, algorithm 1) in float64, at the sampler's own timesteps."""
    space = ModelSpace(SPACES["flow"])
    predict = converted(space, velocity)
    latents, calls = sample("HeunDiscreteScheduler", space, 4, predict, noise=unit_noise(TINY))
    timesteps = [call.timestep for call in (calls[0], *calls[1::2])]
    sigmas = [*map(space.sigma_at, timesteps), 0.0]

    def slope(noisy: Tensor, number: int) -> Tensor:
        seen = noisy / math.hypot(1, sigmas[number])
        output = predict(Call(seen.float(), timesteps[number], number, len(calls)))
        return space.epsilon(output.double(), seen, sigmas[number])

    noisy = unit_noise(TINY).double() * sigmas[0]
    for number, (sigma, following) in enumerate(pairwise(sigmas)):
        first = slope(noisy, number)
        ahead = noisy + first * (following - sigma)
        if following > 0:
            ahead = noisy + (first + slope(ahead, number + 1)) / 2 * (following - sigma)
        noisy = ahead

    assert sigmas[0] > 1000
    assert float((latents - noisy).norm() / noisy.norm()) < 1e-4  # in float32, it was 3e-3
