"""Group commit: threads that write at the same time share one transaction, and so one flush to disk.

A flush takes milliseconds, and SQLite allows one writer at a time, so separate transactions would queue up for a flush each.
Here, writes that arrive during a flush share the next one. There is no extra thread: one of the callers leads the group, and a
lone caller goes straight to the database.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import Connection

from promptreel.errors import TEMPORARY
from promptreel.jobs.database import Database, write_transaction

LARGEST_GROUP = 500
"""The most writes in one transaction: other processes wait for the write lock meanwhile."""

T = TypeVar("T")


class GroupCommit:
    """Runs the writes of many threads in few transactions, in order of arrival."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()  # for the two below; held for moments only
        self._waiting: deque[_Write[Any]] = deque()
        self._is_led = False

    def run(self, write: Callable[[Connection], T]) -> T:
        """Runs `write` in a write transaction, and returns its value once the change is on disk.

        If `write` raises, only its change is rolled back, and the error is raised here. If the commit fails, the whole group is
        rolled back, and all its callers get the error. `write` must not call `run`.
        """
        mine = _Write(write)
        with self._lock:
            self._waiting.append(mine)
            leads, self._is_led = not self._is_led, True
        if not leads:
            mine.woken.wait()  # woken when done, or when it must lead
        if not mine.is_done:
            self._lead()
        return mine.result()

    def _lead(self) -> None:
        """Commits the waiting writes, including the caller's own, then hands the lead to the first write left."""
        with self._lock:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), LARGEST_GROUP))]
        try:
            self._commit(group)
        finally:
            with self._lock:
                next_leader = self._waiting[0] if self._waiting else None
                self._is_led = next_leader is not None
            for write in [next_leader, *group] if next_leader else group:
                write.woken.set()

    def _commit(self, group: Sequence[_Write[Any]]) -> None:
        try:
            with write_transaction(self._database) as connection:
                for write in group:
                    write.run(connection)
        except BaseException as error:  # noqa: BLE001 - every caller must get it, or it would wait for ever
            for write in group:
                write.error = error
        for write in group:
            write.is_done = True


class _Write(Generic[T]):
    """One caller's write, with its outcome."""

    def __init__(self, write: Callable[[Connection], T]) -> None:
        self._write = write
        self._value: T | None = None
        self.error: BaseException | None = None
        self.is_done = False
        self.woken = threading.Event()

    def run(self, connection: Connection) -> None:
        """Runs the write in its own savepoint. Raises TEMPORARY errors: on a full disk, SQLite rolls back the whole group."""
        savepoint = connection.begin_nested()
        try:
            self._value = self._write(connection)
            savepoint.commit()
        except TEMPORARY:
            raise
        except Exception as error:  # noqa: BLE001 - raised again for this caller only
            savepoint.rollback()
            self.error = error

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return cast("T", self._value)
