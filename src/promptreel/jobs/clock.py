"""The steady clock, for all waits in the tables: a jump of the wall clock does not disturb them.

People and programs sometimes set the wall clock by an hour. So times for people (when a job was created, when it ended) are
wall-clock times, and times to wait for (leases, retries, when a worker was last seen) are steady-clock times. The steady clock
is the machine's monotonic clock plus an offset that all processes share. It starts equal to the wall clock after a boot. It
stops while the machine sleeps, as all processes do.
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
    (jobs, jobs.c.passed_at),
    (deliveries, deliveries.c.next_at),
    (deliveries, deliveries.c.tried_since),
    (deliveries, deliveries.c.lease_until),
]


@dataclass(frozen=True)
class Moment:
    """One moment by both clocks: `wall` for people, `steady` for waits."""

    wall: datetime
    steady: datetime


def moments(now: Callable[[], datetime], steady: Callable[[], datetime] | None) -> Callable[[], Moment]:
    """Reads both clocks at once. Without a steady clock, `now` serves as both, as in tests with a fake clock."""
    if steady is not None:
        return lambda: Moment(now(), steady())

    def one_clock() -> Moment:
        time = now()
        return Moment(time, time)

    return one_clock


def read_boot_id() -> str | None:
    """The id of the machine's current boot; None where the system has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


class SteadyClock:
    """A callable that returns the time. All processes of one database agree on it until the machine reboots.

    Without a boot id, it returns the wall clock's time.
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
        """Stores the offset for all processes, if this is the first call after a boot; that call also ends all waits."""
        if self._boot_id is None:
            return
        with read_transaction(self._database) as connection:
            self._ahead = _read_ahead(connection, self._boot_id)
        if self._ahead is None:
            with write_transaction(self._database) as connection:
                self._ahead = _read_ahead(connection, self._boot_id)
                if self._ahead is None:  # no other process was faster
                    self._ahead = self._ahead_by_wall()
                    write_fact(connection, STEADY_CLOCK, f"{self._boot_id} {self._ahead!r}")
                    _end_waits(connection, self())

    def _ahead_by_wall(self) -> float:
        """Seconds that the wall clock is ahead of the monotonic clock."""
        return self._now().timestamp() - self._monotonic()


def _read_ahead(connection: Connection, boot_id: str) -> float | None:
    known_boot_id, _, ahead = (read_fact(connection, STEADY_CLOCK) or "").partition(" ")
    return float(ahead) if known_boot_id == boot_id else None


def _end_waits(connection: Connection, now: datetime) -> None:
    """Ends all waits after a boot: the old workers are dead, and a reboot may have fixed what failed.

    The wall clock may be wrong after a boot, in either direction, so no time may remain in the future.
    """
    connection.execute(delete(workers))
    connection.execute(update(jobs).where(has_status(JobStatus.RUNNING)).values(lease_until=now))
    for table, column in _WAITS:
        connection.execute(update(table).where(column > now).values({column: now}))
