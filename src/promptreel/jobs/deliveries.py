"""DeliveryStore: webhook deliveries and their attempts. Only DeliveryStore reads and changes deliveries.

    pending ----> sending ----> delivered | dead
        |  <----     |              |
        |   failed, lost            |
        +  <------ redeliver -------+

The transaction that ends a job writes its deliveries (outbox.py). Claims, leases and the fence work as for jobs: a courier that
lost its claim changes nothing. A receiver may get a message more than once, always with the same id.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, literal, or_, select, tuple_, update

from promptreel.errors import DeliveryLost, DeliveryNotFound
from promptreel.jobs.clock import Moment, moments
from promptreel.jobs.database import Database, read_transaction, write_transaction
from promptreel.jobs.kinds import KINDS
from promptreel.jobs.tables import UtcTime, deliveries, delivery_attempts, jobs, utc_now

LOST = "The courier ended before an answer came."

_NO_KEY = 0  # stands for NULL, which SQL cannot compare; ids begin at 1
_KEY = (
    select(func.coalesce(jobs.c.api_key_id, _NO_KEY))
    .where(jobs.c.id == deliveries.c.job_id)
    .correlate(deliveries)
    .scalar_subquery()
)

_KIND = select(jobs.c.kind).where(jobs.c.id == deliveries.c.job_id).correlate(deliveries).scalar_subquery()


class DeliveryState(StrEnum):
    """The state of a delivery. A dead delivery is not retried unless somebody asks for a redelivery."""

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, kw_only=True)
class DeliveryAttempt:
    """The record of one POST. `status` is the receiver's HTTP status. `error` says why the POST failed or got no status."""

    number: int
    started_at: datetime
    seconds: float | None
    status: int | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The message that tells a webhook of a job's end. `id` is the same in every attempt.

    `attempt` counts claims, and is the fence. `tried_since` is the time of the first attempt, or of the first one after a
    redelivery was requested. It is a time of the steady clock (clock.py); all other times are of the wall clock.
    """

    id: str
    job_id: int
    event: str
    url: str
    host: str
    api_key_id: int | None
    state: DeliveryState
    attempt: int
    tried_since: datetime | None
    next_at: datetime
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Exclusions:
    """Deliveries that `claim` must skip, because a limit is reached.

    `receivers`: all deliveries of these pairs of API key and host. `keys`: all deliveries of these API keys. `retries_of`: the
    retries of these API keys, but not their first attempts.
    """

    receivers: Collection[tuple[int | None, str]] = ()
    keys: Collection[int | None] = ()
    retries_of: Collection[int | None] = ()


@dataclass(frozen=True)
class DeliveryClaim:
    """The right to make one attempt. Recording the outcome requires it."""

    delivery_id: str
    attempt: int
    owner: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    seconds: float
    status: int | None = None
    error: str | None = None


class DeliveryStore:
    """Safe to use from several threads and processes at once.

    `lease_seconds` must be longer than an attempt can take. `kinds`: deliveries of other job kinds are left to a version that
    knows them. `now` is the wall clock, `steady` the steady clock (clock.py).
    """

    def __init__(
        self,
        database: Database,
        *,
        lease_seconds: float = 90.0,
        kinds: Collection[str] = KINDS.keys(),
        now: Callable[[], datetime] = utc_now,
        steady: Callable[[], datetime] | None = None,
    ) -> None:
        self._database = database
        self._lease = timedelta(seconds=lease_seconds)
        self._kinds = tuple(kinds)
        self.now = moments(now, steady)

    # What a courier does

    def claim(self, owner: str, *, excluded: Exclusions = Exclusions()) -> tuple[DeliveryClaim, Delivery] | None:
        """Claims the delivery that has been due longest, or returns None. Deliveries with expired leases are due again.

        Idle couriers call this twice a second. So it takes the write lock only if there is something to claim.
        """
        with read_transaction(self._database) as connection:
            steady = self.now().steady
            if connection.execute(_next_due(steady, excluded, self._kinds)).first() is None and not _has_expired(
                connection, steady
            ):
                return None
        with write_transaction(self._database) as connection:
            now = self.now()  # read under the lock: the wait for it must not shorten the lease
            _free(connection, deliveries.c.lease_until <= now.steady, now=now)
            taken = self._take(connection, owner, excluded, now)
        return None if taken is None else (DeliveryClaim(taken.id, taken.attempt, owner), taken)

    def _take(self, connection: Connection, owner: str, excluded: Exclusions, now: Moment) -> Delivery | None:
        """pending -> sending."""
        row = connection.execute(
            update(deliveries)
            .where(deliveries.c.id == _next_due(now.steady, excluded, self._kinds).scalar_subquery())
            .values(
                state=DeliveryState.SENDING,
                attempt=deliveries.c.attempt + 1,
                owner=owner,
                lease_until=now.steady + self._lease,
                tried_since=func.coalesce(deliveries.c.tried_since, literal(now.steady, UtcTime())),
            )
            .returning(deliveries)
        ).one_or_none()
        if row is None:
            return None
        attempt = {"delivery_id": row.id, "attempt": row.attempt, "started_at": now.wall}
        connection.execute(insert(delivery_attempts).values(attempt))
        api_key_id = connection.execute(select(jobs.c.api_key_id).where(jobs.c.id == row.job_id)).scalar_one()
        return _to_delivery(row, api_key_id, now)

    def record_delivered(self, claim: DeliveryClaim, outcome: Outcome) -> None:
        """sending -> delivered. Raises DeliveryLost."""
        self._record(claim, outcome, state=DeliveryState.DELIVERED, ended_at=self.now().wall)

    def record_failed(self, claim: DeliveryClaim, outcome: Outcome, *, next_at: datetime | None) -> None:
        """sending -> pending, for a retry at `next_at` (steady clock); -> dead if `next_at` is None. Raises DeliveryLost."""
        if next_at is None:
            self._record(claim, outcome, state=DeliveryState.DEAD, ended_at=self.now().wall)
        else:
            self._record(claim, outcome, state=DeliveryState.PENDING, next_at=next_at)

    def _record(self, claim: DeliveryClaim, outcome: Outcome, **values: Any) -> None:
        held = and_(
            deliveries.c.id == claim.delivery_id,
            deliveries.c.attempt == claim.attempt,
            deliveries.c.owner == claim.owner,
            deliveries.c.state == DeliveryState.SENDING,
        )
        with write_transaction(self._database) as connection:
            changed = connection.execute(update(deliveries).where(held).values(owner=None, lease_until=None, **values))
            if changed.rowcount == 0:
                raise DeliveryLost(f"attempt {claim.attempt} no longer belongs to {claim.owner}")
            this_one = _attempt_of(claim.delivery_id, claim.attempt)
            recorded = {"seconds": outcome.seconds, "status": outcome.status, "error": outcome.error}
            connection.execute(update(delivery_attempts).where(this_one).values(recorded))

    def free_owner(self, owner: str) -> int:
        """Ends all claims of a dead courier, without waiting for its leases. Returns how many."""
        with write_transaction(self._database) as connection:
            return _free(connection, deliveries.c.owner == owner, now=self.now())

    # What people do

    def list(self, job_id: int) -> builtins.list[tuple[Delivery, Sequence[DeliveryAttempt]]]:
        """A job's deliveries, oldest first, each with its attempts."""
        with read_transaction(self._database) as connection:
            of_job = select(deliveries, jobs.c.api_key_id).join(jobs, jobs.c.id == deliveries.c.job_id)
            rows = connection.execute(of_job.where(jobs.c.id == job_id).order_by(deliveries.c.created_at)).all()
            now = self.now()
            return [(_to_delivery(row, row.api_key_id, now), _list_attempts(connection, row.id)) for row in rows]

    def redeliver(self, job_id: int) -> None:
        """Makes a job's deliveries due now, and allows another 24 hours of retries.

        Does not change a delivery that is being sent. Raises DeliveryNotFound.
        """
        of_job = deliveries.c.job_id == job_id
        again = {"state": DeliveryState.PENDING, "tried_since": None, "next_at": self.now().steady, "ended_at": None}
        with write_transaction(self._database) as connection:
            connection.execute(update(deliveries).where(of_job, deliveries.c.state != DeliveryState.SENDING).values(again))
            if connection.execute(select(deliveries.c.id).where(of_job)).first() is None:
                raise DeliveryNotFound(
                    f"Job {job_id} has nothing to deliver: it was sent without a webhook, or it has not ended yet."
                )


