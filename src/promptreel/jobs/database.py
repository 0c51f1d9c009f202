"""Opens the database and brings its schema up to date. Every connection of the service is made here.

What a durable queue needs of SQLite: a library without the WAL-reset bug, the write-ahead log, a flush at every commit, and
write transactions that take their lock at once instead of half-way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import QueuePool

from promptreel.errors import BadConfiguration, DatabaseBusy

BUSY_SECONDS = 10.0
"""How long a transaction waits for another process's write lock before it raises DatabaseBusy."""

RETRY_SECONDS = (0.0005, 0.003)
"""SQLite's own busy handler sleeps up to 100 ms; short random sleeps halve the time that a write waits under load."""

FIXED_IN = (3, 51, 3)
FIXED_BACKPORTS = frozenset({(3, 44, 6), (3, 50, 7)})

EXAMPLE_URL = "sqlite:////var/lib/promptreel/promptreel.db"

_BEGIN_MODE = "promptreel_begin_mode"


def open_database(where: str | Path, *, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """Opens a file, or `sqlite:////absolute/path.db`, and creates the file if there is none; its folder must exist.

    Raises BadConfiguration when the address, the file or the SQLite library cannot be used, and DatabaseBusy when another
    process keeps the file locked.
    """
    # A path may hold what means something in a URL, such as % and ?.
    address = URL.create("sqlite", database=str(where)) if isinstance(where, Path) else _parse_url(where)
    refuse_affected_sqlite(sqlite.sqlite_version_info)
    engine = create_engine(
        address,
        module=sqlite,
        connect_args={"timeout": busy_seconds},
        poolclass=QueuePool,
        hide_parameters=True,  # an error in a log must not repeat a prompt
        pool_size=0,  # no limit: threads never wait for a connection, and none is thrown away, for opening one is slow
        pool_use_lifo=True,  # the one used last knows most of the file
    )
    event.listen(engine, "connect", lambda connection, _record: _configure(connection, busy_seconds))
    event.listen(engine, "begin", lambda connection: _begin(connection, busy_seconds))
    try:
        engine.connect().close()
    except DBAPIError as error:
        raise BadConfiguration(
            f"The database {address.database} cannot be opened: {error.orig}. "
            "Check that its folder exists and is writable, and that the file is a SQLite database."
        ) from error
    return engine


def migrate(engine: Engine) -> None:
    """Brings the schema to the newest revision. When two processes start at once, the second waits and finds nothing to do."""
    config = Config()
    config.set_main_option("script_location", "promptreel.jobs:migrations")
    with write_transaction(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that holds the write lock from its first moment, and is flushed to disk when the block ends.

    Raises DatabaseBusy when another process holds the lock for too long.
    """
    with engine.connect() as connection:
        connection.execution_options(**{_BEGIN_MODE: "IMMEDIATE"})
        with connection.begin():
            yield connection


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of the database and blocks nobody. It cannot be made to write later."""
    with engine.connect() as connection, connection.begin():
        yield connection


def refuse_affected_sqlite(version: tuple[int, int, int]) -> None:
    """SQLite 3.7.0 to 3.51.2 can lose committed writes when two connections race (the WAL-reset bug).

    Raises BadConfiguration for these, and for older ones, which have no write-ahead log.
    """
    if version >= FIXED_IN or version in FIXED_BACKPORTS:
        return
    raise BadConfiguration(
        f"SQLite {'.'.join(map(str, version))} can lose committed writes (the WAL-reset bug). Reinstall the package pysqlite3, "
        "whose wheel carries its own SQLite, or build it against SQLite 3.51.3 or newer (3.50.7 and 3.44.6 are fixed too)."
    )


def _parse_url(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise BadConfiguration(f"The database address cannot be read. Write it as {EXAMPLE_URL}.") from error
    if address.drivername != "sqlite":
        raise BadConfiguration(f"The database must be SQLite, not {address.drivername}. Write its address as {EXAMPLE_URL}.")
    return address


def _configure(connection: Any, busy_seconds: float) -> None:
    connection.isolation_level = None  # the driver must not begin or commit on its own
    # Two processes that turn the log on at the same moment get "locked" at once, whatever the timeout.
    _retry_while_locked(lambda: connection.execute("PRAGMA journal_mode = WAL"), busy_seconds)
    (journal_mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if journal_mode != "wal":
        raise BadConfiguration(
            f"The database must be a file on a local disk, where SQLite can keep a write-ahead log; for example {EXAMPLE_URL}."
        )
    connection.execute("PRAGMA synchronous = FULL")  # NORMAL may roll back committed jobs after a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection, busy_seconds: float) -> None:
    driver: Any = connection.connection.dbapi_connection
    mode = connection.get_execution_options().get(_BEGIN_MODE)
    if mode is None:
        driver.execute("BEGIN")
        driver.execute("PRAGMA query_only = ON")
        return
    driver.execute("PRAGMA query_only = OFF")
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        _retry_while_locked(lambda: driver.execute(f"BEGIN {mode}"), busy_seconds)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {int(busy_seconds * 1000)}")


def _retry_while_locked(statement: Callable[[], object], busy_seconds: float) -> None:
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            statement()
        except sqlite.OperationalError as error:
            if "locked" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise DatabaseBusy(
                    f"Another process has locked the database for {busy_seconds:g} seconds. Nothing was changed: try again."
                ) from error
            time.sleep(random.uniform(*RETRY_SECONDS))  # noqa: S311 - spreads the waiting processes, keeps no secret
        else:
            return
