"""The model families: what each can make, and what it does with a request's numbers. No torch: the api needs it too."""

from __future__ import annotations

import math
from dataclasses import dataclass

from promptreel.errors import CheckpointUnusable
from promptreel.jobs.params import VideoParams
from promptreel.models.registry import ModelCard


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models with one architecture.

    `size_multiple`: sides of its clips are multiples of this, in pixels. `frame_multiple`: a clip has a multiple of this many
    frames, plus one; 1 allows every number. `guidance_scale` and `num_inference_steps` are its defaults.
    """

    name: str
    title: str
    size_multiple: int
    frame_multiple: int
    guidance_scale: float
    num_inference_steps: int

    def snap_frames(self, num_frames: int) -> int:
        """The least number of frames that it can make, and that is at least `num_frames`."""
        return 1 + self.frame_multiple * math.ceil((num_frames - 1) / self.frame_multiple)

    def snap_size(self, width: int, height: int) -> tuple[int, int]:
        """The least size that it can make, and that is at least `width` x `height`."""
        multiple = self.size_multiple
        return multiple * math.ceil(width / multiple), multiple * math.ceil(height / multiple)


ANIMATEDIFF = Family(
    name="animatediff",
    title="Stable Diffusion 1.5 with AnimateDiff",
    size_multiple=8,
    frame_multiple=1,
    guidance_scale=7.5,
    num_inference_steps=20,
)
FAMILIES = {family.name: family for family in (ANIMATEDIFF,)}


def get_family(card: ModelCard) -> Family:
    """Raises CheckpointUnusable."""
    if card.family not in FAMILIES:
        raise CheckpointUnusable(
            f"model {card.model_id!r} is of family {card.family!r}; Promptreel runs {', '.join(map(repr, FAMILIES))}"
        )
    return FAMILIES[card.family]


def generated_size(card: ModelCard, params: VideoParams) -> tuple[int, int]:
    """Width and height in pixels at which the clip is made, before it is scaled to the requested size."""
    if card.native_width is not None and card.native_height is not None:
        return card.native_width, card.native_height
    return get_family(card).snap_size(params.width, params.height)
