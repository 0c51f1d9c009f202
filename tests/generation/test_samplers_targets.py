"""Every sampler against two targets whose exact answer is known: a Gaussian, and a mixture of two, for each latent on its own.

The network of each is E[clean | latents], in closed form, so that what is left is the sampler's own error. A wrong noise table,
a clipped sample or a wrong timestep is off by far more than the margin. The mean error of about -0.034 that the deterministic
ones share on Stable Diffusion's table is the table's: its last noise level still holds signal. DDPM's table has next to none.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call
from promptreel.jobs.params import SCHEDULERS
from tests.generation.targets import SPACES, error_of, exact_network, sample, unit_noise

SHAPE = (1, 4, 8, 32, 36)  # 36,864 elements: chance alone moves the mean by 0.005 standard deviations
MARGIN = 0.014

# Error of the mean and of the standard deviation, in standard deviations of the target: at 20 steps, at 50 steps.
Figures = dict[str, tuple[float, float, float, float]]
STABLE_DIFFUSION: Figures = {
    "DDPMScheduler": (-0.003, -0.185, -0.002, -0.099),
    "DDIMScheduler": (-0.031, -0.109, -0.033, -0.046),
    "PNDMScheduler": (-0.034, -0.021, -0.034, -0.004),
    "LMSDiscreteScheduler": (-0.034, +0.001, -0.034, 0.000),
    "EulerDiscreteScheduler": (-0.030, -0.120, -0.032, -0.053),
    "EulerAncestralDiscreteScheduler": (-0.003, -0.190, -0.002, -0.099),
    "DPMSolverMultistepScheduler": (-0.031, -0.084, -0.033, -0.031),
    "HeunDiscreteScheduler": (-0.035, +0.009, -0.034, 0.000),
    "KDPM2DiscreteScheduler": (-0.036, +0.039, -0.035, +0.008),
    "DPMSolverSinglestepScheduler": (-0.031, -0.107, -0.033, -0.042),
    "KDPM2AncestralDiscreteScheduler": (-0.006, -0.063, -0.001, -0.032),
    "UniPCMultistepScheduler": (-0.031, -0.083, -0.033, -0.032),
    "DDIMInverseScheduler": (-0.035, 0.000, -0.035, +0.014),
    "DEISMultistepScheduler": (-0.036, +0.033, -0.035, +0.017),
    "IPNDMScheduler": (-0.033, -0.040, -0.034, -0.016),
    "KarrasVeScheduler": (-0.011, +0.016, -0.001, +0.001),
    "ScoreSdeVeScheduler": (0.000, -0.057, +0.001, -0.003),
    "LCMScheduler": (-0.002, -0.009, -0.002, +0.001),
}
LINEAR: Figures = {
    "DDPMScheduler": (-0.002, -0.218, -0.001, -0.112),
    "DDIMScheduler": (-0.003, -0.131, -0.003, -0.054),
    "PNDMScheduler": (-0.003, +0.002, -0.003, 0.000),
    "LMSDiscreteScheduler": (-0.003, -0.005, -0.003, 0.000),
    "EulerDiscreteScheduler": (-0.003, -0.139, -0.003, -0.056),
    "EulerAncestralDiscreteScheduler": (-0.002, -0.226, 0.000, -0.114),
    "DPMSolverMultistepScheduler": (-0.003, -0.046, -0.003, 0.000),
    "HeunDiscreteScheduler": (-0.003, +0.020, -0.003, +0.003),
    "KDPM2DiscreteScheduler": (-0.003, +0.049, -0.003, +0.008),
    "DPMSolverSinglestepScheduler": (-0.003, -0.102, -0.003, -0.026),
    "KDPM2AncestralDiscreteScheduler": (-0.006, +0.005, 0.000, +0.002),
    "UniPCMultistepScheduler": (-0.003, -0.043, -0.003, -0.004),
    "DDIMInverseScheduler": (-0.003, -0.005, -0.003, +0.029),
    "DEISMultistepScheduler": (-0.003, +0.035, -0.003, +0.012),
    "IPNDMScheduler": (-0.003, -0.002, -0.003, -0.002),
    "KarrasVeScheduler": (-0.003, +0.040, 0.000, +0.007),
    "ScoreSdeVeScheduler": (0.000, -0.077, +0.002, -0.007),
    "LCMScheduler": (-0.001, -0.009, -0.001, +0.004),
}
FIGURES = {"epsilon": STABLE_DIFFUSION, "v": STABLE_DIFFUSION, "linear": LINEAR}

# Wasserstein-1 distance to the mixture, in its standard deviations: at 20 steps, at 50 steps.
DISTANCES = {
    "DDPMScheduler": (0.088, 0.040),
    "DDIMScheduler": (0.039, 0.022),
    "PNDMScheduler": (0.025, 0.018),
    "LMSDiscreteScheduler": (0.020, 0.017),
    "EulerDiscreteScheduler": (0.044, 0.024),
    "EulerAncestralDiscreteScheduler": (0.089, 0.040),
    "DPMSolverMultistepScheduler": (0.061, 0.032),
    "HeunDiscreteScheduler": (0.019, 0.016),
    "KDPM2DiscreteScheduler": (0.031, 0.018),
    "DPMSolverSinglestepScheduler": (0.056, 0.033),
    "KDPM2AncestralDiscreteScheduler": (0.058, 0.024),
    "UniPCMultistepScheduler": (0.061, 0.031),
    "DDIMInverseScheduler": (0.047, 0.020),
    "DEISMultistepScheduler": (0.026, 0.019),
    "IPNDMScheduler": (0.037, 0.022),
    "KarrasVeScheduler": (0.014, 0.012),
    "ScoreSdeVeScheduler": (0.053, 0.015),
    "LCMScheduler": (0.021, 0.007),
}
WEIGHTS, MODES, WIDTHS = torch.tensor([0.3, 0.7]), torch.tensor([-1.0, 0.8]), torch.tensor([0.2, 0.3])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_error_on_a_gaussian_is_the_methods_own(name: str) -> None:
    for space, figures in FIGURES.items():
        model = ModelSpace(SPACES[space])
        for steps, expected in ((20, figures[name][:2]), (50, figures[name][2:])):
            latents, _ = sample(name, model, steps, exact_network(model), noise=unit_noise(SHAPE))

            assert error_of(latents) == pytest.approx(expected, abs=MARGIN), (space, steps)


def two_modes(latents: Tensor, sigma: float) -> Tensor:
    """Each mode's own answer, weighted by how likely the latents are to be of it."""
    variances, distances = WIDTHS**2 + sigma**2, latents[..., None] - MODES
    chances = (WEIGHTS.log() - variances.log() / 2 - distances**2 / (2 * variances)).softmax(-1)
    return (chances * (MODES + WIDTHS**2 / variances * distances)).sum(-1)


