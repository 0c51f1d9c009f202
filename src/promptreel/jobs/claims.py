"""Claiming jobs, and ending claims. Every function that writes runs inside a write transaction of the store.

The fence: every write of a worker names the job, the attempt and the owner of its claim, and matches only a running row with
all three. A worker that lost its job changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, case, func, insert, literal, or_, select, update

from promptreel.errors import JobLost, WorkerLost
from promptreel.jobs.clock import Moment
from promptreel.jobs.job import Claim, JobStatus
from promptreel.jobs.kinds import Kinds, Params
from promptreel.jobs.outbox import change_jobs
from promptreel.jobs.submissions import advance_clock
from promptreel.jobs.tables import api_keys, attempts, has_status, jobs, workers

NOT_CLAIMED: Mapping[str, Any] = MappingProxyType({"owner": None, "lease_until": None, "stage": None})
BACK_IN_QUEUE: Mapping[str, Any] = MappingProxyType(
    {**NOT_CLAIMED, "status": JobStatus.QUEUED, "progress": 0.0, "started_at": None}
)

LIVE = timedelta(seconds=30)
"""A worker seen within this time counts as alive."""

LEFT_TO_THE_IDLE = timedelta(seconds=1)
"""How long busy workers leave a new job to idle ones, which poll twenty times a second."""

PUT_OFF = "put_off"
FIRST_WAIT, LONGEST_WAIT, MOST_WAITS = timedelta(minutes=1), timedelta(hours=1), 24
"""The waits of a job that is put off. Each is twice the one before, up to the longest. All together take 19 hours."""


PASSED_FOR = timedelta(seconds=20)
"""How long a job whose model is not loaded may be passed by others whose models are."""

_head, _queued, _running = jobs.alias(), jobs.alias(), jobs.alias()  # made once: it takes longer than a query


@dataclass(frozen=True)
class Taker:
    """A worker that asks for a job. `beside`: the params of a job that it runs on its device, if any. `aside`: the kinds that
    use no device, and so run beside any job. `is_busy`: whether it runs any job. `loaded`: the models that it has loaded, as
    batch keys begin.
    """

    owner: str
    kinds: Collection[str]
    beside: Params | None = None
    aside: Collection[str] = ()
    is_busy: bool = False
    loaded: Collection[str] = ()


def first_in_line(kinds: Collection[str], now: datetime, *, loaded: Collection[str] | None = None) -> Select[tuple[int]]:
    """The id of the next job of these kinds. A job that was given back keeps its old place.

    Skips jobs whose API key has reached its limit of running jobs. `loaded`: only jobs of these models.
    """
    line = select(jobs.c.id).where(has_status(JobStatus.QUEUED), jobs.c.kind.in_(kinds), jobs.c.run_at <= now, may_run())
    if loaded is not None:
        line = line.where(or_(*map(_is_of_models, loaded)))
    return line.order_by(jobs.c.priority, jobs.c.vt, jobs.c.id).limit(1)


def _is_of_models(models: str) -> ColumnElement[bool]:
    """Condition: the job's batch key begins with these models."""
    start = f"{models}|"
    return func.substr(jobs.c.batch_key, 1, len(start)) == start


def _is_any_queued(models: str) -> ColumnElement[bool]:
    """Condition: a job of these models is queued. An index tells, where the line would have to be read to its end."""
    is_queued = _queued.c.status == literal(JobStatus.QUEUED.value, literal_execute=True)
    key = _queued.c.batch_key
    return select(_queued.c.id).where(is_queued, key >= f"{models}|", key < f"{models}}}").exists()  # "}" comes after "|"


def _choose(taker: Taker, now: datetime) -> ColumnElement[int]:
    """The id of the job that the worker should do next: the first in line, or before it the first one whose model is loaded.

    The first in line is passed for PASSED_FOR at most.
    """
    first = first_in_line(taker.kinds, now)
    if not taker.loaded:
        return first.scalar_subquery()
    has_waited = select(_head.c.id).where(_head.c.id == first.scalar_subquery(), _head.c.passed_at <= now - PASSED_FOR).exists()
    is_any_queued = or_(*map(_is_any_queued, taker.loaded))
    preferred = case((is_any_queued, first_in_line(taker.kinds, now, loaded=taker.loaded).scalar_subquery()))
    return case((has_waited, first.scalar_subquery()), else_=func.coalesce(preferred, first.scalar_subquery()))


def waiting_since(kind: str, now: datetime) -> Select[Any]:
    """Since when the job of this kind that has waited longest may be claimed."""
    waiting = (has_status(JobStatus.QUEUED), jobs.c.kind == kind, jobs.c.run_at <= now, may_run())
    return select(func.min(jobs.c.run_at)).where(*waiting)


