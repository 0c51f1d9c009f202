"""Sensible defaults for the tests of the queue, and a clock that only moves when it is told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import event

from promptreel.jobs.database import Database, open_database
from promptreel.jobs.eta import work_units
from promptreel.jobs.job import NewJob, Result
from promptreel.jobs.params import VideoParams
from promptreel.jobs.training_params import TrainingParams, training_units

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Clock:
    """Stands still until `advance`."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


WEBHOOK = "https://Shop.example.com/hooks?token=1"


def make_new_job(prompt: str = "a red cat", *, webhook_url: str | None = None, **params: object) -> NewJob:
    wanted = VideoParams.from_json({"model_id": "cutout", "prompt": prompt, **params})
    return NewJob(
        params=wanted,
        request={"dialect": "v4", "scheduler": None},
        cost=work_units(wanted, 40),
        track_id="t-1",
        webhook_url=webhook_url,
    )


def make_new_training(model_id: str = "my-snail", **params: object) -> NewJob:
    wanted = TrainingParams.from_json(
        {
            "model_id": model_id,
            "base": "cutout",
            "preset": "subject",
            "instance_prompt": "a sks snail",
            "examples": [{"key": "1/examples/1.png", "kind": "picture", "caption": "a sks snail", "sha256": "ab" * 32}],
            **params,
        }
    )
    return NewJob(params=wanted, request={"dialect": "openai"}, cost=training_units(wanted))


def make_result(key: str = "videos/1.mp4") -> Result:
    return Result(key=key, size_bytes=1234, sha256="ab" * 32, facts={"seconds": {"denoising": 1.5}})


def full_database(url: str) -> Database:
    """The database as on a full disk: SQLite's own limit on the file's size makes the same error."""
    database = open_database(url)
    event.listen(database, "connect", lambda connection, _record: connection.execute("PRAGMA max_page_count = 1"))
    database.pool.dispose()  # it must not be used by the connection that was opened without
    return database
