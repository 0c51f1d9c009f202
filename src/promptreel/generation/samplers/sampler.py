"""A sampler is a generator that asks for model outputs and returns the clean latents.

    sampler = sample(space, Start(noise, num_inference_steps, generator))
    call = next(sampler)
    while True:
        try:
            call = sampler.send(output)     # at (call.latents, call.timestep), of space.prediction_type, guided
        except StopIteration as finished:
            latents = finished.value

So the engine runs every scheduler in the same way, and many at once.
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

    `noise`: float32 [1, C, T, h, w], of unit variance. `generator`: the request's own, for all later randomness. `init`: clean
    latents of the same shape, scaled as in training. `strength`, 0 to 1: the first timestep as a share of the trained ones;
    used only with an init. At least one step is made. `guided`: whether the request uses guidance, which limits
    `highest_order`.
    """

    noise: Tensor
    num_inference_steps: int
    generator: torch.Generator
    init: Tensor | None = None
    strength: float = 1.0
    guided: bool = False

    @property
    def highest_order(self) -> int:
        """The highest order that a multistep method may use.

        Higher orders extrapolate further, and guidance multiplies the changes between outputs. At scale 7.5, fourth-order
        Adams-Bashforth ends far from the solution (ADR 10).
        """
        return 2 if self.guided else 4

    @property
    def kept_init(self) -> Tensor | None:
        """The init, unless strength is 1. An init must then leave no trace, and even the noisiest level keeps one."""
        return self.init if self.strength < 1 else None


@dataclass(frozen=True)
class Call:
    """The model's next input.

    `latents`: float32 [1, C, T, h, w], scaled as in training. `timestep`: 0-dim, possibly fractional. `number`: counts calls
    from 0. `total`: an upper bound of the number of calls. `guided`: if False, the call is for the prompt alone, at guidance 1.
    """

    latents: Tensor
    timestep: Tensor
    number: int
    total: int
    guided: bool = True


Sampler = Generator[Call, Tensor, Tensor]
Sample = Callable[[ModelSpace, Start], Sampler]
