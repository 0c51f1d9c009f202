"""JobStore: the job table as record and as queue. Nothing else changes a job.

    queued ----> running ----> succeeded | failed | cancelled
      |   <----     |
      |   lost, given back
      +-----------------------> cancelled

A method that returns has its change on disk. A job that has ended never changes again.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, delete, func, insert, select, true, update

from promptreel.errors import JobNotFound
from promptreel.jobs import claims, workload
from promptreel.jobs.clock import moments
from promptreel.jobs.database import Database, read_transaction, write_transaction
from promptreel.jobs.eta import Ahead, Timing, Work
from promptreel.jobs.group_commit import GroupCommit
from promptreel.jobs.installation_facts import LAST_CHECK, write_fact
from promptreel.jobs.job import AnyJob, Claim, JobAttempt, JobStage, JobStatus, NewJob, Result
from promptreel.jobs.keys import Caller
from promptreel.jobs.kinds import KINDS, Kinds, Params
from promptreel.jobs.rows import to_job
from promptreel.jobs.submissions import check_room, find_first, insert_job
from promptreel.jobs.tables import attempts, has_status, is_of, jobs, utc_now, workers
from promptreel.jobs.timings import RecentTimings

# Built once: putting a statement together takes longer than running it.
_ONE = select(jobs).where(jobs.c.id == bindparam("job_id"))
_ONE_OF_KEY = _ONE.where(jobs.c.api_key_id == bindparam("api_key_id"))
_ONE_WITHOUT_KEY = _ONE.where(jobs.c.api_key_id.is_(None))
_LIVE_WORKERS = select(workers).where(workers.c.last_seen >= bindparam("since")).order_by(workers.c.id)

FORGOTTEN = timedelta(minutes=5)
"""A worker that was not seen for so long is gone; one that comes back introduces itself again."""


@dataclass(frozen=True, kw_only=True)
class WorkerRecord:
    """What a worker says about itself now and then. `seconds_per_unit` is what it measured, None before its first job."""

    id: str
    device: str
    seconds_per_unit: float | None


class JobStore:
    """Safe to use from several threads and processes at once.

    `of` and `kind` say whose jobs are looked at, and which; left out, all. Requests come by way of `OwnJobs`, which always says
    both.
    `lease_seconds` is how long a claim lives without a heartbeat. A job whose worker died `max_attempts` times fails.
    `timings_remembered` is of how many of a model's successes estimates learn. `kinds` are those that this version knows;
    jobs of others are neither claimed nor harmed. `now` is the wall clock, `steady` the one by
    which is waited (clock.py).
    """

    def __init__(
        self,
        database: Database,
        *,
        lease_seconds: float = 30.0,
        max_attempts: int = 5,
        timings_remembered: int = 50,
        kinds: Kinds = KINDS,
        now: Callable[[], datetime] = utc_now,
        steady: Callable[[], datetime] | None = None,
    ) -> None:
        self._database = database
        self._group = GroupCommit(database)
        self._timings = RecentTimings(limit=timings_remembered)
        self._lease = timedelta(seconds=lease_seconds)
        self._max_attempts = max_attempts
        self._kinds = kinds
        self._now = moments(now, steady)

    # Submitting and reading

    def submit(self, new: NewJob) -> AnyJob:
        """Queues a job. Once this returns, the job is on disk and ends in exactly one way.

        A job that was submitted before with the same idempotency key is returned instead. Raises IdempotencyConflict,
        RateLimitExceeded and InvalidApiKey.
        """

        def insert_now(connection: Connection) -> Row[Any]:  # the time is read under the lock: jobs are as old as their ids say
            return insert_job(connection, new, now=self._now(), max_attempts=self._max_attempts)

        return self._to_job(self._group.run(insert_now))

    def find_first(self, idem_key: str | None, request_hash: str | None, *, of: Caller) -> AnyJob | None:
        """The job that the same request of this caller made before; None if one that it makes now would be queued.

        Raises what `submit` raises. Only that decides: others may submit at the same time.
        """
        if idem_key is None and of.api_key_id is None:
            return None
        with read_transaction(self._database) as connection:
            row = find_first(connection, of.api_key_id, idem_key, request_hash)
            if row is None and of.api_key_id is not None:
                check_room(connection, of.api_key_id)
        return None if row is None else self._to_job(row)

    def get(self, job_id: int, *, of: Caller | None = None, kind: str | None = None) -> AnyJob:
        """Raises JobNotFound."""
        with read_transaction(self._database) as connection:
            return self._to_job(_get(connection, job_id, of, kind))

    def get_by_file_prefix(self, file_prefix: str) -> AnyJob:
        """Raises JobNotFound."""
        with read_transaction(self._database) as connection:
            row = connection.execute(select(jobs).where(jobs.c.file_prefix == file_prefix)).one_or_none()
        if row is None:
            raise JobNotFound(f"There is no job whose file is named {file_prefix}.")
        return self._to_job(row)

    def list(
        self,
        *,
        limit: int = 50,
        after: int | None = None,
        oldest_first: bool = False,
        status: JobStatus | None = None,
        model_id: str | None = None,
        of: Caller | None = None,
        kind: str | None = None,
    ) -> builtins.list[AnyJob]:
        """The newest jobs, newest first, or the oldest ones, oldest first; `after` is the last id of the page before.

        `status` and `model_id` leave out jobs in other states and of other models.
        """
        these = [true() if status is None else has_status(status), true() if model_id is None else jobs.c.model_id == model_id]
        page = (
            select(jobs)
            .where(_belongs(of, kind), *these)
            .order_by(jobs.c.id if oldest_first else jobs.c.id.desc())
            .limit(limit)
        )
        if after is not None:
            page = page.where(jobs.c.id > after if oldest_first else jobs.c.id < after)
        with read_transaction(self._database) as connection:
            rows = connection.execute(page).all()
        return [self._to_job(row) for row in rows]

    def list_attempts(self, job_id: int) -> builtins.list[JobAttempt]:
        """Every time that a worker took the job, the first one first."""
        of_job = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.attempt)
        with read_transaction(self._database) as connection:
            rows = connection.execute(of_job).all()
        return [
            JobAttempt(
                attempt=row.attempt, worker=row.worker, started_at=row.started_at, ended_at=row.ended_at, outcome=row.outcome
            )
            for row in rows
        ]

    def list_succeeded(
        self, *, limit: int, offset: int = 0, of: Caller | None = None, kind: str | None = None
    ) -> builtins.list[AnyJob]:
        """The newest jobs that succeeded, newest first, without the first `offset` of them."""
        succeeded = select(jobs).where(has_status(JobStatus.SUCCEEDED), _belongs(of, kind)).order_by(jobs.c.id.desc())
        with read_transaction(self._database) as connection:
            rows = connection.execute(succeeded.limit(limit).offset(offset)).all()
        return [self._to_job(row) for row in rows]

    def count(self, status: JobStatus, *, of: Caller | None = None, kind: str | None = None) -> int:
        """How many jobs are in this state. Quick, whatever has ended, for those that wait, run or succeeded."""
        those = select(func.count()).select_from(jobs).where(has_status(status), _belongs(of, kind))
        with read_transaction(self._database) as connection:
            return connection.execute(those).scalar_one()

    def queue_ahead(self, job: AnyJob) -> Ahead:
        """What will be served before this job: the running jobs, then the queued ones in front of it.

        Once the job itself runs, the jobs of its worker that have less left; once it has ended, none. Raises JobNotFound.
        """
        with read_transaction(self._database) as connection:
            ahead = workload.ahead_of(connection, job.id, now=self._now().steady)
        if ahead is None:
            raise _job_not_found(job.id)
        return ahead

    def unfinished_work(self) -> builtins.list[Work]:
        """What is left of all jobs that wait or run."""
        with read_transaction(self._database) as connection:
            return workload.unfinished(connection, now=self._now().steady)

    # What a worker does

    def claim(
        self,
        owner: str,
        *,
        kinds: Collection[str] | None = None,
        beside: Params | None = None,
        fits: Callable[[Params], bool] = lambda _params: True,
    ) -> tuple[Claim, AnyJob] | None:
        """Takes the next job, or returns None. Jobs whose lease ran out go back to the queue first, in the same transaction.

        `kinds` are those that the worker has recipes for; left out, all that this version knows. `beside` are the params of a
        job that it has in hand: then the next one is only taken if it is of the same kind and model, never took a worker down
        with it, and `fits`. Nothing overtakes it: the worker comes to it when it has no job in hand, or room. For a second it
        is left to workers that have none.

        Idle workers call this many times a second, so that a look without the write lock comes first.
        """
        taker = claims.Taker(owner, self._kinds.keys() if kinds is None else self._kinds.keys() & kinds, beside)
        with read_transaction(self._database) as connection:
            if not connection.execute(select(claims.anything_to_take(taker, self._now().steady))).scalar():
                return None
            which = claims.next_to_take(taker, self._now().steady)
            if not claims.next_fits(connection, which, kinds=self._kinds, fits=fits):
                return None
        with write_transaction(self._database) as connection:
            now = self._now()  # read under the lock: waiting for it must not eat into the lease
            claims.take_from_workers(connection, jobs.c.lease_until <= now.steady, now=now)
            which = claims.next_to_take(taker, now.steady)
            if not claims.next_fits(connection, which, kinds=self._kinds, fits=fits):  # another one may be first by now
                return None
            row = claims.take_next(connection, taker, now=now, lease=self._lease)
        if row is None:
            return None
        return Claim(row.id, row.attempt, owner), self._to_job(row)

    def heartbeat(self, claim: Claim) -> bool:
        """Renews the lease; returns whether somebody asked to cancel the job. Raises JobLost."""
        with write_transaction(self._database) as connection:
            now = self._now()
            row = claims.write_held(connection, claim, now=now, lease_until=now.steady + self._lease)
        return bool(row.cancel_requested)

    def report(self, claim: Claim, *, stage: JobStage, progress: float) -> None:
        """Says how far the job is, 0 to 1. Raises JobLost."""
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress is a share from 0 to 1, not {progress}")
        with write_transaction(self._database) as connection:
            claims.write_held(connection, claim, now=self._now(), stage=stage, progress=progress)

    def finish(self, claim: Claim, result: Result, *, busy_seconds: float | None = None) -> None:
        """running -> succeeded. The file must be in storage by now. Raises JobLost: then the file is nobody's.

        `busy_seconds` is what the job itself took, without its waiting for others in the same worker: estimates learn from it.
        Left out, it is all the time since the claim.
        """
        values = {
            "progress": 1.0,
            "result_key": result.key,
            "result_bytes": result.size_bytes,
            "result_sha256": result.sha256,
            "result_facts": result.facts,
        }
        with write_transaction(self._database) as connection:
            claims.end(connection, claim, JobStatus.SUCCEEDED, now=self._now(), busy_seconds=busy_seconds, **values)

    def fail(self, claim: Claim, *, code: str, message: str) -> None:
        """running -> failed. Raises JobLost."""
        with write_transaction(self._database) as connection:
            claims.end(connection, claim, JobStatus.FAILED, now=self._now(), error_code=code, error_message=message)

    def acknowledge_cancel(self, claim: Claim) -> None:
        """running -> cancelled, once the worker has stopped. Raises JobLost."""
        with write_transaction(self._database) as connection:
            claims.end(connection, claim, JobStatus.CANCELLED, now=self._now())

    def give_back(self, claim: Claim) -> None:
        """running -> queued, in its old place; not a crash. A job that is to be cancelled ends instead. Raises JobLost."""
        with write_transaction(self._database) as connection:
            claims.give_back(connection, claim, now=self._now())

    def put_off(self, claim: Claim, *, code: str, message: str) -> None:
        """running -> queued, to be tried again later: for what may pass. After a day of that, -> failed. Raises JobLost."""
        with write_transaction(self._database) as connection:
            claims.put_off(connection, claim, code=code, message=message, now=self._now())

    # What others do to a job

    def cancel(self, job_id: int, *, of: Caller | None = None, kind: str | None = None) -> AnyJob:
        """A queued job ends at once; a running one is marked, and its worker stops it; one that has ended stays as it is.

        Raises JobNotFound.
        """
        return self._to_job(self._group.run(lambda connection: self._cancel(connection, job_id, of, kind)))

    def _cancel(self, connection: Connection, job_id: int, of: Caller | None, kind: str | None) -> Row[Any]:
        this_one = and_(jobs.c.id == job_id, _belongs(of, kind))
        running = and_(this_one, has_status(JobStatus.RUNNING))
        connection.execute(update(jobs).where(running).values(cancel_requested=True))
        claims.cancel_queued(connection, this_one, now=self._now())
        return _get(connection, job_id, of, kind)

    def delete(self, job_id: int, *, of: Caller | None = None, kind: str | None = None) -> AnyJob:
        """Removes the job and returns what it last was, so that its files can be deleted. Raises JobNotFound.

        The worker of a running one has lost it with that: it stops at its next call, and removes what it made.
        """
        with write_transaction(self._database) as connection:
            job = self._to_job(_get(connection, job_id, of, kind))
            connection.execute(delete(jobs).where(jobs.c.id == job_id))
        return job

    def requeue_expired(self) -> int:
        """Takes jobs whose lease ran out from their workers: back to the queue, or failed or cancelled. Returns how many.

        Workers that were not seen for long are forgotten.
        """
        with write_transaction(self._database) as connection:
            now = self._now()
            connection.execute(delete(workers).where(workers.c.last_seen < now.steady - FORGOTTEN))
            return claims.take_from_workers(connection, jobs.c.lease_until <= now.steady, now=now)

    def free_owner(self, owner: str) -> int:
        """Takes all jobs from a worker that is known to be dead, without waiting for its leases, and forgets the worker.

        Returns the number of jobs.
        """
        with write_transaction(self._database) as connection:
            connection.execute(delete(workers).where(workers.c.id == owner))
            return claims.take_from_workers(connection, jobs.c.owner == owner, now=self._now())

    def end_stalled(self, stalled: Claim) -> None:
        """Takes a job from its worker as if that had died; the worker's others go back at no cost, and it is forgotten."""
        with write_transaction(self._database) as connection:
            now = self._now()
            connection.execute(delete(workers).where(workers.c.id == stalled.owner))
            claims.take_from_workers(connection, claims.is_held(stalled), now=now)
            others = select(jobs).where(has_status(JobStatus.RUNNING), jobs.c.owner == stalled.owner)
            for row in connection.execute(others).all():
                claims.give_back(connection, Claim(row.id, row.attempt, row.owner), now=now)

    def check_writable(self) -> None:
        """Raises DatabaseBusy and DiskFull where a worker's heartbeat would."""
        with write_transaction(self._database) as connection:
            write_fact(connection, LAST_CHECK, self._now().wall.isoformat())

    def _to_job(self, row: Row[Any]) -> AnyJob:
        return to_job(row, self._kinds)

    # What an estimate needs

    def record_worker(self, worker: WorkerRecord) -> None:
        """Keeps the newest record of each worker, and that it was seen now."""
        values = {**asdict(worker), "last_seen": self._now().steady}
        with write_transaction(self._database) as connection:
            known = connection.execute(update(workers).where(workers.c.id == worker.id).values(values))
            if known.rowcount == 0:
                connection.execute(insert(workers).values(values))

    def live_workers(self) -> builtins.list[WorkerRecord]:
        """The workers that were seen lately, by id."""
        since = self._now().steady - claims.LIVE
        with read_transaction(self._database) as connection:
            rows = connection.execute(_LIVE_WORKERS, {"since": since}).all()
        return [WorkerRecord(id=row.id, device=row.device, seconds_per_unit=row.seconds_per_unit) for row in rows]

    def recent_timings(self, model_id: str) -> Sequence[Timing]:
        """How long this model's latest successes took, newest first."""
        with read_transaction(self._database) as connection:
            return self._timings.read(connection, model_id)


def _belongs(of: Caller | None, kind: str | None) -> ColumnElement[bool]:
    """Whether a job is the caller's, and of this kind; with None, which no request can bring about, every job is."""
    return and_(true() if of is None else is_of(of.api_key_id), true() if kind is None else jobs.c.kind == kind)


def _get(connection: Connection, job_id: int, of: Caller | None, kind: str | None) -> Row[Any]:
    """Reads with a statement that is built already, because nothing is asked for more often."""
    if of is None:
        found = connection.execute(_ONE, {"job_id": job_id})
    elif of.api_key_id is None:
        found = connection.execute(_ONE_WITHOUT_KEY, {"job_id": job_id})
    else:
        found = connection.execute(_ONE_OF_KEY, {"job_id": job_id, "api_key_id": of.api_key_id})
    row = found.one_or_none()
    if row is None or kind not in (None, row.kind):
        raise _job_not_found(job_id)
    return row


def _job_not_found(job_id: int) -> JobNotFound:
    return JobNotFound(f"There is no job {job_id}. Check the id that was returned when it was submitted.")
