"""v5: a prompt and a number of seconds; all else, the size too, was fixed. Fields of v4 are followed where they are sent."""

from __future__ import annotations

from typing import Any

from promptreel.api.legacy import v4
from promptreel.api.legacy.dialect import Defaults, Dialect, plain
from promptreel.jobs.job import VideoJob


def to_meta(job: VideoJob) -> dict[str, Any]:
    """v4's, and what strict clients of v5 miss otherwise. They take `guidance_scale` for an integer."""
    return v4.to_meta(job) | {
        "guidance_scale": plain(job.params.guidance_scale),
        "image_guidance_scale": 1,
        "n_samples": 1,
        "instant_response": "no",
    }


V5 = Dialect(
    name="v5",
    fetch_path="/api/v3/fetch",
    to_meta=to_meta,
    defaults=Defaults(width=576, height=320, guidance_scale=9.0, enhance_prompt=False),
    ranges=v4.RANGES,
)
