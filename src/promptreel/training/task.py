"""What the loop asks of a training task, and what tasks share: the forward in parts, and the batch that is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from promptreel.generation.compute import ComputeThreads
from promptreel.generation.devices import Device
from promptreel.training.latents import Examples
from promptreel.training.noising import Noising

Weights = Mapping[str, nn.Parameter]
Gradients = dict[str, Tensor]

VALIDATED_LEVELS = 4
PRESERVED_SHARE = 2
"""One row in so many is also held to what the base makes of `class_prompt`."""


@dataclass(frozen=True)
class Batch:
    """B rows of clean latents [B, C, T, h, w], with noise of this shape, int64 timesteps [B] and texts [B, tokens, width].

    `clip`: the number of the example, where all rows are parts of one.
    """

    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    texts: Tensor
    clip: int = field(default=0, kw_only=True)

    def __len__(self) -> int:
        return len(self.clean)

    def to(self, device: str) -> Batch:
        clean, noise, timesteps, texts = (tensor.to(device) for tensor in self._tensors)
        return Batch(clean, noise, timesteps, texts, clip=self.clip)

    def split(self, parts: int) -> list[Batch]:
        pieces = zip(*(tensor.tensor_split(parts) for tensor in self._tensors), strict=True)
        return [Batch(*piece, clip=self.clip) for piece in pieces if len(piece[0])]

    @property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.clean, self.noise, self.timesteps, self.texts


@dataclass(frozen=True)
class Group:
    """Weights that are trained at one rate. `file`: of a training checkpoint."""

    file: str
    learning_rate: float
    weights: Weights


class Task(Protocol):
    """A kind of training: what is trained, and on which loss."""

    @property
    def groups(self) -> Sequence[Group]:
        """The first one is what is kept at the end."""

    @property
    def leaves_out_motion(self) -> bool:
        """Whether single frames pass by the motion modules."""

    def draw(self, generator: torch.Generator) -> Batch:
        """The batch of a step. All its random numbers are from the generator, on the CPU."""

    def measure(self, batch: Batch, parts: int) -> tuple[float, Gradients]:
        """The loss, and its gradients by the weights' names. `parts`: how many forwards the batch is divided into."""

    def validate(self) -> float | None:
        """The loss of held-out examples, at the same noise each time; None if none are held out."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What tasks compute with."""

    unet: Any
    noising: Noising
    examples: Examples
    device: Device
    compute: ComputeThreads

    def forward(self, unet: Any, noisy: Tensor, timesteps: Tensor, texts: Tensor) -> Tensor:
        with self._mixed():
            output: Tensor = unet(
                noisy,
                timesteps.float(),
                encoder_hidden_states=texts.repeat_interleave(noisy.shape[2], 0),
                return_dict=False,
            )[0]
        return output

    def _mixed(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self.device.name.startswith("cuda") else nullcontext()

    @torch.no_grad()
    def judge(self, unet: Any, batches: Sequence[Batch]) -> float:
        """The mean loss over batches, computed one at a time."""
        works = [partial(self._judge, unet, batch.to(self.device.name)) for batch in batches]
        losses = list(self.compute.run_each(works))
        return sum(losses) / len(losses)

    @torch.no_grad()
    def _judge(self, unet: Any, batch: Batch) -> float:
        noising = self.noising
        noisy = noising.add(batch.clean, batch.noise, batch.timesteps)
        output = self.forward(unet, noisy, batch.timesteps, batch.texts)
        target = noising.target(batch.clean, batch.noise, batch.timesteps)
        return float(noising.losses(output, target, batch.timesteps).mean())

    def fixed_batches(self, numbers: Sequence[int], most_frames: int = 1) -> list[Batch]:
        """Rows of these examples at a few noise levels, equal at each call."""
        generator = torch.Generator().manual_seed(0)
        return [self._fix(number, level, most_frames, generator) for number in numbers for level in range(VALIDATED_LEVELS)]

    def _fix(self, number: int, level: int, most_frames: int, generator: torch.Generator) -> Batch:
        clean = self.examples.latents[number][None, :, :most_frames]
        timestep = torch.tensor([(2 * level + 1) * self.noising.steps // (2 * VALIDATED_LEVELS)])
        return Batch(clean, torch.randn(clean.shape, generator=generator), timestep, self.examples.texts[number][None])


def add_up(measured: Iterator[tuple[float, Gradients]]) -> tuple[float, Gradients]:
    """Adds losses and gradients in the order in which they come, so that the sums have the same bits each time."""
    loss, total = 0.0, Gradients()
    for part, gradients in measured:
        loss += part
        for name, gradient in gradients.items():
            total[name] = total[name].add_(gradient) if name in total else gradient
    return loss, total


def preserved_rows(rows: int) -> int:
    return -(-rows // PRESERVED_SHARE)


def drop_captions(examples: Examples, numbers: Sequence[int], share: float, generator: torch.Generator) -> Tensor:
    """The captions of these examples [B, tokens, width]; the empty text in place of this share of them."""
    dropped = torch.rand(len(numbers), generator=generator) < share
    return torch.stack([examples.empty if drop else examples.texts[n] for n, drop in zip(numbers, dropped, strict=True)])
