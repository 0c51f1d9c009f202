"""Presets: what can be trained, with defaults that finish in minutes. Imports no torch.

The figures are those of the public trainers (rank, alpha = rank, rates, min-SNR) for Stable Diffusion 1.5 on one GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from promptreel.jobs.training_params import ExampleKind


@dataclass(frozen=True, kw_only=True)
class Preset:
    """`examples`: what it learns from. `layers`: which layers get a LoRA, or are trained whole if `is_whole`. `fewest` and
    `most` examples are taken. `families`: of the checkpoints that it trains.

    `spatial_rate`: of the LoRA that learns the looks of one clip and is thrown away; 0 for presets without one.
    """

    name: str
    description: str
    examples: ExampleKind
    layers: str
    is_whole: bool = False
    rank: int = 16
    learning_rate: float = 1e-4
    families: tuple[str, ...] = ("animatediff",)
    spatial_rate: float = 0.0
    batch_size: int = 4
    steps: int = 800
    most_steps: int = 10_000
    caption_dropout: float = 0.05
    fewest: int = 1
    most: int = 200


ATTENTION, BLOCKS, MOTION, ALL = "attention", "attention, feed-forward and convolutions", "motion", "all"
"""BLOCKS and not only attention: not every UNet has attention at every size, and what it lacks there cannot be learned."""

REFERENCE_WIDTH = 320
"""Channels of Stable Diffusion's widest pictures. The presets' rates are for these."""

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="subject",
                description="A thing, a person or an animal, from pictures of it. Makes a LoRA.",
                examples=ExampleKind.PICTURE,
                layers=BLOCKS,
            ),
            Preset(
                name="style",
                description="A look, from pictures that share it. Makes a LoRA.",
                examples=ExampleKind.PICTURE,
                layers=BLOCKS,
                rank=32,
                steps=1500,
                caption_dropout=0.1,
            ),
            Preset(
                name="motion",
                description="A movement, from clips of it. Makes a motion LoRA.",
                examples=ExampleKind.CLIP,
                layers=MOTION,
                rank=32,
                learning_rate=5e-4,
                spatial_rate=1e-4,
                batch_size=1,
                steps=400,
                most=40,
            ),
            Preset(
                name="dreambooth",
                description="A thing, a person or an animal, from pictures of it. Makes a whole checkpoint.",
                examples=ExampleKind.PICTURE,
                layers=ALL,
                is_whole=True,
                learning_rate=5e-6,
                steps=600,
            ),
        )
    }
)


def rate_for(learning_rate: float, channels: int) -> float:
    """The rate for a UNet with so many channels in its first block: Adam's is in inverse proportion to the width of the layers
    (Yang et al. 2022, "Tensor Programs V")."""
    return learning_rate * REFERENCE_WIDTH / channels
