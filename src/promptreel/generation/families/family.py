"""What the engine asks of a model family, an architecture with its own text encoder, conditioning, guidance and VAE.

The engine owns the sampler, the batching, progress and cancelling, and knows none of what is inside a Conditioning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from promptreel.generation.add_ons import EmbeddingFile, LoraFile
from promptreel.generation.model_space import ModelSpace
from promptreel.generation.samplers.sampler import Call, Start
from promptreel.jobs.params import VideoParams
from promptreel.models.registry import ModelCard

GroupKey = tuple[object, ...]

OnPart = Callable[[], None]
"""Called between two parts of a long computation. It may raise, to stop it."""


def go_on() -> None:
    """An OnPart that never stops."""


@dataclass(frozen=True)
class Conditioning:
    """What rows are conditioned on besides their latents: the family's own tensors by name, each [B, ...]."""

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        """The number of rows, B."""
        return len(next(iter(self.tensors.values())))

    @property
    def shape(self) -> GroupKey:
        """The names and shapes of a row's tensors."""
        return tuple((name, tuple(tensor.shape[1:])) for name, tensor in self.tensors.items())

    def select(self, rows: slice | Sequence[int]) -> Conditioning:
        return Conditioning({name: tensor[rows] for name, tensor in self.tensors.items()})

    def draw_like(self, count: int, generator: torch.Generator) -> Conditioning:
        """`count` random rows of the same shape. Tensors that are not floating point repeat the first row."""
        return Conditioning(
            {
                name: torch.randn((count, *tensor.shape[1:]), generator=generator)
                if tensor.is_floating_point()
                else tensor[:1].expand(count, *tensor.shape[1:])
                for name, tensor in self.tensors.items()
            }
        )


def join(parts: Sequence[Conditioning]) -> Conditioning:
    """The rows of all parts, which have equal shapes."""
    return Conditioning({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})


@dataclass(frozen=True)
class Rows:
    """What one request needs computed next: B rows, such as the negative prompt's and the prompt's.

    `latents` [B, C, T, h, w]; `timesteps` [B], or [B, ...] where parts of a clip have timesteps of their own. `expert` names
    the denoiser, in a family that has several. `remaining`: how many calls the request has yet to make, this one included.
    """

    model: LoadedModel
    latents: Tensor
    timesteps: Tensor
    conditioning: Conditioning
    remaining: int
    expert: str = ""

    @property
    def group_key(self) -> GroupKey:
        """Two requests may share a forward if this is equal."""
        shapes = (self.latents.shape[1:], self.timesteps.shape[1:], self.conditioning.shape)
        return (self.model.model_hash, self.model.variant, self.expert, *shapes)

    def split(self) -> list[Rows]:
        """Each row by itself."""
        return [
            replace(
                self,
                latents=self.latents[row : row + 1],
                timesteps=self.timesteps[row : row + 1],
                conditioning=self.conditioning.select(slice(row, row + 1)),
            )
            for row in range(len(self.latents))
        ]


@dataclass(frozen=True)
class EncodedInit:
    """What a request starts from: clean latents [1, C, T, h, w], or tensors [1, ...] for the conditioning of all its rows."""

    latents: Tensor | None = None
    conditioning: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A request, ready to be denoised."""

    start: Start
    conditioning: Conditioning


@dataclass(frozen=True)
class Loadable:
    """A model whose files were checked. `size_bytes`: what its weights take on the device. `files`: what it is loaded from."""

    size_bytes: int
    files: tuple[Path, ...]
    load: Callable[[], LoadedModel]


Forward = Callable[[Rows], Tensor]
"""Runs a forward when it is the request's turn. The output is [B, C, T, h, w], like the rows' latents."""


class LoadedModel(Protocol):
    """A model on a device. It takes and returns tensors on the CPU: latents float32 [1, C, T, h, w], frames uint8 [T, H, W, 3].

    A conditioning may stay on the device.
    """

    @property
    def card(self) -> ModelCard: ...

    @property
    def model_hash(self) -> str:
        """SHA-256 of all files that were loaded."""

    @property
    def space(self) -> ModelSpace: ...

    @property
    def colors(self) -> Tensor:
        """The matrix for previews, see `fit_colors`."""

    @property
    def variant(self) -> str:
        """Names the LoRAs; empty without any. Models of one hash and variant have the same denoiser."""

    def with_loras(self, loras: Sequence[LoraFile]) -> LoadedModel:
        """The same model with LoRAs. It shares the weights of this one, which does not change.

        Raises CheckpointUnusable for a LoRA that does not fit.
        """

    def with_embeddings(self, embeddings: Sequence[EmbeddingFile]) -> LoadedModel:
        """The same model, whose prompts may contain the words of embeddings. It shares the weights of this one.

        Raises CheckpointUnusable for an embedding that does not fit.
        """

    def fit_to(self, params: VideoParams) -> LoadedModel:
        """This model, or one that shares its networks and has the ModelSpace for the request's clip."""

    def encode_init(self, frames: Tensor, on_part: OnPart = go_on) -> EncodedInit:
        """What a clip is made from. A picture is a clip that stands still."""

    def prepare(self, params: VideoParams, init: EncodedInit | None = None) -> Prepared:
        """Encodes the prompts, and draws the noise from the seed. Raises GenerationFailed."""

    def ask(self, call: Call, conditioning: Conditioning) -> Rows:
        """The rows that a sampler's call needs, in the form that the denoiser takes."""

    def predict(self, rows: Rows, forward: Forward, on_part: Callable[[float], None]) -> Tensor:
        """The output for all rows, by one forward or several. `on_part` gets the share that is done; it may raise."""

    def combine(self, output: Tensor, call: Call, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """Guidance: from the rows' outputs to one prediction [1, C, T, h, w] of the space's own type."""

    def forward(self, rows: Rows) -> Tensor:
        """One forward of the denoiser."""

    def decode(self, latents: Tensor, generator: torch.Generator, on_part: OnPart = go_on) -> Iterator[Tensor]:
        """Latents to frames, a part at a time. `generator` is the request's, for VAEs that draw noise."""

    def example(self) -> Rows:
        """The rows of a guided call of the longest clip, to measure."""
