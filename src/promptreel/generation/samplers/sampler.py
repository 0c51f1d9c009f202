"""What a sampler is: a generator that asks for model outputs and returns the clean latents.

    sampler = sample(space, noise, num_inference_steps, generator)
    call = next(sampler)
    while True:
        try:
            call = sampler.send(output)     # the network's own prediction at (call.latents, call.timestep), guided
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
class Call:
    """What the network must see next.

    `latents` float32 [1, C, T, h, w], scaled as in training; `timestep` a 0-dim tensor, maybe fractional; `number` counts the
    calls from 0, of `total`.
    """

    latents: Tensor
    timestep: Tensor
    number: int
    total: int


Sampler = Generator[Call, Tensor, Tensor]
Sample = Callable[[ModelSpace, Tensor, int, torch.Generator], Sampler]