def _is(state: DeliveryState) -> ColumnElement[bool]:
    return deliveries.c.state == state


def _next_due(now: datetime, excluded: Exclusions, kinds: Collection[str]) -> Any:
    due = select(deliveries.c.id).where(_is(DeliveryState.PENDING), deliveries.c.next_at <= now, _KIND.in_(kinds))
    if excluded.receivers:
        receivers = [(key or _NO_KEY, host) for key, host in excluded.receivers]
        due = due.where(tuple_(_KEY, deliveries.c.host).not_in(receivers))
    if excluded.keys:
        due = due.where(_KEY.not_in([key or _NO_KEY for key in excluded.keys]))
    if excluded.retries_of:
        is_first = deliveries.c.attempt == 0
        due = due.where(or_(is_first, _KEY.not_in([key or _NO_KEY for key in excluded.retries_of])))
    return due.order_by(deliveries.c.next_at).limit(1)


def _has_expired(connection: Connection, now: datetime) -> bool:
    expired = select(deliveries.c.id).where(_is(DeliveryState.SENDING), deliveries.c.lease_until <= now)
    return connection.execute(expired.limit(1)).first() is not None


def _free(connection: Connection, which: ColumnElement[bool], *, now: Moment) -> int:
    """sending -> pending and due at once, because the courier is gone. The receiver may already have the message."""
    lost = connection.execute(
        update(deliveries)
        .where(_is(DeliveryState.SENDING), which)
        .values(state=DeliveryState.PENDING, owner=None, lease_until=None, next_at=now.steady)
        .returning(deliveries.c.id, deliveries.c.attempt)
    ).all()
    for row in lost:
        connection.execute(update(delivery_attempts).where(_attempt_of(row.id, row.attempt)).values(error=LOST))
    return len(lost)


def _attempt_of(delivery_id: str, attempt: int) -> ColumnElement[bool]:
    return and_(delivery_attempts.c.delivery_id == delivery_id, delivery_attempts.c.attempt == attempt)


def _list_attempts(connection: Connection, delivery_id: str) -> Sequence[DeliveryAttempt]:
    rows = connection.execute(
        select(delivery_attempts).where(delivery_attempts.c.delivery_id == delivery_id).order_by(delivery_attempts.c.attempt)
    ).all()
    return [
        DeliveryAttempt(number=row.attempt, started_at=row.started_at, seconds=row.seconds, status=row.status, error=row.error)
        for row in rows
    ]


def _to_delivery(row: Row[Any], api_key_id: int | None, now: Moment) -> Delivery:
    return Delivery(
        id=row.id,
        job_id=row.job_id,
        event=row.event,
        url=row.url,
        host=row.host,
        api_key_id=api_key_id,
        state=DeliveryState(row.state),
        attempt=row.attempt,
        tried_since=row.tried_since,
        next_at=now.wall + (row.next_at - now.steady),
        created_at=row.created_at,
        ended_at=row.ended_at,
    )
