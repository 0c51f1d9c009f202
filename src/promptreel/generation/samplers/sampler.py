"""A sampler: a generator that yields calls, is sent the model's outputs, and returns the clean latents.

    sampler = sample(space, Start(noise, num_inference_steps, generator))
    call = next(sampler)
    while True:
        try:
            call = sampler.send(output)     # the space's own prediction at (call.latents, call.timestep), guided
        except StopIteration as finished:
            latents = finished.value

So the engine runs all schedulers by the same loop, whatever they do between two calls, and can run many at once.
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

    `noise`: float32 [1, C, T, h, w], unit variance. `generator`: the request's own, for all later random numbers. `init`: the
    clean latents of an init clip, scaled as in training, of the noise's shape. `strength`: the noise level to start at, as a
    share (0 to 1) of the trained timesteps; it matters only with an init. At least one step is made. `guided`: whether there is
    guidance, which limits the order of multistep methods to two.
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

        Higher orders extrapolate further from the outputs so far. Guidance multiplies the change of the outputs from step to
        step: at a scale of 7.5, fourth-order Adams-Bashforth ends far from the solution (ADR 10).
        """
        return 2 if self.guided else 4

    @property
    def kept_init(self) -> Tensor | None:
        """The init; None at a strength of 1, which must destroy all of it. Even the highest noise level would keep a trace."""
        return self.init if self.strength < 1 else None


@dataclass(frozen=True)
class Call:
    """The model's next input.

    `latents`: float32 [1, C, T, h, w], scaled as in training. `timestep`: a 0-dim tensor, possibly fractional. `number`: counts
    the calls from 0, and is less than `total`. There may be fewer than `total` calls in the end. `guided`: False for a call
    with the prompt alone, at guidance 1.
    """

    latents: Tensor
    timestep: Tensor
    number: int
    total: int
    guided: bool = True


Sampler = Generator[Call, Tensor, Tensor]
Sample = Callable[[ModelSpace, Start], Sampler]
