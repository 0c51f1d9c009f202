"""What differs between generations of the hosted service's API. Each has its own file; requests.py and answers.py serve all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from promptreel.api.field_reader import Limits
from promptreel.jobs.job import VideoJob
from promptreel.media import kind_of_init


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Values for fields that are left out. A dialect with `num_frames` set ignores the field `seconds`."""

    width: int = 512
    height: int = 512
    seconds: int = 5
    num_frames: int | None = None
    fps: int = 8
    num_inference_steps: int = 20
    guidance_scale: float = 7.5
    strength: float = 0.55
    enhance_prompt: bool = True


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The ranges of numbers. They clamp in dialects that never refused a number."""

    size: Limits
    seconds: Limits
    num_frames: Limits
    fps: Limits
    num_inference_steps: Limits
    guidance_scale: Limits
    strength: Limits
    clip_skip: Limits


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One generation, as its clients know it.

    `name`: stored with a job, so that all answers about it are in its dialect.
    `fetch_path`: where clients fetch; the job's id follows it.
    `switches`: yes/no fields that have no effect here.
    `left_out`: fields that are accepted but ignored. The answer's tip names them.
    `needs_init`: the required field with the init. The prompt is then optional.
    `has_resolution`: whether `resolution` and `portrait` may give the size (size.py).
    """

    name: str
    fetch_path: str
    to_meta: Callable[[VideoJob], dict[str, Any]]
    defaults: Defaults
    ranges: Ranges
    switches: tuple[str, ...] = ("temp",)
    left_out: tuple[str, ...] = ()
    replaces_unknown_model: bool = False
    needs_init: Literal["init_image", "init_video"] | None = None
    has_resolution: bool = False


def plain(number: float) -> float:
    """9 instead of 9.0: clients parse such numbers as integers."""
    return int(number) if float(number).is_integer() else number


def tell_origin(job: VideoJob) -> dict[str, Any]:
    """Additions to a meta: the kind of init, the motion adapter, the LoRAs, the embeddings and the native size, if
    there are any.

    An init appears as "yes", because its data may be megabytes.
    """
    key = job.params.init_key
    origin: dict[str, Any] = {} if key is None else {f"init_{kind_of_init(key)}": "yes"}
    if job.params.motion_adapter is not None:
        origin["motion_adapter"] = job.params.motion_adapter
    if job.params.loras:
        origin["lora_model"] = ",".join(lora.model_id for lora in job.params.loras)
        origin["lora_strength"] = ",".join(f"{lora.strength:g}" for lora in job.params.loras)
    if job.params.embeddings:
        origin["embeddings_model"] = ",".join(job.params.embeddings)
    native = job.request.get("native_size")
    return origin | {"native_W": native[0], "native_H": native[1]} if native else origin
