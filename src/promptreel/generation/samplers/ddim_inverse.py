"""DDIMInverseScheduler: DDIM's steps taken backwards (Song et al. 2021, "Denoising Diffusion Implicit Models", section 5.3).

diffusers' class only turns clean latents into noise. What a request for a video can mean by it is one of two things. With an
init clip: the clip is inverted up to `strength` and comes down again under the prompt, which edits it and keeps its motion
(Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", section 3.4). Without one: the map that the
inversion would undo, which leads from noise to a clip.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.levels import ddim_move, first_step
from promptreel.generation.samplers.sampler import Call, Sampler, Start

# A correction must be smaller than this share of the step that it corrects, or the iteration does not converge.
_CONTRACTING = 0.5


def sample_ddim_inverse(space: ModelSpace, start: Start) -> Sampler:
    """Two calls a step. Returns the clean latents, float32 [1, C, T, h, w]."""
    if start.init is None:
        return (yield from _undo_inversion(space, start))
    return (yield from _edit(space, start, start.init))


def _undo_inversion(space: ModelSpace, start: Start) -> Sampler:
    """Solves, step by step, for the latents that one step of inversion would turn into the ones at hand.

    The equation is implicit. Its solution is guessed with a DDIM step and improved with one fixed-point iteration; where that
    does not contract, as with a strong guidance, the guess stands.
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
    """Up to `strength` at guidance 1, where the inversion is closest to exact, and down again under the prompt.

    On the way up the network is told the timestep to which the step leads, as diffusers' class does: that undoes more of the
    error of the step down, which looks from there.
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
    """As DDIM's own, from the last trained one down, and 0 at the end."""
    trained = space.last_timestep + 1
    return [*map(int, np.arange(trained, 0, -trained / steps).round() - 1), 0]
