"""v6 and its enterprise twin, used by the vendor's SDKs. Numbers are clamped and unknown models replaced, not refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from promptreel.api.field_reader import Limits
from promptreel.api.legacy.dialect import Defaults, Dialect, Ranges, plain, tell_origin
from promptreel.jobs.job import VideoJob
from promptreel.jobs.params import MAX_FRAMES

DEFAULTS = Defaults(num_frames=25, guidance_scale=7.0, enhance_prompt=False)
# The documentation allows 25 frames, but the SDK asks for 30.
RANGES = Ranges(
    size=Limits(64, 1024, clamps=True, unset=0),
    seconds=Limits(1, 30, clamps=True, unset=0),
    num_frames=Limits(1, 25, clamps=True, unset=0),
    fps=Limits(1, 16, clamps=True, unset=0),
    num_inference_steps=Limits(1, 50, clamps=True, unset=0),
    guidance_scale=Limits(0, 20, clamps=True),
    strength=Limits(0, 1, clamps=True),
    clip_skip=Limits(0, 12, clamps=True),
)
# For the larger models, only the limit of fps was documented.
_ULTRA_RANGES = replace(RANGES, num_frames=Limits(1, MAX_FRAMES, clamps=True, unset=0), fps=Limits(1, 18, clamps=True, unset=0))
SWITCHES = ("instant_response", "temp")
LEFT_OUT = ("upscale_height", "upscale_width")
# Further fields of its models that start from a picture.
LEFT_OUT_OF_IMAGE = (
    "min_guidance_scale", "max_guidance_scale", "motion_bucket_id", "noise_aug_strength", "latent_interpolation_method",
)  # fmt: skip


def to_meta(job: VideoJob) -> dict[str, Any]:
    """The job's params under the names of the request. Switches are "yes" or "no"."""
    params = job.params
    return {
        "base64": "no",
        "clip_skip": params.clip_skip,
        "file_prefix": job.file_prefix,
        "fps": params.fps,
        "guidance_scale": plain(params.guidance_scale),
        "height": params.height,
        "instant_response": job.request.get("instant_response", "no"),
        "model_id": params.model_id,
        "negative_prompt": params.negative_prompt,
        "num_frames": params.num_frames,
        "num_inference_steps": params.num_inference_steps,
        "output_type": params.output_type,
        "prompt": params.prompt,
        "seed": params.seed,
        "temp": job.request.get("temp", "no"),
        "upscale_height": None,
        "upscale_width": None,
        "use_improved_sampling": "no",
        "width": params.width,
        "scheduler": params.scheduler,
        "strength": params.strength,
        "enhance_prompt": job.request.get("enhance_prompt", "no"),
    } | tell_origin(job)


V6 = Dialect(
    name="v6",
    fetch_path="/api/v6/video/fetch",
    to_meta=to_meta,
    defaults=DEFAULTS,
    ranges=RANGES,
    switches=SWITCHES,
    left_out=LEFT_OUT,
    replaces_unknown_model=True,
)
V6_IMAGE = replace(V6, needs_init="init_image", left_out=LEFT_OUT + LEFT_OUT_OF_IMAGE)
V6_VIDEO = replace(V6, needs_init="init_video", defaults=replace(DEFAULTS, strength=0.7))
V6_ULTRA = replace(V6, has_resolution=True, ranges=_ULTRA_RANGES, left_out=(*LEFT_OUT, "sample_shift", "shift_sample"))
V6_ULTRA_IMAGE = replace(V6_ULTRA, needs_init="init_image")


def _as_enterprise(dialect: Dialect) -> Dialect:
    return replace(dialect, name="enterprise_video", fetch_path="/api/v1/enterprise/video/fetch")


ENTERPRISE_VIDEO = _as_enterprise(V6)
ENTERPRISE_IMAGE = _as_enterprise(V6_IMAGE)
ENTERPRISE_FROM_VIDEO = _as_enterprise(V6_VIDEO)
ENTERPRISE_ULTRA = _as_enterprise(V6_ULTRA)
ENTERPRISE_ULTRA_IMAGE = _as_enterprise(V6_ULTRA_IMAGE)