def distance_to_two_modes(latents: Tensor) -> float:
    """Between the sorted latents and the mixture's own quantiles, which are read off its distribution function."""
    grid = torch.linspace(-3, 3, 20001, dtype=torch.float64)
    shares = (WEIGHTS * torch.special.ndtr((grid[:, None] - MODES) / WIDTHS)).sum(-1)
    ranks = (torch.arange(latents.numel(), dtype=torch.float64) + 0.5) / latents.numel()
    quantiles = grid[torch.searchsorted(shares, ranks).clamp(max=len(grid) - 1)]
    return float((latents.flatten().double().sort().values - quantiles).abs().mean() / quantiles.std())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_distance_to_a_target_of_two_modes_is_the_methods_own(name: str) -> None:
    space = ModelSpace(SPACES["epsilon"])
    for steps, expected in zip((20, 50), DISTANCES[name], strict=True):
        latents, _ = sample(name, space, steps, exact_network(space, two_modes), noise=unit_noise((1, 4, 8, 24, 24)))

        assert distance_to_two_modes(latents) < expected + 0.008


@pytest.mark.parametrize("space", ["epsilon", "v", "linear"])
def test_guidance_does_not_throw_a_multistep_method_off(space: str) -> None:
    """Two modes, guided away from a wide target: at their fourth order, all three end far from the solution."""
    model = ModelSpace(SPACES[space])
    prompt = exact_network(model, two_modes)
    nothing = exact_network(model, lambda latents, sigma: latents / (1 + sigma**2))
    noise = unit_noise((1, 4, 8, 12, 12))

    def guided(call: Call) -> Tensor:
        return nothing(call) + 7.5 * (prompt(call) - nothing(call))

    solution, _ = sample("HeunDiscreteScheduler", model, 400, guided, noise=noise, guided=True)

    def distance(name: str, *, falls_back: bool) -> float:
        latents, _ = sample(name, model, 20, guided, noise=noise, guided=falls_back)
        return float((latents - solution).norm() / solution.norm())

    for name in ("PNDMScheduler", "LMSDiscreteScheduler", "IPNDMScheduler"):
        assert distance(name, falls_back=True) < 0.7, name
        assert distance(name, falls_back=False) > 1.5, name
