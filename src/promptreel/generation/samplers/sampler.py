"""What a sampler is: a generator that asks for model outputs and returns the clean latents.

    sampler = sample(space, Start(noise, num_inference_steps, generator))
    call = next(sampler)
    while True:
        try:
            call = sampler.send(output)     # the space's own prediction at (call.latents, call.timestep), guided
        except StopIteration as finished:
            latents = finished.value

The engine so drives every scheduler in the same way, whatever it does between two calls, and may hold many at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from promptreel.generation.model_space import ModelSpace


@dataclass(frozen=True)
class Start:
    """What a sampler begins with.

    `noise` float32 [1, C, T, h, w], unit variance; `generator` the request's own, for all later randomness. `init` are the
    clean latents of an init clip, scaled as in training, of the same shape. `strength`, 0 to 1, is the noise level to start at,
    as a share of the trained timesteps, and only matters with an init. At least one step is made, always. `guided` says whether
    guidance is at work: methods of a higher order than the second then fall back to it.
    """

    noise: Tensor
    num_inference_steps: int
    generator: torch.Generator
    init: Tensor | None = None
    strength: float = 1.0
    guided: bool = False

    @property
    def highest_order(self) -> int:
        """Of a multistep method. Each order extrapolates further from the outputs so far, and guidance multiplies how much they
        change from step to step: at scale 7.5, the fourth order of Adams and Bashforth ends far from the solution (ADR 10).
        """
        return 2 if self.guided else 4

    @property
    def kept_init(self) -> Tensor | None:
        """The init, unless a strength of 1 asks for all of it to be destroyed: even pure noise levels keep a trace of it."""
        return self.init if self.strength < 1 else None


@dataclass(frozen=True)
class Call:
    """What the network must see next.

    `latents` float32 [1, C, T, h, w], scaled as in training; `timestep` a 0-dim tensor, maybe fractional; `number` counts the
    calls from 0 and stays below `total`, which may be more than it takes in the end. Without `guided` the call is for the
    prompt alone, at guidance 1.
    """

    latents: Tensor
    timestep: Tensor
    number: int
    total: int
    guided: bool = True


Sampler = Generator[Call, Tensor, Tensor]
Sample = Callable[[ModelSpace, Start], Sampler]
