"""Opens the database and migrates its schema. All connections are made here.

A durable queue needs an SQLite without the WAL-reset bug, a write-ahead log, a flush at every commit, and write transactions
that take the write lock when they begin.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import URL, Connection, Engine, create_engine, delete, event, insert, make_url, select
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import QueuePool

from promptreel.errors import BadConfiguration, DatabaseBusy, DiskFull, PromptreelError
from promptreel.jobs.tables import facts
from promptreel.version import installed_version

log = logging.getLogger(__name__)

Database: TypeAlias = Engine
"""An open database. SQLAlchemy calls it an engine; here, "engine" means what generates clips."""

BUSY_SECONDS = 10.0
"""How long a transaction waits for another process's write lock before it raises DatabaseBusy."""

RETRY_SECONDS = (0.0005, 0.003)
"""Bounds of the random sleep between tries. SQLite's own busy handler sleeps up to 100 ms, which doubles waits under load."""

FIXED_IN = (3, 51, 3)
FIXED_BACKPORTS = frozenset({(3, 44, 6), (3, 50, 7)})

EXAMPLE_URL = "sqlite:////var/lib/promptreel/promptreel.db"

_BEGIN_MODE = "promptreel_begin_mode"

_LOCK_ERRORS = frozenset({sqlite.SQLITE_BUSY, sqlite.SQLITE_LOCKED, sqlite.SQLITE_PROTOCOL})
_DISK_ERRORS = frozenset({sqlite.SQLITE_IOERR, sqlite.SQLITE_CANTOPEN, sqlite.SQLITE_READONLY})

_OWNER_ONLY = 0o600
"""Mode of the database's files, which hold prompts and the secrets of links and webhooks."""

_MADE_BY = "made_by"
"""Name of the fact that holds the version that last migrated the tables. An older version names it in its error message."""


def open_database(where: str | Path, *, busy_seconds: float = BUSY_SECONDS, create: bool = True) -> Database:
    """Opens a file, given as a path or as `sqlite:////absolute/path.db`. Creates a missing file, but not its folder.

    Raises BadConfiguration if the address, the file or the SQLite library cannot be used, or if the file is missing and
    `create` is False. Opening and every later use may raise DatabaseBusy and DiskFull.
    """
    # A path may hold characters that are special in a URL, such as % and ?.
    address = URL.create("sqlite", database=str(where)) if isinstance(where, Path) else _parse_url(where)
    refuse_affected_sqlite(sqlite_version())
    file = _file_of(address)
    if file is not None:
        _make_file(file, create=create)
    database = create_engine(
        address,
        module=sqlite,
        connect_args={"timeout": busy_seconds},
        poolclass=QueuePool,
        hide_parameters=True,  # an error in a log must not repeat a prompt
        pool_size=0,  # no limit: threads never wait for a connection. The pool keeps all: opening one is slow
        pool_use_lifo=True,  # the connection used last has the warmest cache
    )
    event.listen(database, "connect", lambda connection, _record: _configure(connection, busy_seconds))
    event.listen(database, "begin", lambda connection: _begin(connection, busy_seconds))
    try:
        database.connect().close()
    except DBAPIError as error:
        # At the start, the likely reason is a wrong setting. Later, the same error is temporary.
        raise _temporary_error(error.orig, except_for={sqlite.SQLITE_CANTOPEN, sqlite.SQLITE_READONLY}) or BadConfiguration(
            f"The database {address.database} cannot be opened: {error.orig}. "
            "Check that its folder exists and is writable, and that the file is a SQLite database."
        ) from error
    event.listen(database, "handle_error", _translate)
    if file is not None:
        _restrict_to_owner(file)
    return database


def migrate(database: Database) -> None:
    """Brings the schema to the newest revision. Safe when two processes start at once.

    Takes the write lock only if a migration is needed. Raises BadConfiguration for a database of a newer version.
    """
    config = Config()
    config.set_main_option("script_location", "promptreel.jobs:migrations")
    script = ScriptDirectory.from_config(config)
    with read_transaction(database) as connection:
        revisions = set(MigrationContext.configure(connection).get_current_heads())
        if not revisions <= {known.revision for known in script.walk_revisions()}:
            raise BadConfiguration(_explain_newer_database(connection))
    if revisions == set(script.get_heads()):
        return
    with write_transaction(database) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.execute(delete(facts).where(facts.c.name == _MADE_BY))
        connection.execute(insert(facts).values(name=_MADE_BY, value=installed_version()))


@contextmanager
def write_transaction(database: Database) -> Iterator[Connection]:
    """A transaction that holds the write lock from its start, and is on disk when the block ends.

    Raises DatabaseBusy when another process holds the lock too long or the disk reports errors, and DiskFull.
    """
    with database.connect() as connection:
        connection.execution_options(**{_BEGIN_MODE: "IMMEDIATE"})
        with connection.begin():
            yield connection


