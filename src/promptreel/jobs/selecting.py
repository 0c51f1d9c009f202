"""Which rows of the job table a caller's question means."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, or_, select, true

from promptreel.errors import JobNotFound
from promptreel.jobs.job import JobAttempt, JobStatus
from promptreel.jobs.keys import Caller
from promptreel.jobs.tables import attempts, has_status, is_of, jobs

# Built once: building a statement takes longer than running it.
_ONE = select(jobs).where(jobs.c.id == bindparam("job_id"))
_ONE_OF_KEY = _ONE.where(jobs.c.api_key_id == bindparam("api_key_id"))
_ONE_WITHOUT_KEY = _ONE.where(jobs.c.api_key_id.is_(None))


def belongs(of: Caller | None, kind: str | None) -> ColumnElement[bool]:
    """Condition: the job is the caller's and of this kind. None matches all; `OwnJobs` never passes None."""
    return and_(true() if of is None else is_of(of.api_key_id), true() if kind is None else jobs.c.kind == kind)


def get_row(connection: Connection, job_id: int, of: Caller | None, kind: str | None) -> Row[Any]:
    """Uses prebuilt statements: no query is more frequent. Raises JobNotFound."""
    if of is None:
        found = connection.execute(_ONE, {"job_id": job_id})
    elif of.api_key_id is None:
        found = connection.execute(_ONE_WITHOUT_KEY, {"job_id": job_id})
    else:
        found = connection.execute(_ONE_OF_KEY, {"job_id": job_id, "api_key_id": of.api_key_id})
    row = found.one_or_none()
    if row is None or kind not in (None, row.kind):
        raise job_not_found(job_id)
    return row


def job_not_found(job_id: int) -> JobNotFound:
    return JobNotFound(f"There is no job {job_id}. Check the id that was returned when it was submitted.")


def page_after(after: int | None, *, limit: int, oldest_first: bool) -> Select[Any]:
    """A page of jobs: those after the id that ended the previous page."""
    page = select(jobs).order_by(jobs.c.id if oldest_first else jobs.c.id.desc()).limit(limit)
    if after is None:
        return page
    return page.where(jobs.c.id > after if oldest_first else jobs.c.id < after)


def any_unfinished(connection: Connection, *which: ColumnElement[bool]) -> bool:
    """Whether a queued or running job meets the conditions."""
    unfinished = or_(has_status(JobStatus.QUEUED), has_status(JobStatus.RUNNING))
    return connection.execute(select(jobs.c.id).where(*which, unfinished).limit(1)).first() is not None


def attempts_of(connection: Connection, job_id: int) -> list[JobAttempt]:
    """Oldest first."""
    columns = [attempts.c[name] for name in ("attempt", "worker", "started_at", "ended_at", "outcome")]
    of_job = select(*columns).where(attempts.c.job_id == job_id).order_by(attempts.c.attempt)
    return [JobAttempt(**row._mapping) for row in connection.execute(of_job)]
