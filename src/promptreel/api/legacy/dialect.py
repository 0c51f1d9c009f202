"""What sets the generations of the hosted service's API apart. Each has its own file; requests.py and answers.py serve all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from promptreel.api.field_reader import Limits
from promptreel.jobs.job import VideoJob
from promptreel.media import kind_of_init


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What is meant where a field is left out. With `num_frames` set, the dialect has no `seconds`: they are not read."""

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
    """What numbers may be. A dialect that never refused one has ranges that clamp."""

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

    `name` is kept with a job, so that all answers on it are in its dialect. `fetch_path` is where its clients fetch, but for
    the id. `switches` are yes/no fields that make no difference here, and `left_out` fields that are taken without
    being followed: the answer's tip names them. `needs_init` is the field with what a clip must start from: then it needs no
    prompt. With `has_resolution`, a size may be given as `resolution` and `portrait` (size.py).
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
    """9 where a float would be written as 9.0: clients read such numbers as integers."""
    return int(number) if float(number).is_integer() else number


def tell_origin(job: VideoJob) -> dict[str, Any]:
    """What a meta adds: what the clip started from and the size that it was made at, where there is one.

    An init is told as "yes", for its data may be megabytes.
    """
    key = job.params.init_key
    origin: dict[str, Any] = {} if key is None else {f"init_{kind_of_init(key)}": "yes"}
    native = job.request.get("native_size")
    return origin | {"native_W": native[0], "native_H": native[1]} if native else origin
