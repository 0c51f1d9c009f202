"""Every sampler against two targets with a known exact answer: a Gaussian, and a mixture of two. All latents are independent.

The model is E[clean | latents] in closed form, so every error is the sampler's own. A wrong noise table, a clipped sample or a
wrong timestep exceeds the margin by far. On Stable Diffusion's table all deterministic samplers have a mean error of about
-0.034, because its last noise level still holds signal. DDPM's table has almost none.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call
from promptreel.jobs.params import SCHEDULERS
from tests.generation.targets import SPACES, error_of, exact_model, sample, unit_noise

SHAPE = (1, 4, 8, 32, 36)  # 36,864 elements: the mean's standard error is 0.005 standard deviations
MARGIN = 0.014

# Errors of mean and deviation at 20 steps, then at 50, in standard deviations of the target.
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

# Wasserstein-1 distance to the mixture at 20 steps and at 50, in its standard deviations.
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
def test_error_on_a_gaussian_is_as_expected(name: str) -> None:
    for kind, figures in FIGURES.items():
        space = ModelSpace(SPACES[kind])
        for steps, expected in ((20, figures[name][:2]), (50, figures[name][2:])):
            latents, _ = sample(name, space, steps, exact_model(space), noise=unit_noise(SHAPE))

            assert error_of(latents) == pytest.approx(expected, abs=MARGIN), (kind, steps)


def two_modes(latents: Tensor, sigma: float) -> Tensor:
    """Each mode's own answer, weighted by the probability that the latents come from it."""
    variances, distances = WIDTHS**2 + sigma**2, latents[..., None] - MODES
    chances = (WEIGHTS.log() - variances.log() / 2 - distances**2 / (2 * variances)).softmax(-1)
    return (chances * (MODES + WIDTHS**2 / variances * distances)).sum(-1)


def distance_to_two_modes(latents: Tensor) -> float:
    """Wasserstein-1 distance: from the sorted latents to the quantiles of the mixture."""
    grid = torch.linspace(-3, 3, 20001, dtype=torch.float64)
    shares = (WEIGHTS * torch.special.ndtr((grid[:, None] - MODES) / WIDTHS)).sum(-1)
    ranks = (torch.arange(latents.numel(), dtype=torch.float64) + 0.5) / latents.numel()
    quantiles = grid[torch.searchsorted(shares, ranks).clamp(max=len(grid) - 1)]
    return float((latents.flatten().double().sort().values - quantiles).abs().mean() / quantiles.std())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_distance_to_two_modes_is_as_expected(name: str) -> None:
    space = ModelSpace(SPACES["epsilon"])
    for steps, expected in zip((20, 50), DISTANCES[name], strict=True):
        latents, _ = sample(name, space, steps, exact_model(space, two_modes), noise=unit_noise((1, 4, 8, 24, 24)))

        assert distance_to_two_modes(latents) < expected + 0.008


@pytest.mark.parametrize("kind", ["epsilon", "v", "linear"])
def test_multistep_method_is_stable_with_guidance(kind: str) -> None:
    """Two modes, guided away from a wide Gaussian. At fourth order, all three methods end far from the solution."""
    space = ModelSpace(SPACES[kind])
    prompt = exact_model(space, two_modes)
    nothing = exact_model(space, lambda latents, sigma: latents / (1 + sigma**2))
    noise = unit_noise((1, 4, 8, 12, 12))

    def guided(call: Call) -> Tensor:
        return nothing(call) + 7.5 * (prompt(call) - nothing(call))

    solution, _ = sample("HeunDiscreteScheduler", space, 400, guided, noise=noise, guided=True)

    def distance(name: str, *, falls_back: bool) -> float:
        latents, _ = sample(name, space, 20, guided, noise=noise, guided=falls_back)
        return float((latents - solution).norm() / solution.norm())

    for name in ("PNDMScheduler", "LMSDiscreteScheduler", "IPNDMScheduler"):
        assert distance(name, falls_back=True) < 0.7, name
        assert distance(name, falls_back=False) > 1.5, name
