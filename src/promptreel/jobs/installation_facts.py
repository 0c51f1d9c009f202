"""Facts about the whole installation: short texts by name, in the table `facts`."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from sqlalchemy import Connection, bindparam, insert, select, update

from promptreel.jobs.database import Database, read_transaction, write_transaction
from promptreel.jobs.tables import facts

LINK_SECRET = "link_secret"  # noqa: S105 - its name, not the secret
SESSION_SECRET = "session_secret"  # noqa: S105 - likewise
WEBHOOK_SECRET = "webhook_secret"  # noqa: S105 - likewise
VIRTUAL_CLOCK = "virtual_clock"
STEADY_CLOCK = "steady_clock"
LAST_CHECK = "last_check"


_ONE = select(facts.c.value).where(facts.c.name == bindparam("name"))


def read_fact(connection: Connection, name: str) -> str | None:
    return connection.execute(_ONE, {"name": name}).scalar()


def write_fact(connection: Connection, name: str, value: str) -> None:
    """Must run inside a write transaction."""
    if connection.execute(update(facts).where(facts.c.name == name).values(value=value)).rowcount == 0:
        connection.execute(insert(facts).values(name=name, value=value))


def read_or_make(database: Database, name: str, make: Callable[[], str]) -> str:
    """Reads a fact. The first call makes it, and it never changes."""
    with read_transaction(database) as connection:
        known = read_fact(connection, name)
    if known is None:
        with write_transaction(database) as connection:
            known = read_fact(connection, name)
            if known is None:  # no other process was faster
                known = make()
                write_fact(connection, name, known)
    return known


def read_link_secret(database: Database) -> bytes:
    """The secret that signs links to files."""
    return bytes.fromhex(read_or_make(database, LINK_SECRET, lambda: secrets.token_hex(32)))


def read_session_secret(database: Database) -> bytes:
    """The secret that signs the page's cookies."""
    return bytes.fromhex(read_or_make(database, SESSION_SECRET, lambda: secrets.token_hex(32)))