@contextmanager
def read_transaction(database: Database) -> Iterator[Connection]:
    """A transaction that sees one snapshot of the database and blocks nobody. Writes in it fail."""
    with database.connect() as connection, connection.begin():
        yield connection


def sqlite_version() -> tuple[int, int, int]:
    """The version of the SQLite in pysqlite3, which usually is not the system's."""
    version: tuple[int, int, int] = sqlite.sqlite_version_info
    return version


def refuse_affected_sqlite(version: tuple[int, int, int]) -> None:
    """SQLite 3.7.0 to 3.51.2 can lose committed writes when two connections race (the WAL-reset bug).

    Raises BadConfiguration for these versions, and for older ones, which have no write-ahead log.
    """
    if version >= FIXED_IN or version in FIXED_BACKPORTS:
        return
    raise BadConfiguration(
        f"SQLite {'.'.join(map(str, version))} can lose committed writes (the WAL-reset bug). Reinstall the package pysqlite3, "
        "whose wheel carries its own SQLite, or build it against SQLite 3.51.3 or newer (3.50.7 and 3.44.6 are fixed too)."
    )


def _explain_newer_database(connection: Connection) -> str:
    try:
        made_by = connection.execute(select(facts.c.value).where(facts.c.name == _MADE_BY)).scalar()
    except DBAPIError:  # a newer version may keep it elsewhere
        made_by = None
    return (
        f"The database {connection.engine.url.database} was made by a newer Promptreel: it needs version "
        f"{made_by or f'later than {installed_version()}'}, and this is {installed_version()}. Install that version, "
        "or give another --data-dir."
    )


def _file_of(address: URL) -> Path | None:
    """The database's path. None if it is not a plain file; then `_configure` refuses it."""
    named = address.database
    return None if not named or named == ":memory:" or address.query else Path(named)


def _make_file(file: Path, *, create: bool) -> None:
    """Creates the file with access for its owner only. SQLite would use the umask."""
    if not create and not file.exists():
        raise BadConfiguration(f"There is no database {file}: nothing was ever queued there. Give the --data-dir of a service.")
    try:
        # O_EXCL: closing a file that SQLite also has open in this process would release SQLite's locks on it.
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _OWNER_ONLY))
    except OSError:  # it exists already, or SQLite will raise a clearer error
        return


def _restrict_to_owner(file: Path) -> None:
    """Removes the access that older versions gave to other users. SQLite's log files get the mode of the database's file."""
    for each in (file, *(file.with_name(file.name + ending) for ending in ("-wal", "-shm"))):
        try:
            if each.stat().st_mode & 0o077:
                each.chmod(_OWNER_ONLY)
                log.warning("%s could be read by other users of this machine. Now only its owner can read it.", each)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("%s can be read by other users of this machine: %s. chmod 600 it.", each, error.strerror)


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
    # If two processes turn the log on at the same moment, one is told "locked" at once, despite the timeout.
    _retry_while_locked(lambda: connection.execute("PRAGMA journal_mode = WAL"), busy_seconds)
    (journal_mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if journal_mode != "wal":
        raise BadConfiguration(
            f"The database must be a file on a local disk, where SQLite can keep a write-ahead log, such as {EXAMPLE_URL}."
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
    except sqlite.Error as error:
        if ours := _temporary_error(error):
            raise ours from error
        raise
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
            time.sleep(random.uniform(*RETRY_SECONDS))  # noqa: S311 - jitter, not a secret
        else:
            return


def _translate(context: ExceptionContext) -> PromptreelError | None:
    """SQLAlchemy calls this with every database error, and raises the returned error instead, if there is one.

    Leaves the error of a write in a read transaction as it is: that is a bug of ours, not a temporary error.
    """
    reads = context.connection is not None and context.connection.get_execution_options().get(_BEGIN_MODE) is None
    return _temporary_error(context.original_exception, except_for={sqlite.SQLITE_READONLY} if reads else ())


def _temporary_error(error: BaseException | None, *, except_for: Collection[int] = ()) -> PromptreelError | None:
    """Our error for one of SQLite's that is temporary, with the codes `except_for` left out. None for all others."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary result code
    if code in except_for:
        return None
    if code == sqlite.SQLITE_FULL:
        return DiskFull("The disk of the database is full. Make room on it, or try again later.")
    if code in _LOCK_ERRORS:
        return DatabaseBusy("Another process has locked the database. Nothing was changed: try again.")
    if code in _DISK_ERRORS:
        return DatabaseBusy(
            f"The database cannot be used now: {error}. Try again later. If this persists, check the disk's free space, "
            "permissions and health."
        )
    return None
