"""The unfinished work, summed by model and shape, for estimates. Trainings are counted apart: they give way to videos.

Every answer about a queued job contains an estimate. So the database sums up the queue, from covering indexes
(`jobs_queued_by_batch`; for one API key, `jobs_queued_by_api_key`): this takes a millisecond for ten thousand jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, func, select, tuple_

from promptreel.jobs.eta import Ahead, VideoShape, Work, work_left
from promptreel.jobs.job import JobStage, JobStatus
from promptreel.jobs.params import VideoParams
from promptreel.jobs.tables import api_keys, has_status, jobs
from promptreel.jobs.training_params import TrainingParams

# Estimates leave out imports, which use no device.
_USES_DEVICE = jobs.c.kind.in_((VideoParams.kind, TrainingParams.kind))

# Built once: building a statement takes longer than running it.
_OWN = (
    select(
        jobs.c.id,
        jobs.c.status,
        jobs.c.priority,
        jobs.c.vt,
        jobs.c.owner,
        jobs.c.cost,
        jobs.c.progress,
        jobs.c.api_key_id,
        api_keys.c.max_running,
    )
    .outerjoin(api_keys, jobs.c.api_key_id == api_keys.c.id)
    .where(jobs.c.id == bindparam("job_id"))
)
_RUNNING: Select[Any] = select(
    jobs.c.kind, jobs.c.batch_key, jobs.c.owner, jobs.c.stage, jobs.c.progress, jobs.c.cost, jobs.c.started_at
).where(has_status(JobStatus.RUNNING), _USES_DEVICE)
_OF_KEY = jobs.c.api_key_id == bindparam("api_key_id")
_RUNNING_OF_KEY = _RUNNING.where(_OF_KEY)
_RUNNING_BESIDE = _RUNNING.where(
    jobs.c.owner == bindparam("owner"),
    jobs.c.id != bindparam("job_id"),
    jobs.c.cost * (1 - jobs.c.progress) < bindparam("units_left"),
)
_QUEUED = (
    select(
        func.min(jobs.c.kind).label("kind"),  # all jobs of one batch key are of one kind
        jobs.c.batch_key,
        func.count().label("waiting"),
        func.sum(jobs.c.cost).label("cost"),
    )
    .where(has_status(JobStatus.QUEUED), _USES_DEVICE, jobs.c.run_at <= bindparam("now"))  # without jobs that were put off
    .group_by(jobs.c.batch_key)
)
_QUEUED_IN_FRONT = _QUEUED.where(
    tuple_(jobs.c.priority, jobs.c.vt, jobs.c.id) < tuple_(bindparam("priority"), bindparam("vt"), bindparam("job_id"))
)
_QUEUED_IN_FRONT_OF_KEY = _QUEUED_IN_FRONT.where(_OF_KEY)


def ahead_of(connection: Connection, job_id: int, *, now: datetime) -> Ahead | None:
    """See `JobStore.queue_ahead`. None if there is no such job. `now` is by the steady clock."""
    own = connection.execute(_OWN, {"job_id": job_id}).one_or_none()
    if own is None:
        return None
    match own.status:
        case JobStatus.QUEUED:
            place = {"priority": own.priority, "vt": own.vt, "job_id": own.id, "now": now}
            running, queued = connection.execute(_RUNNING).all(), connection.execute(_QUEUED_IN_FRONT, place).all()
            work = (*_running(running), *_queued(queued))
            waiting = sum(row.waiting for row in queued)
            trainings = _count_trainings(running, queued)
            if own.max_running is None:
                return Ahead(work, waiting, **trainings)
            key = {"api_key_id": own.api_key_id}
            running_of_key = _running(connection.execute(_RUNNING_OF_KEY, key))
            queued_of_key = _queued(connection.execute(_QUEUED_IN_FRONT_OF_KEY, place | key))
            return Ahead(work, waiting, (*running_of_key, *queued_of_key), own.max_running, **trainings)
        case JobStatus.RUNNING:
            left = {"owner": own.owner, "job_id": own.id, "units_left": own.cost * (1 - own.progress)}
            return Ahead(tuple(_running(connection.execute(_RUNNING_BESIDE, left))))
        case _:
            return Ahead()


def unfinished(connection: Connection, *, now: datetime) -> list[Work]:
    """The work of all queued and running videos. `now` is by the steady clock."""
    return [*_running(connection.execute(_RUNNING)), *_queued(connection.execute(_QUEUED, {"now": now}))]


def _count_trainings(running: Iterable[Row[Any]], queued: Iterable[Row[Any]]) -> dict[str, Any]:
    begun = [row.cost * (1 - row.progress) for row in running if row.kind == TrainingParams.kind]
    waiting = [row for row in queued if row.kind == TrainingParams.kind]
    return {
        "trainings": len(begun) + sum(row.waiting for row in waiting),
        "training_units": sum(begun) + sum(row.cost for row in waiting),
    }


def _videos(rows: Iterable[Row[Any]]) -> Iterator[Row[Any]]:
    return (row for row in rows if row.kind == VideoParams.kind)


def _running(rows: Iterable[Row[Any]]) -> Iterator[Work]:
    for row in _videos(rows):
        model_id, shape = _read_batch_key(row.batch_key)
        stage = None if row.stage is None else JobStage(row.stage)
        yield work_left(
            model_id,
            shape,
            owner=row.owner,
            stage=stage,
            progress=row.progress,
            cost=row.cost,
            since=row.started_at,
        )


def _queued(rows: Iterable[Row[Any]]) -> Iterator[Work]:
    """Each row sums up all jobs of one model and shape."""
    for row in _videos(rows):
        model_id, shape = _read_batch_key(row.batch_key)
        yield Work(model_id=model_id, shape=shape, owner=None, units=row.cost, fixed_times=row.waiting)


def _read_batch_key(key: str) -> tuple[str, VideoShape]:
    """Reads what `VideoParams.batch_key` wrote. The motion adapter does not matter: all take about as long."""
    models, size, num_frames = key.rsplit("|", 2)
    model_id = models.partition("+")[0]
    width, height = size.split("x")
    return model_id, VideoShape(int(num_frames), int(width), int(height))
