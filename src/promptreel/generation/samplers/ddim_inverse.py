"""DDIMInverseScheduler: DDIM's steps taken backwards (Song et al. 2021, "Denoising Diffusion Implicit Models", section 5.3).

diffusers' class only turns clean latents into noise. A request for a video gets one of these:

- With an init, the init is inverted up to `strength`, then denoised under the prompt. This edits a clip and keeps its motion
  (Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", section 3.4).
- Without one, noise is denoised by steps that the inversion would undo.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.levels import ddim_move, first_step
from promptreel.generation.samplers.sampler import Call, Sampler, Start

# A correction above this share of its step counts as divergence.
_MOST_CORRECTION = 0.5


def sample_ddim_inverse(space: ModelSpace, start: Start) -> Sampler:
    """Two calls a step. Returns the clean latents, float32 [1, C, T, h, w]."""
    if start.init is None:
        return (yield from _undo_inversion(space, start))
    return (yield from _edit(space, start, start.init))


def _undo_inversion(space: ModelSpace, start: Start) -> Sampler:
    """Each step finds the latents that one inversion step would turn into the current ones.

    The equation is implicit. A DDIM step guesses its solution, and one fixed-point iteration improves the guess. If the
    iteration does not contract, as under strong guidance, the guess stays.
    """
    timesteps = _trailing_timesteps(space, start.num_inference_steps)
    total = 2 * (len(timesteps) - 1)
    latents = start.noise
    for step in range(len(timesteps) - 1):
        above, below = timesteps[step : step + 2]
        epsilon = yield from _ask_epsilon(space, latents, above, number=2 * step, total=total)
        guess = _move(space, latents, epsilon, above, below)
        epsilon = yield from _ask_epsilon(space, guess, below, number=2 * step + 1, total=total)
        better = _move(space, latents, epsilon, above, below)
        contracts = float((better - guess).norm()) < _MOST_CORRECTION * float((guess - latents).norm())
        latents = better if contracts else guess
    return latents


def _edit(space: ModelSpace, start: Start, init: Tensor) -> Sampler:
    """Inverts `init` up to `strength` at guidance 1, where inversion is most exact. Then denoises under the prompt.

    A step up calls the model at the timestep where the step ends, as diffusers' class does. The same step down calls it at that
    timestep too, so more of their errors cancel.
    """
    timesteps = _trailing_timesteps(space, start.num_inference_steps)
    timesteps = timesteps[first_step(timesteps[:-1], space, start) :]
    steps = len(timesteps) - 1
    latents = init
    for number in range(steps):
        below, above = timesteps[steps - number], timesteps[steps - number - 1]
        epsilon = yield from _ask_epsilon(space, latents, above, number=number, total=2 * steps, guided=False)
        latents = _move(space, latents, epsilon, below, above)
    for step in range(steps):
        above, below = timesteps[step : step + 2]
        epsilon = yield from _ask_epsilon(space, latents, above, number=steps + step, total=2 * steps)
        latents = _move(space, latents, epsilon, above, below)
    return latents


def _ask_epsilon(
    space: ModelSpace, latents: Tensor, timestep: int, *, number: int, total: int, guided: bool = True
) -> Generator[Call, Tensor, Tensor]:
    output = yield Call(latents, torch.tensor(timestep), number, total, guided)
    return space.epsilon(output, latents, space.sigma_at(timestep))


def _move(space: ModelSpace, latents: Tensor, epsilon: Tensor, timestep: int, following: int) -> Tensor:
    return ddim_move(latents, epsilon, space.sigma_at(timestep), space.sigma_at(following))


def _trailing_timesteps(space: ModelSpace, steps: int) -> list[int]:
    """diffusers' "trailing" timesteps, falling from the last trained one, then 0."""
    trained = space.last_timestep + 1
    return [*map(int, np.arange(trained, 0, -trained / steps).round() - 1), 0]
