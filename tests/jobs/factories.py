"""Sensible defaults for the tests of the queue, and a clock that only moves when it is told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from promptreel.jobs.job import NewJob, Result
from promptreel.jobs.params import VideoParams

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Clock:
    """Stands still until `advance`."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def make_new_job(prompt: str = "a red cat", **params: object) -> NewJob:
    return NewJob(
        params=VideoParams.from_json({"model_id": "cutout", "prompt": prompt, **params}),
        request={"dialect": "v4", "scheduler": None},
        max_frames=40,
        track_id="t-1",
    )


def make_result(key: str = "videos/1.mp4") -> Result:
    return Result(key=key, size_bytes=1234, sha256="ab" * 32, facts={"seconds": {"denoising": 1.5}})
