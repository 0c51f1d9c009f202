"""VideoParams: what a job must make, complete and frozen. Every field is decided before the job is queued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from promptreel.media import MEDIA_TYPES

SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "UniPCMultistepScheduler",
    "DDIMInverseScheduler",
    "DEISMultistepScheduler",
    "IPNDMScheduler",
    "KarrasVeScheduler",
    "ScoreSdeVeScheduler",
    "LCMScheduler",
)
"""The noise schedulers on offer, by diffusers' names."""

# Schedulers that do not call the model once per step; their samplers' docstrings say why.
_TWICE_BUT_FOR_THE_LAST = frozenset(
    {"HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KarrasVeScheduler"}
)
_TWICE = frozenset({"DDIMInverseScheduler", "ScoreSdeVeScheduler"})
_ONCE_MORE_IN_ALL = frozenset({"PNDMScheduler"})

DEFAULT_SCHEDULER = "UniPCMultistepScheduler"
MAX_SEED = 2**32 - 1
MAX_FRAMES = 240
"""The most frames of a clip, whatever the model."""

OUTPUT_TYPES = tuple(MEDIA_TYPES)
"""The kinds of file on offer, which are also the endings of the file names."""

DEFAULT_OUTPUT_TYPE = "mp4"


MOST_ADD_ONS = 8
"""LoRAs of one clip, and likewise embeddings."""


@dataclass(frozen=True)
class LoraUse:
    """A LoRA, and how strongly it is applied: 1 is as trained, 0 not at all, below 0 the opposite."""

    model_id: str
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class VideoParams:
    """One request for a video, in diffusers' spelling.

    `width` and `height` are the finished video's, in pixels, and multiples of 8. `prompt` and `negative_prompt` are final: the
    model gets them after defaults and enhancement. `init_key` is the init's key in storage; `strength` matters only with an
    init. `motion_adapter` is the id of the motion adapter; None if the model has its own. `loras` are applied in this order.
    `embeddings` are the ids of trained words that the prompts may contain.
    `clip_skip` is how many of the text encoder's last layers are skipped. `output_type` is one of OUTPUT_TYPES.
    """

    kind: ClassVar[str] = "video"

    model_id: str
    prompt: str
    negative_prompt: str = ""
    width: int = 512
    height: int = 512
    num_frames: int = 40
    fps: int = 8
    scheduler: str = DEFAULT_SCHEDULER
    num_inference_steps: int = 20
    guidance_scale: float = 7.5
    strength: float = 0.55
    seed: int = 0
    clip_skip: int = 0
    output_type: str = DEFAULT_OUTPUT_TYPE
    init_key: str | None = None
    motion_adapter: str | None = None
    loras: tuple[LoraUse, ...] = ()
    embeddings: tuple[str, ...] = ()

    @property
    def batch_key(self) -> str:
        """The models and the shape; `workload.py` reads it. Steps and guidance may differ within a batch."""
        models = self.model_id if self.motion_adapter is None else f"{self.model_id}+{self.motion_adapter}"
        return f"{models}|{self.width}x{self.height}|{self.num_frames}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote. Ignores fields that a newer version added."""
        known = {field.name for field in fields(cls)}
        told = {name: value for name, value in data.items() if name in known}
        loras = tuple(LoraUse(each["model_id"], each["strength"]) for each in told.pop("loras", ()))
        embeddings = tuple(told.pop("embeddings", ()))
        return cls(**told, loras=loras, embeddings=embeddings)


def count_calls(scheduler: str, num_inference_steps: int) -> int:
    """How many calls to the model a clip takes when it starts from noise. With guidance, each call has two rows."""
    if scheduler in _TWICE_BUT_FOR_THE_LAST:
        return 2 * num_inference_steps - 1
    if scheduler in _TWICE:
        return 2 * num_inference_steps
    if scheduler in _ONCE_MORE_IN_ALL and num_inference_steps > 1:
        return num_inference_steps + 1
    return num_inference_steps
