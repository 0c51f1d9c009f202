"""ModelSpace: reading a checkpoint's scheduler configuration, and converting between noise levels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from promptreel.generation.model_space import ModelSpace, vp_scales
from tests.generation.checkpoints import TABLE
from tests.generation.targets import SPACES, TINY, unit_noise


@pytest.mark.parametrize("kind", SPACES)
def test_noise_levels_rise_with_the_timestep_to_almost_pure_noise(kind: str) -> None:
    space = ModelSpace(SPACES[kind])

    assert len(space.sigmas) == 1000
    assert (space.sigmas.diff() > 0).all()
    assert torch.isfinite(space.sigmas).all()
    assert float(space.sigmas[-1]) > 14


@pytest.mark.parametrize("kind", SPACES)
def test_timestep_at_inverts_sigma_at(kind: str) -> None:
    space = ModelSpace(SPACES[kind])
    for timestep in (0, 0.25, 7, 498.5, 998, 999):
        assert float(space.timestep_at(space.sigma_at(timestep))) == pytest.approx(timestep, abs=1e-3)


def test_sigma_outside_the_table_gives_its_first_or_last_timestep() -> None:
    space = ModelSpace(TABLE)

    assert float(space.timestep_at(1e6)) == 999
    assert float(space.timestep_at(1e-6)) == 0


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("sigma", [0.05, 1.0, 14.0])
def test_exact_output_gives_back_the_noise_and_the_clean_latents(kind: str, sigma: float) -> None:
    space = ModelSpace(SPACES[kind])
    clean, epsilon = unit_noise(TINY, seed=1), unit_noise(TINY, seed=2)
    signal, noise = vp_scales(sigma)
    latents = signal * clean + noise * epsilon
    output = epsilon if space.prediction_type == "epsilon" else signal * epsilon - noise * clean

    assert torch.allclose(space.epsilon(output, latents, sigma), epsilon, atol=1e-6)
    assert torch.allclose(space.clean(output, latents, sigma), clean, atol=1e-5)


@pytest.mark.parametrize("timestep", [0.0, 12.5, 500.0, 999.0])
def test_flow_model_sees_flow_latents_and_its_output_becomes_v(timestep: float) -> None:
    space = ModelSpace(SPACES["flow"])
    clean, epsilon = unit_noise(TINY, seed=1), unit_noise(TINY, seed=2)
    signal, noise = vp_scales(space.sigma_at(timestep))
    latents = signal * clean + noise * epsilon
    seen, shown = space.to_model(latents, torch.tensor(timestep))
    time = float(shown) / 1000

    assert torch.allclose(seen, (1 - time) * clean + time * epsilon, atol=1e-5)
    v = space.from_model(epsilon - clean, latents, torch.tensor(timestep))
    assert torch.allclose(v, signal * epsilon - noise * clean, atol=1e-5)


def test_flow_times_are_shifted_as_configured() -> None:
    """A shift of 3 turns training time 0.5 into 3 * 0.5 / (1 + 2 * 0.5)."""
    _, timestep = ModelSpace(SPACES["flow"]).to_model(torch.zeros(TINY), torch.tensor(499))

    assert float(timestep) == pytest.approx(750, abs=1e-3)


def test_other_models_see_the_latents_unchanged() -> None:
    space, latents, timestep = ModelSpace(TABLE), unit_noise(TINY), torch.tensor(7)

    assert space.to_model(latents, timestep) == (latents, timestep)
    assert space.from_model(latents, latents, timestep) is latents


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 5.0},
        {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 5.0},
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 5.0},
    ],
)
def test_flow_models_are_recognized_by_their_configuration(config: dict[str, Any]) -> None:
    space = ModelSpace(config)

    assert space.is_flow
    assert space.prediction_type == "v_prediction"
    assert space.sigma_at(499) == pytest.approx(5)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (TABLE | {"prediction_type": "sample"}, "neither 'epsilon' nor 'v_prediction'"),
        (SPACES["flow"] | {"use_dynamic_shifting": True}, "use_dynamic_shifting is not supported"),
        (SPACES["flow"] | {"invert_sigmas": True}, "invert_sigmas is not supported"),
    ],
)
def test_configuration_that_no_sampler_supports_is_refused(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ModelSpace(config)


def test_sampling_options_of_a_checkpoint_are_ignored() -> None:
    """A checkpoint with clip_sample, DDIM's default, must not clip latents."""
    space = ModelSpace(TABLE | {"clip_sample": True, "timestep_spacing": "leading", "steps_offset": 1})
    scheduler = space.scheduler("DDIMScheduler", timestep_spacing="trailing")

    assert scheduler.config.clip_sample is False
    assert scheduler.config.timestep_spacing == "trailing"
    assert scheduler.config.steps_offset == 0
