"""v4 and v3, and their enterprise twin: the text2video endpoint for a public or trained model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from promptreel.api.field_reader import Limits
from promptreel.api.legacy.dialect import Defaults, Dialect, Ranges, plain, tell_origin
from promptreel.jobs.job import VideoJob
from promptreel.jobs.params import MAX_FRAMES

RANGES = Ranges(
    size=Limits(64, 1024, unset=0),
    seconds=Limits(1, 30, unset=0),
    num_frames=Limits(1, MAX_FRAMES, unset=0),
    fps=Limits(1, 30, unset=0),
    num_inference_steps=Limits(1, 50, unset=0),
    guidance_scale=Limits(0, 20),
    strength=Limits(0, 1),
    # The text encoder of Stable Diffusion 1.5 has twelve layers; a model with fewer says so when the job runs.
    clip_skip=Limits(0, 12),
)


def to_meta(job: VideoJob) -> dict[str, Any]:
    """The job's params under the documented names, plus `fps`, `clip_skip`, `enhance_prompt` and the native size."""
    params = job.params
    return {
        "prompt": params.prompt,
        "model_id": params.model_id,
        "scheduler": params.scheduler,
        "safetychecker": "no",
        "negative_prompt": params.negative_prompt,
        "W": params.width,
        "H": params.height,
        "guidance_scale": params.guidance_scale,
        "steps": params.num_inference_steps,
        "strength": params.strength,
        "full_url": "no",
        "seconds": plain(round(params.num_frames / params.fps, 2)),
        "multi_lingual": "no",
        "seed": params.seed,
        "outdir": "out",
        "file_prefix": job.file_prefix,
        "num_frames": params.num_frames,
        "fps": params.fps,
        "clip_skip": params.clip_skip,
        "enhance_prompt": job.request.get("enhance_prompt", "no"),
    } | tell_origin(job)


V4 = Dialect(name="v4", fetch_path="/api/v3/dreambooth/fetch", to_meta=to_meta, defaults=Defaults(), ranges=RANGES)
# Clients send only their key to fetch_result. So this is not the enterprise fetch that takes the id as a field.
ENTERPRISE = replace(V4, name="enterprise", fetch_path="/api/v1/enterprise/video/fetch", switches=("temp", "loadbalancer"))
