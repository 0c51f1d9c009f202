"""The steady clock: whatever waits in the tables waits by it, so that nothing hangs on jumps of the wall clock.

A wall clock is set back or forward by an hour now and then, by people and by programs. So what people are told (when a job was
made, when it ended) is the wall clock's time, and what is waited for (leases, retries, when a worker was last seen) is the
steady clock's: the machine's monotonic clock plus a number that all processes share, which makes it look like a time of day.
It agrees with the wall clock when the machine starts, and stands still while the machine sleeps: all processes sleep with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, delete, update

from promptreel.jobs.database import Database, read_transaction, write_transaction
from promptreel.jobs.installation_facts import STEADY_CLOCK, read_fact, write_fact
from promptreel.jobs.job import JobStatus
from promptreel.jobs.tables import deliveries, has_status, jobs, utc_now, workers

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WAITS = [
    (jobs, jobs.c.run_at),
    (deliveries, deliveries.c.next_at),
    (deliveries, deliveries.c.tried_since),
    (deliveries, deliveries.c.lease_until),
]


@dataclass(frozen=True)
class Moment:
    """One moment by both clocks: `wall` is what people are told, `steady` is what is waited by."""

    wall: datetime
    steady: datetime


def moments(now: Callable[[], datetime], steady: Callable[[], datetime] | None) -> Callable[[], Moment]:
    """Both clocks as one. Without a steady one, the wall clock is taken for it, as tests do whose clock is made up."""
    if steady is not None:
        return lambda: Moment(now(), steady())

    def one_clock() -> Moment:
        time = now()
        return Moment(time, time)

    return one_clock


def read_boot_id() -> str | None:
    """Which start of this machine it is; None where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


class SteadyClock:
    """Called, it tells the time. All processes of one database agree on it while the machine runs; a new start begins anew.

    Where the system does not say which start of the machine it is, the wall clock must do.
    """

    def __init__(
        self,
        database: Database,
        *,
        read_boot_id: Callable[[], str | None] = read_boot_id,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._boot_id = read_boot_id()
        self._monotonic = monotonic
        self._now = now
        self._ahead: float | None = None

    def __call__(self) -> datetime:
        if self._boot_id is None:
            return self._now()
        if self._ahead is None:
            with read_transaction(self._database) as connection:
                ahead = _read_ahead(connection, self._boot_id)
            self._ahead = self._ahead_by_wall() if ahead is None else ahead
        return datetime.fromtimestamp(self._monotonic() + self._ahead, UTC)

    def begin(self) -> None:
        """Has all processes agree, with the first that calls this after the machine has started; it ends all waits besides."""
        if self._boot_id is None:
            return
        with read_transaction(self._database) as connection:
            self._ahead = _read_ahead(connection, self._boot_id)
        if self._ahead is None:
            with write_transaction(self._database) as connection:
                self._ahead = _read_ahead(connection, self._boot_id)
                if self._ahead is None:  # nobody was faster
                    self._ahead = self._ahead_by_wall()
                    write_fact(connection, STEADY_CLOCK, f"{self._boot_id} {self._ahead!r}")
                    _end_waits(connection, self())

    def _ahead_by_wall(self) -> float:
        """How far the wall clock is ahead of the monotonic one."""
        return self._now().timestamp() - self._monotonic()


def _read_ahead(connection: Connection, boot_id: str) -> float | None:
    known_boot_id, _, ahead = (read_fact(connection, STEADY_CLOCK) or "").partition(" ")
    return float(ahead) if known_boot_id == boot_id else None


def _end_waits(connection: Connection, now: datetime) -> None:
    """After a start of the machine nothing waits on: no worker lives that had a job, and what failed may have been mended.

    The wall clock may have come up wrong, in either direction: no time is left that lies in the future.
    """
    connection.execute(delete(workers))
    connection.execute(update(jobs).where(has_status(JobStatus.RUNNING)).values(lease_until=now))
    for table, column in _WAITS:
        connection.execute(update(table).where(column > now).values({column: now}))
