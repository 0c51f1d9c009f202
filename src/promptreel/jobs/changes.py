"""ChangeLog: what has changed in the job table since a number that a client remembers. Triggers write it (tables.py).

The numbers are in the database. So they are the same in all processes, and survive a restart.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, or_, select

from promptreel.jobs.database import Database, read_transaction
from promptreel.jobs.job import AnyJob, JobStatus
from promptreel.jobs.keys import Caller
from promptreel.jobs.kinds import KINDS, Kinds
from promptreel.jobs.rows import to_job
from promptreel.jobs.tables import DELETED_KEPT, changes, has_status, is_of, jobs

_LAST = select(func.coalesce(func.max(changes.c.seq), 0))


@dataclass(frozen=True, kw_only=True)
class Change:
    """A job's last change. `seq` is larger than that of every earlier change of any job. `job` is None if it was deleted."""

    seq: int
    job_id: int
    kind: str
    job: AnyJob | None


class ChangeLog:
    """Safe to use from several threads and processes at once."""

    def __init__(self, database: Database, *, kinds: Kinds = KINDS) -> None:
        self._database = database
        self._kinds = kinds

    def last(self) -> int:
        """The number of the last change of any job; 0 before the first."""
        with read_transaction(self._database) as connection:
            return int(connection.execute(_LAST).scalar_one())

    def last_of(self, job_id: int) -> int:
        """The number of a job's last change; 0 if it has not changed since the table of changes is there."""
        with read_transaction(self._database) as connection:
            return connection.execute(select(changes.c.seq).where(changes.c.job_id == job_id)).scalar() or 0

    def reaches_back_to(self, seq: int) -> bool:
        """Whether `since(seq)` misses nothing: the number is from this database, and no later deletion is forgotten."""
        oldest_kept = (
            select(changes.c.seq).where(changes.c.is_deleted).order_by(changes.c.seq.desc()).limit(1).offset(DELETED_KEPT - 1)
        )
        with read_transaction(self._database) as connection:
            oldest = connection.execute(oldest_kept).scalar()
            last = int(connection.execute(_LAST).scalar_one())
        return (oldest is None or seq >= int(oldest)) and 0 <= seq <= last

    def since(self, seq: int, *, of: Caller, limit: int) -> builtins.list[Change]:
        """The last changes of the jobs that have changed after `seq`, oldest first. For more than `limit`, ask again."""
        later = (
            select(changes.c.seq, changes.c.job_id, changes.c.kind.label("kind_of_change"), changes.c.is_deleted, jobs)
            .select_from(changes.outerjoin(jobs, jobs.c.id == changes.c.job_id))
            .where(_is_changed_by(of), changes.c.seq > seq)
            .order_by(changes.c.seq)
            .limit(limit)
        )
        with read_transaction(self._database) as connection:
            if not self._has_later(connection, seq, of):  # the usual case, and much cheaper
                return []
            rows = connection.execute(later).all()
        return [
            Change(
                seq=row.seq,
                job_id=row.job_id,
                kind=row.kind_of_change,
                job=None if row.is_deleted or row.id is None else to_job(row, self._kinds),
            )
            for row in rows
        ]

    def _has_later(self, connection: Connection, seq: int, of: Caller) -> bool:
        newest = select(changes.c.seq).where(_is_changed_by(of)).order_by(changes.c.seq.desc()).limit(1)
        return (connection.execute(newest).scalar() or 0) > seq

    def unfinished(self, *, of: Caller, kind: str, limit: int) -> builtins.list[AnyJob]:
        """The oldest queued and running jobs."""
        is_open = or_(has_status(JobStatus.QUEUED), has_status(JobStatus.RUNNING))
        oldest = select(jobs).where(is_open, is_of(of.api_key_id), jobs.c.kind == kind).order_by(jobs.c.id).limit(limit)
        with read_transaction(self._database) as connection:
            rows = connection.execute(oldest).all()
        return [to_job(row, self._kinds) for row in rows]


def _is_changed_by(of: Caller) -> ColumnElement[bool]:
    return changes.c.api_key_id.is_(None) if of.api_key_id is None else changes.c.api_key_id == of.api_key_id
