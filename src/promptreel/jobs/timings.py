"""How long recent videos took, read from the job table. Estimates learn from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, bindparam, select

from promptreel.jobs.eta import Timing, VideoShape
from promptreel.jobs.job import JobStatus
from promptreel.jobs.params import VideoParams
from promptreel.jobs.tables import attempts, has_status, jobs

_DEVICE_SECONDS = jobs.c.result_facts["device_seconds"].as_float()
_SUCCESSES = and_(has_status(JobStatus.SUCCEEDED), jobs.c.kind == VideoParams.kind, jobs.c.model_id == bindparam("model_id"))
_NEWEST = select(jobs.c.id).where(_SUCCESSES).order_by(jobs.c.id.desc()).limit(1)
_TIMINGS = (
    select(
        jobs.c.params["num_frames"].as_integer().label("num_frames"),
        jobs.c.params["width"].as_integer().label("width"),
        jobs.c.params["height"].as_integer().label("height"),
        jobs.c.result_facts["device"].as_string().label("device"),
        attempts.c.units,
        attempts.c.seconds.label("busy_seconds"),
        _DEVICE_SECONDS.label("call_seconds"),
    )
    .join(attempts, and_(jobs.c.id == attempts.c.job_id, jobs.c.attempt == attempts.c.attempt))
    .where(_SUCCESSES, _DEVICE_SECONDS.is_not(None))
    .order_by(jobs.c.id.desc())
    .limit(bindparam("limit"))
)


@dataclass(frozen=True)
class _Known:
    """Cached timings. `newest` is the id of the latest succeeded job when they were read."""

    newest: int
    timings: tuple[Timing, ...]


class RecentTimings:
    """The timings of each model's latest succeeded jobs, cached until another job succeeds: every estimate reads them."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, _Known] = {}

    def read(self, connection: Connection, model_id: str) -> Sequence[Timing]:
        """Newest first."""
        newest = connection.execute(_NEWEST, {"model_id": model_id}).scalar_one_or_none()
        if newest is None:
            return ()
        known = self._known.get(model_id)
        if known is None or known.newest != newest:
            rows = connection.execute(_TIMINGS, {"model_id": model_id, "limit": self._limit}).all()
            known = self._known[model_id] = _Known(newest, tuple(_to_timing(row) for row in rows))
        return known.timings


def _to_timing(row: Any) -> Timing:
    return Timing(
        shape=VideoShape(row.num_frames, row.width, row.height),
        device=row.device,
        units=row.units,
        busy_seconds=row.busy_seconds,
        call_seconds=row.call_seconds,
    )
