"""The model families: what each can make, and what it does with a request's numbers. No torch: the api needs it too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from promptreel.errors import CheckpointUnusable
from promptreel.jobs.eta import work_units
from promptreel.jobs.params import MAX_FRAMES, VideoParams
from promptreel.media import kind_of_init
from promptreel.models import kinds
from promptreel.models.registry import ModelCard

WAN_NEGATIVE_PROMPT = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, overall gray, "
    "worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, poorly drawn "
    "faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, three legs, many people in "
    "the background, walking backwards"
)
"""Wan's own, as its authors publish it with the models."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models with one architecture.

    `size_multiples`: sides are multiples of this many pixels. The key is the first word of the model's base; "" is for all
    others. `frame_multiple`: a clip has `n * frame_multiple + 1` frames; 1 allows every number. `has_windows`: whether clips
    may be longer than the card's `max_frames`.

    `ignores_api_defaults`: `guidance_scale`, `num_inference_steps` and the card's frame rate win over the defaults of the APIs,
    which were made for Stable Diffusion. `attention_tokens`: at so many tokens, attention takes as long as all else; None: its
    share does not grow with the clip.
    """

    name: str
    size_multiples: Mapping[str, int]
    frame_multiple: int
    has_windows: bool = True
    ignores_api_defaults: bool = False
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    negative_prompt: str = ""
    attention_tokens: float | None = None

    def size_multiple_of(self, card: ModelCard) -> int:
        """The sides of the model's clips are multiples of this, in pixels."""
        return self.size_multiples.get((card.base or "").partition("-")[0], self.size_multiples[""])

    def snap_frames(self, num_frames: int) -> int:
        """The least number of frames that it can make, and that is at least `num_frames`."""
        return 1 + self.frame_multiple * math.ceil((num_frames - 1) / self.frame_multiple)

    def snap_size(self, width: int, height: int, card: ModelCard) -> tuple[int, int]:
        """The least size that the model can make, and that is at least `width` x `height`."""
        multiple = self.size_multiple_of(card)
        return multiple * math.ceil(width / multiple), multiple * math.ceil(height / multiple)

    def fit_frames(self, num_frames: int, card: ModelCard) -> int:
        """The number of frames that a clip has in place of `num_frames`: snapped, and no more than the model makes."""
        snapped = self.snap_frames(num_frames)
        most = MAX_FRAMES if self.has_windows else card.max_frames
        return snapped if snapped <= most else 1 + (most - 1) // self.frame_multiple * self.frame_multiple


ANIMATEDIFF = Family(
    name=kinds.ANIMATEDIFF,
    size_multiples={"": 8},
    frame_multiple=1,
)
WAN = Family(
    name="wan",
    size_multiples={"": 16, "wan21": 16, "wan22": 32},
    frame_multiple=4,
    has_windows=False,
    ignores_api_defaults=True,
    guidance_scale=5.0,
    num_inference_steps=50,
    negative_prompt=WAN_NEGATIVE_PROMPT,
    attention_tokens=25_000,
)
FAMILIES = {family.name: family for family in (ANIMATEDIFF, WAN)}


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
    return get_family(card).snap_size(params.width, params.height, card)


def fit_clip(params: VideoParams, card: ModelCard) -> tuple[VideoParams, list[str]]:
    """The params with a number of frames that the model can make; and what is changed of the clip, for people."""
    notes: list[str] = []
    family = FAMILIES.get(card.family)
    if family is None:  # the job says so
        return params, notes
    num_frames = family.fit_frames(params.num_frames, card)
    if num_frames < params.num_frames:
        notes.append(f'"{card.model_id}" makes {num_frames} frames at most, not {params.num_frames}')
    elif num_frames > params.num_frames:
        notes.append(f'"{card.model_id}" makes {family.frame_multiple}n+1 frames: {num_frames} in place of {params.num_frames}')
    params = replace(params, num_frames=num_frames)
    size = size_apart(card, params)
    if size is not None and card.native_width is None:
        notes.append(f"made at {size[0]}x{size[1]}, then scaled to {params.width}x{params.height}")
    return params, notes


def size_apart(card: ModelCard, params: VideoParams) -> tuple[int, int] | None:
    """The size at which the clip is made, if it is another than the requested one, or the model has but one."""
    if card.family not in FAMILIES and card.native_width is None:
        return None
    size = generated_size(card, params)
    return size if card.native_width is not None or size != (params.width, params.height) else None


def negative_prompt_of(card: ModelCard) -> str:
    """The one for requests without."""
    family = FAMILIES.get(card.family)
    return card.default_negative_prompt or (family.negative_prompt if family else "")


def cost_of(params: VideoParams, card: ModelCard) -> float:
    """A job's units of work, for estimates: frames in calls, which weigh more where attention sees more tokens at once."""
    family = FAMILIES.get(card.family)
    if family is None or family.attention_tokens is None:
        return work_units(params, card.max_frames)
    is_picture = params.init_key is not None and kind_of_init(params.init_key) == "image"
    # Most of these models take a picture as the first frame, and denoise all steps.
    units = work_units(replace(params, init_key=None) if is_picture else params, card.max_frames)
    width, height = generated_size(card, params)
    multiple = family.size_multiple_of(card)
    tokens = (1 + params.num_frames // family.frame_multiple) * (width // multiple) * (height // multiple)
    return units * (1 + tokens / family.attention_tokens)
