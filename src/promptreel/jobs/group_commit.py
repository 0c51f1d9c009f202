"""Group commit: threads that write at once share one transaction, and with it one flush to disk.

A flush takes milliseconds, and SQLite lets one transaction write at a time. Threads with a transaction each would stand in line
for a flush each. Here those that come during a flush share the next one. The group has no thread of its own: one of the callers
leads, and a caller who is alone goes straight to the database.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import Connection

from promptreel.errors import PASSING
from promptreel.jobs.database import Database, write_transaction

LARGEST_GROUP = 500
"""Writes in one transaction: other processes wait for the write lock meanwhile."""

T = TypeVar("T")


class GroupCommit:
    """Runs the writes of many threads in few transactions, in the order in which they came."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()  # for the two below; held for moments only
        self._waiting: deque[_Write[Any]] = deque()
        self._is_led = False

    def run(self, write: Callable[[Connection], T]) -> T:
        """Runs `write` in a write transaction, and returns what it returned once its change is on disk.

        What `write` raises is raised here: its change alone is undone. What the commit raises, all its callers get, and nothing
        of any is kept. `write` must not call `run`.
        """
        mine = _Write(write)
        with self._lock:
            self._waiting.append(mine)
            leads, self._is_led = not self._is_led, True
        if not leads:
            mine.woken.wait()  # when it is done, or is to lead
        if not mine.is_done:
            self._lead()
        return mine.result()

    def _lead(self) -> None:
        """Commits all writes that wait, the caller's own among them, and has the first that came meanwhile lead next."""
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
        except BaseException as error:  # noqa: BLE001 - each caller raises it; one who never heard of it would wait for ever
            for write in group:
                write.error = error
        for write in group:
            write.is_done = True


class _Write(Generic[T]):
    """One caller's write, and how it ended."""

    def __init__(self, write: Callable[[Connection], T]) -> None:
        self._write = write
        self._value: T | None = None
        self.error: BaseException | None = None
        self.is_done = False
        self.woken = threading.Event()

    def run(self, connection: Connection) -> None:
        """In a savepoint of its own. Raises what ends the transaction: when the disk is full, SQLite undoes everybody's."""
        savepoint = connection.begin_nested()
        try:
            self._value = self._write(connection)
            savepoint.commit()
        except PASSING:
            raise
        except Exception as error:  # noqa: BLE001 - it is the caller's own
            savepoint.rollback()
            self.error = error

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return cast("T", self._value)
