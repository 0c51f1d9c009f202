"""DDIMInverseScheduler: DDIM's steps taken backwards (Song et al. 2021, "Denoising Diffusion Implicit Models", section 5.3).

diffusers' class only turns clean latents into noise. A request needs a clip, so this sampler does one of two things:

- With an init, it inverts the init up to `strength`, then denoises it with the prompt. This edits the clip and keeps its motion
  (Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", section 3.4).
- Without an init, it finds the clip whose inversion is the noise.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.levels import ddim_move, first_step
from promptreel.generation.samplers.sampler import Call, Sampler, Start

# The fixed-point iteration converges only if its correction is smaller than this share of the step.
_CONTRACTING = 0.5


def sample_ddim_inverse(space: ModelSpace, start: Start) -> Sampler:
    """Two calls a step. Returns the clean latents, float32 [1, C, T, h, w]."""
    if start.init is None:
        return (yield from _undo_inversion(space, start))
    return (yield from _edit(space, start, start.init))


def _undo_inversion(space: ModelSpace, start: Start) -> Sampler:
    """For each step, finds the latents that one inversion step would turn into the present ones.

    The equation is implicit. A DDIM step gives a first guess, and one fixed-point iteration improves it. If the iteration does
    not contract, as with strong guidance, the guess is kept.
    """
    down = _trailing_timesteps(space, start.num_inference_steps)
    total = 2 * (len(down) - 1)
    latents = start.noise
    for step in range(len(down) - 1):
        above, below = down[step : step + 2]
        epsilon = yield from _ask_epsilon(space, latents, above, number=2 * step, total=total)
        guess = _move(space, latents, epsilon, above, below)
        epsilon = yield from _ask_epsilon(space, guess, below, number=2 * step + 1, total=total)
        better = _move(space, latents, epsilon, above, below)
        contracts = float((better - guess).norm()) < _CONTRACTING * float((guess - latents).norm())
        latents = better if contracts else guess
    return latents


def _edit(space: ModelSpace, start: Start, init: Tensor) -> Sampler:
    """Inverts the init up to `strength` without guidance, where inversion is most exact; then denoises it with the prompt.

    While inverting, the model gets the timestep at the end of the step, as in diffusers' class. The denoising step begins at
    that timestep, so the two errors cancel better.
    """
    down = _trailing_timesteps(space, start.num_inference_steps)
    down = down[first_step(down[:-1], space, start) :]
    steps = len(down) - 1
    latents = init
    for number in range(steps):
        below, above = down[steps - number], down[steps - number - 1]
        epsilon = yield from _ask_epsilon(space, latents, above, number=number, total=2 * steps, guided=False)
        latents = _move(space, latents, epsilon, below, above)
    for step in range(steps):
        above, below = down[step : step + 2]
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
    """DDIM's timesteps with "trailing" spacing, followed by 0."""
    trained = space.last_timestep + 1
    return [*map(int, np.arange(trained, 0, -trained / steps).round() - 1), 0]