def may_run() -> ColumnElement[bool]:
    """Condition: the job's API key, if any, is below its limit of running jobs."""
    is_running = _running.c.status == literal(JobStatus.RUNNING.value, literal_execute=True)
    count = select(func.count()).where(is_running, _running.c.api_key_id == api_keys.c.id).scalar_subquery()
    full = select(api_keys.c.id).where(api_keys.c.max_running <= count)  # NULL means no limit, and matches nothing
    return or_(jobs.c.api_key_id.is_(None), jobs.c.api_key_id.not_in(full))


def next_to_take(taker: Taker, now: datetime) -> ColumnElement[bool]:
    """Condition: the job is the next for this worker, and may run beside its running jobs.

    Beside others on the device, its models must be theirs or loaded. Beside any, it must have crashed no worker. A busy worker
    leaves the job to an idle one, but only for LEFT_TO_THE_IDLE, because the idle one may be stuck.
    """
    first = and_(jobs.c.id == _choose(taker, now), has_status(JobStatus.QUEUED))
    if taker.is_busy:
        first = and_(first, jobs.c.crashes == 0)
    if taker.beside is None:
        return first
    models = {taker.beside.batch_key.partition("|")[0], *taker.loaded}
    is_alike = and_(jobs.c.kind == taker.beside.kind, or_(*map(_is_of_models, sorted(models))))
    idle_had_their_chance = or_(jobs.c.run_at <= now - LEFT_TO_THE_IDLE, ~another_is_idle(taker.owner, now))
    return and_(first, or_(is_alike, jobs.c.kind.in_(taker.aside)), idle_had_their_chance)


def next_fits(connection: Connection, which: ColumnElement[bool], *, kinds: Kinds, fits: Callable[[Params], bool]) -> bool:
    """Whether the job that matches `which` passes `fits`. True if no job matches."""
    row = connection.execute(select(jobs.c.kind, jobs.c.params).where(which)).one_or_none()
    return row is None or fits(kinds[row.kind](row.params))


def another_is_idle(owner: str, now: datetime) -> ColumnElement[bool]:
    """Condition: another live worker has no job."""
    busy = select(jobs.c.owner).where(has_status(JobStatus.RUNNING))
    others = select(workers.c.id).where(workers.c.id != owner, workers.c.last_seen >= now - LIVE)
    return others.where(workers.c.id.not_in(busy)).exists()


def anything_to_take(taker: Taker, now: datetime) -> ColumnElement[bool]:
    """Condition: there is a job to claim, or an expired lease."""
    expired = select(jobs.c.id).where(has_status(JobStatus.RUNNING), jobs.c.lease_until <= now)
    return or_(select(jobs.c.id).where(next_to_take(taker, now)).exists(), expired.exists())


def take_next(connection: Connection, taker: Taker, *, now: Moment, lease: timedelta) -> Row[Any] | None:
    """queued -> running. Returns the job's new row, or None if there is no job to claim."""
    first = connection.execute(first_in_line(taker.kinds, now.steady)).scalar() if taker.loaded else None
    row = connection.execute(
        update(jobs)
        .where(next_to_take(taker, now.steady))
        .values(
            status=JobStatus.RUNNING,
            attempt=jobs.c.attempt + 1,
            owner=taker.owner,
            lease_until=now.steady + lease,
            started_at=now.wall,
        )
        .returning(jobs)
    ).one_or_none()
    if row is not None:
        if first is not None and first != row.id:
            is_first_pass = and_(jobs.c.id == first, jobs.c.passed_at.is_(None))
            connection.execute(update(jobs).where(is_first_pass).values(passed_at=now.steady))
        connection.execute(
            insert(attempts).values(job_id=row.id, attempt=row.attempt, worker=taker.owner, started_at=now.wall, units=row.cost)
        )
        advance_clock(connection, row.vt)
    return row


def is_held(claim: Claim) -> ColumnElement[bool]:
    """The fence, as an SQL condition."""
    return and_(
        jobs.c.id == claim.job_id,
        jobs.c.attempt == claim.attempt,
        jobs.c.owner == claim.owner,
        has_status(JobStatus.RUNNING),
    )


def write_held(connection: Connection, claim: Claim, *, now: Moment, **values: Any) -> Row[Any]:
    """Changes the claimed job and returns its new row. Raises JobLost if the claim is no longer valid."""
    rows = change_jobs(connection, is_held(claim), now=now, **values)
    if not rows:
        raise JobLost(f"job {claim.job_id} no longer belongs to attempt {claim.attempt} of {claim.owner}")
    return rows[0]


