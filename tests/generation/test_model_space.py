"""ModelSpace: what is read from a checkpoint's scheduler configuration, and the arithmetic between noise levels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from promptreel.generation.model_space import ModelSpace, vp_scales
from tests.generation.checkpoints import TABLE
from tests.generation.targets import SPACES, TINY, unit_noise


@pytest.mark.parametrize("space", SPACES)
def test_noise_levels_rise_with_the_timestep_to_next_to_pure_noise(space: str) -> None:
    model = ModelSpace(SPACES[space])

    assert len(model.sigmas) == 1000
    assert (model.sigmas.diff() > 0).all()
    assert torch.isfinite(model.sigmas).all()
    assert float(model.sigmas[-1]) > 14


@pytest.mark.parametrize("space", SPACES)
def test_timestep_of_a_sigma_is_the_way_back(space: str) -> None:
    model = ModelSpace(SPACES[space])
    for timestep in (0, 0.25, 7, 498.5, 998, 999):
        assert float(model.timestep_at(model.sigma_at(timestep))) == pytest.approx(timestep, abs=1e-3)


def test_sigma_outside_the_table_is_asked_at_its_ends() -> None:
    model = ModelSpace(TABLE)

    assert float(model.timestep_at(1e6)) == 999
    assert float(model.timestep_at(1e-6)) == 0


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("sigma", [0.05, 1.0, 14.0])
def test_prediction_gives_back_the_noise_and_the_clean_latents(space: str, sigma: float) -> None:
    model = ModelSpace(SPACES[space])
    clean, epsilon = unit_noise(TINY, seed=1), unit_noise(TINY, seed=2)
    signal, noise = vp_scales(sigma)
    latents = signal * clean + noise * epsilon
    output = epsilon if model.prediction_type == "epsilon" else signal * epsilon - noise * clean

    assert torch.allclose(model.epsilon(output, latents, sigma), epsilon, atol=1e-6)
    assert torch.allclose(model.clean(output, latents, sigma), clean, atol=1e-5)


@pytest.mark.parametrize("timestep", [0.0, 12.5, 500.0, 999.0])
def test_flow_network_sees_and_predicts_what_it_was_trained_on(timestep: float) -> None:
    model = ModelSpace(SPACES["flow"])
    clean, epsilon = unit_noise(TINY, seed=1), unit_noise(TINY, seed=2)
    signal, noise = vp_scales(model.sigma_at(timestep))
    latents = signal * clean + noise * epsilon
    seen, shown = model.to_model(latents, torch.tensor(timestep))
    time = float(shown) / 1000

    assert torch.allclose(seen, (1 - time) * clean + time * epsilon, atol=1e-5)
    v = model.from_model(epsilon - clean, latents, torch.tensor(timestep))
    assert torch.allclose(v, signal * epsilon - noise * clean, atol=1e-5)


def test_flow_times_are_shifted_as_configured() -> None:
    """Time 0.5 of training becomes 3 * 0.5 / (1 + 2 * 0.5) with a shift of 3."""
    _, timestep = ModelSpace(SPACES["flow"]).to_model(torch.zeros(TINY), torch.tensor(499))

    assert float(timestep) == pytest.approx(750, abs=1e-3)


def test_other_networks_see_the_latents_as_they_are() -> None:
    model, latents, timestep = ModelSpace(TABLE), unit_noise(TINY), torch.tensor(7)

    assert model.to_model(latents, timestep) == (latents, timestep)
    assert model.from_model(latents, latents, timestep) is latents


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 5.0},
        {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 5.0},
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 5.0},
    ],
)
def test_flow_models_are_known_by_their_configuration(config: dict[str, Any]) -> None:
    model = ModelSpace(config)

    assert model.is_flow
    assert model.prediction_type == "v_prediction"
    assert model.sigma_at(499) == pytest.approx(5)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (TABLE | {"prediction_type": "sample"}, "neither 'epsilon' nor 'v_prediction'"),
        (SPACES["flow"] | {"use_dynamic_shifting": True}, "use_dynamic_shifting is not supported"),
        (SPACES["flow"] | {"invert_sigmas": True}, "invert_sigmas is not supported"),
    ],
)
def test_configuration_that_no_sampler_can_follow_is_refused(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ModelSpace(config)


def test_checkpoints_choices_of_sampling_are_left_out() -> None:
    """A checkpoint that says clip_sample, as DDIM's default does, must not clip our latents."""
    space = ModelSpace(TABLE | {"clip_sample": True, "timestep_spacing": "leading", "steps_offset": 1})
    scheduler = space.scheduler("DDIMScheduler", timestep_spacing="trailing")

    assert scheduler.config.clip_sample is False
    assert scheduler.config.timestep_spacing == "trailing"
    assert scheduler.config.steps_offset == 0
