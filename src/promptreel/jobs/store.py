"""JobStore: the job table, which is both the record and the queue. Only JobStore changes jobs.

    queued ----> running ----> succeeded | failed | cancelled
      |   <----     |
      |   lost, given back, put off
      +-----------------------> cancelled

When a method returns, its change is on disk. A job that has ended never changes again.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, select, update

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
from promptreel.jobs.selecting import any_unfinished, attempts_of, belongs, get_row, job_not_found, page_after
from promptreel.jobs.submissions import check_room, find_first, insert_job
from promptreel.jobs.tables import has_status, jobs, utc_now, workers
from promptreel.jobs.timings import RecentTimings
from promptreel.jobs.worker_records import WorkerRecord, read_workers, write_worker

# Built once: building a statement takes longer than running it.

FORGET_AFTER = timedelta(minutes=5)
"""A worker not seen for this long is removed from its table. If it comes back, it registers again."""


class JobStore:
    """Safe to use from several threads and processes at once.

    The methods' `of` and `kind` select jobs by caller and by kind; None selects all. The api uses `OwnJobs`, which always
    passes both.

    `lease_seconds`: how long a claim lasts without a heartbeat. `max_attempts`: a job fails after this many crashes.
    `timings_remembered`: how many of a model's latest successes estimates learn from. `kinds`: the job kinds that this version
    knows. Jobs of other kinds are never claimed; they can be shown, cancelled and deleted. `now` is the wall clock, `steady`
    the steady clock (clock.py).
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
        """Queues a job, or returns the job submitted earlier with the same idempotency key.

        Raises IdempotencyConflict, RateLimitExceeded and InvalidApiKey.
        """

        def insert_now(connection: Connection) -> Row[Any]:  # reads the time under the lock: times increase with ids
            return insert_job(connection, new, now=self._now(), max_attempts=self._max_attempts)

        return self._to_job(self._group.run(insert_now))

    def find_first(self, idem_key: str | None, request_hash: str | None, *, of: Caller) -> AnyJob | None:
        """The job that the same request of this caller created earlier. None if `submit` would queue a new job.

        Raises what `submit` raises. Only `submit` decides: other requests may come before it.
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
            return self._to_job(get_row(connection, job_id, of, kind))

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
        """One page of jobs, newest first unless `oldest_first`. `after` is the last id of the previous page.

        `status` and `model_id` are filters.
        """
        these = [belongs(of, kind)]
        these += [] if status is None else [has_status(status)]
        these += [] if model_id is None else [jobs.c.model_id == model_id]
        page = page_after(after, limit=limit, oldest_first=oldest_first).where(*these)
        with read_transaction(self._database) as connection:
            rows = connection.execute(page).all()
        return [self._to_job(row) for row in rows]

    def list_attempts(self, job_id: int) -> builtins.list[JobAttempt]:
        """The job's attempts, oldest first."""
        with read_transaction(self._database) as connection:
            return attempts_of(connection, job_id)

    def list_succeeded(
        self, *, limit: int, offset: int = 0, of: Caller | None = None, kind: str | None = None
    ) -> builtins.list[AnyJob]:
        """Succeeded jobs, newest first, after skipping `offset` of them."""
        succeeded = select(jobs).where(has_status(JobStatus.SUCCEEDED), belongs(of, kind)).order_by(jobs.c.id.desc())
        with read_transaction(self._database) as connection:
            rows = connection.execute(succeeded.limit(limit).offset(offset)).all()
        return [self._to_job(row) for row in rows]

    def count(self, status: JobStatus, *, of: Caller | None = None, kind: str | None = None) -> int:
        """How many jobs have this status. For queued, running and succeeded jobs an index keeps this fast."""
        those = select(func.count()).select_from(jobs).where(has_status(status), belongs(of, kind))
        with read_transaction(self._database) as connection:
            return connection.execute(those).scalar_one()

    def is_unfinished(self, file_prefix: str) -> bool:
        """Whether a queued or running job has this file prefix."""
        with read_transaction(self._database) as connection:
            return any_unfinished(connection, jobs.c.file_prefix == file_prefix)

    def is_making(self, model_id: str, *, kind: str) -> bool:
        """Whether a queued or running job of this kind makes the model, whoever asked for it."""
        with read_transaction(self._database) as connection:
            return any_unfinished(connection, jobs.c.model_id == model_id, jobs.c.kind == kind)

    def queue_ahead(self, job: AnyJob) -> Ahead:
        """The work to be done before this job.

        For a queued job: all running jobs, and the queued jobs in front of it. For a running job: its worker's jobs with less
        work left. For an ended job: none. Raises JobNotFound.
        """
        with read_transaction(self._database) as connection:
            ahead = workload.ahead_of(connection, job.id, now=self._now().steady)
        if ahead is None:
            raise job_not_found(job.id)
        return ahead

    def unfinished_work(self) -> builtins.list[Work]:
        """The work that remains of all queued and running jobs."""
        with read_transaction(self._database) as connection:
            return workload.unfinished(connection, now=self._now().steady)

    # What a worker does

    def claim(
        self,
        owner: str,
        *,
        kinds: Collection[str] | None = None,
        beside: Params | None = None,
        aside: Collection[str] = (),
        is_busy: bool = False,
        loaded: Collection[str] = (),
        fits: Callable[[Params], bool] = lambda _params: True,
    ) -> tuple[Claim, AnyJob] | None:
        """Claims the next job, or returns None. First requeues jobs with expired leases, in the same transaction.

        `kinds`: the kinds that the worker has recipes for; None means all that this version knows.

        `loaded`: the models that the worker has loaded, written as at the start of a batch key. Their jobs may pass the
        first in line for at most 20 s (`claims.PASSED_FOR`).

        `beside`: the params of a job that the worker is already running on its device. The next job must then use the same
        models or loaded ones, or be of a kind in `aside`, which uses no device; and while another worker is idle, it must
        have waited a second. Every job must pass `fits`. A worker that `is_busy` with any job claims none that has crashed a
        worker. If the next job fails one of these, the worker claims nothing: later jobs must not overtake it.

        Idle workers call this many times a second. So it takes the write lock only if there is something to claim.
        """
        known = self._kinds.keys() if kinds is None else self._kinds.keys() & kinds
        taker = claims.Taker(owner, known, beside, aside, is_busy or beside is not None, tuple(loaded))
        with read_transaction(self._database) as connection:
            if not connection.execute(select(claims.anything_to_take(taker, self._now().steady))).scalar():
                return None
            which = claims.next_to_take(taker, self._now().steady)
            if not claims.next_fits(connection, which, kinds=self._kinds, fits=fits):
                return None
        with write_transaction(self._database) as connection:
            now = self._now()  # read under the lock: the wait for it must not shorten the lease
            claims.take_from_workers(connection, jobs.c.lease_until <= now.steady, now=now)
            which = claims.next_to_take(taker, now.steady)
            if not claims.next_fits(connection, which, kinds=self._kinds, fits=fits):  # another job may be first by now
                return None
            row = claims.take_next(connection, taker, now=now, lease=self._lease)
        if row is None:
            return None
        return Claim(row.id, row.attempt, owner), self._to_job(row)

    def longest_wait(self, kind: str) -> float:
        """Seconds that the queued job of this kind which has waited longest has waited; 0 if no worker may claim one now."""
        with read_transaction(self._database) as connection:
            now = self._now().steady
            since = connection.execute(claims.waiting_since(kind, now)).scalar()
        return 0.0 if since is None else (now - since).total_seconds()

    def heartbeat(self, claim: Claim) -> bool:
        """Renews the lease. Returns whether the job is to be cancelled. Raises JobLost."""
        with write_transaction(self._database) as connection:
            now = self._now()
            row = claims.write_held(connection, claim, now=now, lease_until=now.steady + self._lease)
        return bool(row.cancel_requested)

    def report(
        self,
        claim: Claim,
        *,
        stage: JobStage,
        progress: float,
        report: dict[str, Any] | None = None,
        made_headway: bool = False,
    ) -> None:
        """Records the stage, and the progress from 0 to 1; and a report, which replaces the one before. Raises JobLost.

        `made_headway`: what was done so far is not lost if the worker dies. So the crashes before it no longer count.
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress is a share from 0 to 1, not {progress}")
        told: dict[str, Any] = {} if report is None else {"report": report}
        told |= {"crashes": 0} if made_headway else {}
        with write_transaction(self._database) as connection:
            claims.write_held(connection, claim, now=self._now(), stage=stage, progress=progress, **told)

    def finish(self, claim: Claim, result: Result, *, busy_seconds: float | None = None) -> None:
        """running -> succeeded. The file must already be in storage. On JobLost, the caller must delete it.

        `busy_seconds` is the job's own time, without its waits for other jobs of the same worker; estimates learn from it.
        None means all the time since the claim.
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
            if result.write is not None:
                result.write(connection)

    def fail(self, claim: Claim, *, code: str, message: str) -> None:
        """running -> failed. Raises JobLost."""
        with write_transaction(self._database) as connection:
            claims.end(connection, claim, JobStatus.FAILED, now=self._now(), error_code=code, error_message=message)

    def acknowledge_cancel(self, claim: Claim, *, write: Callable[[Connection], object] | None = None) -> None:
        """running -> cancelled, once the worker has stopped. `write`: as in Result. Raises JobLost."""
        with write_transaction(self._database) as connection:
            claims.end(connection, claim, JobStatus.CANCELLED, now=self._now())
            if write is not None:
                write(connection)

    def give_back(self, claim: Claim, *, wait_seconds: float = 0.0) -> None:
        """running -> queued, in its old place and without a crash; -> cancelled if that was requested. Raises JobLost.

        No worker claims the job again before `wait_seconds` have passed.
        """
        with write_transaction(self._database) as connection:
            claims.give_back(connection, claim, now=self._now(), wait=timedelta(seconds=wait_seconds))

    def put_off(self, claim: Claim, *, code: str, message: str) -> None:
        """After a temporary error: running -> queued, for a later retry; -> failed after 19 hours. Raises JobLost."""
        with write_transaction(self._database) as connection:
            claims.put_off(connection, claim, code=code, message=message, now=self._now())

    # What callers, the supervisor and the courier do

    def cancel(self, job_id: int, *, of: Caller | None = None, kind: str | None = None) -> AnyJob:
        """Cancels a queued job at once, and asks a running job's worker to stop. A job that has ended does not change.

        Raises JobNotFound.
        """
        return self._to_job(self._group.run(lambda connection: self._cancel(connection, job_id, of, kind)))

    def _cancel(self, connection: Connection, job_id: int, of: Caller | None, kind: str | None) -> Row[Any]:
        this_one = and_(jobs.c.id == job_id, belongs(of, kind))
        running = and_(this_one, has_status(JobStatus.RUNNING))
        connection.execute(update(jobs).where(running).values(cancel_requested=True))
        claims.cancel_queued(connection, this_one, now=self._now())
        return get_row(connection, job_id, of, kind)

    def delete(self, job_id: int, *, of: Caller | None = None, kind: str | None = None) -> AnyJob:
        """Deletes the job's row. Returns the job, so that the caller can delete its files. Raises JobNotFound.

        If the job is running, its worker gets JobLost, stops before its next call to the model, and deletes its file.
        """
        with write_transaction(self._database) as connection:
            job = self._to_job(get_row(connection, job_id, of, kind))
            connection.execute(delete(jobs).where(jobs.c.id == job_id))
        return job

    def requeue_expired(self) -> int:
        """Ends the claims whose lease has run out: requeues, fails or cancels their jobs. Returns how many.

        Also removes workers that were not seen for `FORGET_AFTER`.
        """
        with write_transaction(self._database) as connection:
            now = self._now()
            connection.execute(delete(workers).where(workers.c.last_seen < now.steady - FORGET_AFTER))
            return claims.take_from_workers(connection, jobs.c.lease_until <= now.steady, now=now)

    def free_owner(self, owner: str) -> int:
        """Ends all claims of a worker known to be dead, without waiting for its leases, and removes the worker.

        Returns the number of jobs.
        """
        with write_transaction(self._database) as connection:
            connection.execute(delete(workers).where(workers.c.id == owner))
            return claims.take_from_workers(connection, jobs.c.owner == owner, now=self._now())

    def end_stalled(self, stalled: Claim) -> None:
        """Ends all claims of a worker with a stalled job, and removes the worker. Only the stalled job counts a crash."""
        with write_transaction(self._database) as connection:
            now = self._now()
            connection.execute(delete(workers).where(workers.c.id == stalled.owner))
            claims.take_from_workers(connection, claims.is_held(stalled), now=now)
            claims.give_all_back(connection, stalled.owner, now=now)

    def check_writable(self) -> None:
        """Tests the database with a small write. Raises DatabaseBusy and DiskFull."""
        with write_transaction(self._database) as connection:
            write_fact(connection, LAST_CHECK, self._now().wall.isoformat())

    def _to_job(self, row: Row[Any]) -> AnyJob:
        return to_job(row, self._kinds)

    # What estimates need

    def record_worker(self, worker: WorkerRecord) -> None:
        """Replaces the worker's record, and marks it as seen now."""
        with write_transaction(self._database) as connection:
            write_worker(connection, worker, now=self._now().steady)

    def live_workers(self) -> builtins.list[WorkerRecord]:
        """The workers seen within `claims.LIVE`, sorted by id."""
        since = self._now().steady - claims.LIVE
        with read_transaction(self._database) as connection:
            return read_workers(connection, since=since)

    def recent_timings(self, model_id: str) -> Sequence[Timing]:
        """How long this model's latest succeeded jobs took, newest first."""
        with read_transaction(self._database) as connection:
            return self._timings.read(connection, model_id)
