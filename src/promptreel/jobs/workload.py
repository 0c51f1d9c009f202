"""How much there is to do, summed up by model and shape: what estimates need of a queue that may be long.

Every answer about a job that waits holds an estimate. So the queue is added up by the database, from an index that has all it
takes (`jobs_queued_by_batch`): a millisecond for ten thousand jobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, select, tuple_

from promptreel.jobs.eta import Shape, Work, work_left
from promptreel.jobs.job import JobStage, JobStatus
from promptreel.jobs.params import VideoParams
from promptreel.jobs.tables import has_status, jobs


@dataclass(frozen=True)
class Ahead:
    """What is served before a job: the work, and how many jobs of it wait."""

    work: tuple[Work, ...] = ()
    waiting: int = 0


def batch_key(params: VideoParams) -> str:
    """Jobs with the same key can be generated in one batch: the model and the shape, for steps and guidance are per row."""
    return f"{params.model_id}|{params.width}x{params.height}|{params.num_frames}"


def ahead_of(connection: Connection, job_id: int) -> Ahead | None:
    """What `JobStore.queue_ahead` says it is; None when there is no such job."""
    own = connection.execute(
        select(jobs.c.id, jobs.c.status, jobs.c.priority, jobs.c.vt, jobs.c.owner, jobs.c.cost, jobs.c.progress).where(
            jobs.c.id == job_id
        )
    ).one_or_none()
    if own is None:
        return None
    match own.status:
        case JobStatus.QUEUED:
            place = tuple_(jobs.c.priority, jobs.c.vt, jobs.c.id)
            queued, waiting = _queued(connection, place < (own.priority, own.vt, own.id))
            return Ahead((*_running(connection), *queued), waiting)
        case JobStatus.RUNNING:
            less_left = jobs.c.cost * (1 - jobs.c.progress) < own.cost * (1 - own.progress)
            return Ahead(tuple(_running(connection, jobs.c.owner == own.owner, jobs.c.id != own.id, less_left)))
        case _:
            return Ahead()


def unfinished(connection: Connection) -> list[Work]:
    """All jobs that wait or run."""
    return [*_running(connection), *_queued(connection)[0]]


def _running(connection: Connection, *which: ColumnElement[bool]) -> list[Work]:
    columns = (jobs.c.batch_key, jobs.c.owner, jobs.c.stage, jobs.c.progress, jobs.c.cost)
    work = []
    for row in connection.execute(select(*columns).where(has_status(JobStatus.RUNNING), *which)):
        model_id, shape = _read_batch_key(row.batch_key)
        stage = None if row.stage is None else JobStage(row.stage)
        work.append(work_left(model_id, shape, owner=row.owner, stage=stage, progress=row.progress, cost=row.cost))
    return work


def _queued(connection: Connection, *which: ColumnElement[bool]) -> tuple[list[Work], int]:
    """The work of the jobs that wait, and how many there are."""
    sums = (jobs.c.batch_key, func.count().label("waiting"), func.sum(jobs.c.cost).label("cost"))
    rows = connection.execute(select(*sums).where(has_status(JobStatus.QUEUED), *which).group_by(jobs.c.batch_key)).all()
    work = []
    for row in rows:
        model_id, shape = _read_batch_key(row.batch_key)
        work.append(Work(model_id=model_id, shape=shape, owner=None, units=row.cost, fixed_times=row.waiting))
    return work, sum(row.waiting for row in rows)


def _read_batch_key(key: str) -> tuple[str, Shape]:
    model_id, size, num_frames = key.rsplit("|", 2)
    width, height = size.split("x")
    return model_id, Shape(int(num_frames), int(width), int(height))