def end(
    connection: Connection,
    claim: Claim,
    status: JobStatus,
    *,
    now: Moment,
    busy_seconds: float | None = None,
    **values: Any,
) -> None:
    """running -> succeeded, failed or cancelled, by its worker."""
    write_held(connection, claim, now=now, status=status, finished_at=now.wall, **NOT_CLAIMED, **values)
    _close_attempt(connection, claim, status.value, now=now, busy_seconds=busy_seconds)


def give_back(connection: Connection, claim: Claim, *, now: Moment, wait: timedelta = timedelta()) -> None:
    """running -> queued, or -> cancelled if that was requested meanwhile. Not claimed again before `wait` has passed."""
    _return_to_queue(connection, claim, "given_back", run_at=now.steady + wait, now=now)


def give_all_back(connection: Connection, owner: str, *, now: Moment) -> None:
    """Gives back all jobs that this worker still holds."""
    held = select(jobs).where(has_status(JobStatus.RUNNING), jobs.c.owner == owner)
    for row in connection.execute(held).all():
        give_back(connection, Claim(row.id, row.attempt, row.owner), now=now)


def put_off(connection: Connection, claim: Claim, *, code: str, message: str, now: Moment) -> None:
    """running -> queued, for a retry after a wait that doubles each time; -> failed after MOST_WAITS waits."""
    times = select(func.count()).where(attempts.c.job_id == claim.job_id, attempts.c.outcome == PUT_OFF)
    waits_so_far = connection.execute(times).scalar_one()
    if waits_so_far >= MOST_WAITS:
        end(connection, claim, JobStatus.FAILED, now=now, error_code=code, error_message=message)
        return
    wait = min(FIRST_WAIT * 2**waits_so_far, LONGEST_WAIT)
    _return_to_queue(connection, claim, PUT_OFF, run_at=now.steady + wait, now=now)


def _return_to_queue(connection: Connection, claim: Claim, outcome: str, *, run_at: datetime, now: Moment) -> None:
    row = write_held(connection, claim, now=now, run_at=run_at, **BACK_IN_QUEUE)
    if row.cancel_requested:
        cancel_queued(connection, jobs.c.id == row.id, now=now)
    _close_attempt(connection, claim, outcome, now=now)


def cancel_queued(connection: Connection, which: ColumnElement[bool], *, now: Moment) -> None:
    """queued -> cancelled. Leaves jobs with another status alone."""
    queued = and_(which, has_status(JobStatus.QUEUED))
    change_jobs(connection, queued, now=now, status=JobStatus.CANCELLED, finished_at=now.wall)


def take_from_workers(connection: Connection, which: ColumnElement[bool], *, now: Moment) -> int:
    """Ends the claims on all matching running jobs, because their workers are gone. Returns how many."""
    lost = connection.execute(select(jobs).where(has_status(JobStatus.RUNNING), which)).all()
    for row in lost:
        claim = Claim(row.id, row.attempt, row.owner)
        write_held(connection, claim, now=now, crashes=row.crashes + 1, **_after_crash(row, now))
        _close_attempt(connection, claim, "lost", now=now)
    return len(lost)


def _after_crash(row: Row[Any], now: Moment) -> Mapping[str, Any]:
    if row.cancel_requested:
        return {**NOT_CLAIMED, "status": JobStatus.CANCELLED, "finished_at": now.wall}
    if row.crashes + 1 < row.max_attempts:
        return {**BACK_IN_QUEUE, "run_at": now.steady}
    died = "A worker" if row.crashes == 0 else f"{row.crashes + 1} workers"
    message = (
        f"{died} died while running this job, so it is not retried. "
        "Ask for fewer frames or a smaller size, or read the worker's log."
    )
    ended = {"status": JobStatus.FAILED, "finished_at": now.wall, "error_code": WorkerLost.code, "error_message": message}
    return {**NOT_CLAIMED, **ended}


def _close_attempt(
    connection: Connection, claim: Claim, outcome: str, *, now: Moment, busy_seconds: float | None = None
) -> None:
    this_one = and_(attempts.c.job_id == claim.job_id, attempts.c.attempt == claim.attempt)
    started_at = connection.execute(select(attempts.c.started_at).where(this_one)).scalar_one()
    passed = max(0.0, (now.wall - started_at).total_seconds())  # the wall clock may have been set back
    seconds = passed if busy_seconds is None else busy_seconds
    connection.execute(update(attempts).where(this_one).values(ended_at=now.wall, outcome=outcome, seconds=seconds))
