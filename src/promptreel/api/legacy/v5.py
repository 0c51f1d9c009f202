"""v5: a prompt and a number of seconds; everything else, even the size, was fixed. Fields of v4 work here if they are sent."""

from __future__ import annotations

from typing import Any

from promptreel.api.legacy import v4
from promptreel.api.legacy.dialect import Defaults, Dialect, plain
from promptreel.jobs.job import VideoJob


def to_meta(job: VideoJob) -> dict[str, Any]:
    """v4's meta, plus fields that strict clients of v5 require. They parse `guidance_scale` as an integer."""
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
