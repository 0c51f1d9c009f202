"""KeyStore: the API keys. And Caller: who sent a request, whose the jobs are that it makes.

Nothing else changes a key, but for its place in the queue (submissions.py).

A key is 256 random bits, so its plain SHA-256 is enough to keep: nothing can be guessed from it, and it finds the row.
"""

from __future__ import annotations

import builtins
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, false, func, insert, select, update

from promptreel.errors import ApiKeyNotFound, InvalidParams
from promptreel.jobs.database import Database, read_transaction, write_transaction
from promptreel.jobs.tables import api_keys, utc_now
from promptreel.jobs.webhook_secrets import new_webhook_secret

KEY_PREFIX = "pr_"
SHOWN_CHARACTERS = 11
"""How much of a key is kept to tell it from others: `pr_` and 48 of its 256 bits."""

MAX_NAME = 100

ACTIVE = api_keys.c.revoked_at.is_(None)


@dataclass(frozen=True, kw_only=True)
class KeyLimits:
    """What a key may do; None: as much as it likes. `weight` is its share of the workers against the other keys' weights."""

    max_running: int | None = None
    max_queued: int | None = None
    requests_a_minute: int | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """One row of the table. `prefix` is the key's beginning; the key itself is nowhere."""

    id: int
    name: str
    prefix: str
    limits: KeyLimits
    webhook_secret: str = field(repr=False)
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks. `api_key_id` None is the one local caller of a service without keys, who has no limits."""

    api_key_id: int | None


LOCAL_CALLER = Caller(api_key_id=None)


class KeyStore:
    """Safe to use from several threads and processes at once."""

    def __init__(self, database: Database, *, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    def create(self, name: str, limits: KeyLimits | None = None) -> tuple[ApiKey, str]:
        """Makes a key; the second of what it returns is the key itself, which cannot be had again. Raises InvalidParams."""
        _check_name(name)
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        values = {
            "name": name,
            "hash": hash_key(key),
            "prefix": key[:SHOWN_CHARACTERS],
            "webhook_secret": new_webhook_secret(),
            "created_at": self._now(),
            **asdict(limits or KeyLimits()),
        }
        with write_transaction(self._database) as connection:
            return _to_key(connection.execute(insert(api_keys).values(values).returning(api_keys)).one()), key

    def list(self) -> builtins.list[ApiKey]:
        """All keys, oldest first, the revoked ones too."""
        with read_transaction(self._database) as connection:
            return [_to_key(row) for row in connection.execute(select(api_keys).order_by(api_keys.c.id))]

    def find(self, key: str) -> ApiKey | None:
        """The key's row; None for a key that is unknown or revoked. How long it takes tells nothing about other keys."""
        with read_transaction(self._database) as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.hash == hash_key(key), ACTIVE)).one_or_none()
        return None if row is None else _to_key(row)

    def any_active(self) -> bool:
        """Whether there is a key that is not revoked: then no request is served without one."""
        with read_transaction(self._database) as connection:
            return connection.execute(select(api_keys.c.id).where(ACTIVE).limit(1)).one_or_none() is not None

    def get(self, which: str) -> ApiKey:
        """The key with this id, or the one that begins like this. Raises ApiKeyNotFound."""
        with read_transaction(self._database) as connection:
            rows = connection.execute(select(api_keys).where(_is_meant_by(which))).all()
        if len(rows) > 1:
            raise ApiKeyNotFound(f"{len(rows)} keys begin with {which}. Give an id, as `promptreel keys list` shows it.")
        if not rows:
            raise ApiKeyNotFound(
                f"There is no key {which}. Give an id or the beginning of a key, as `promptreel keys list` shows them."
            )
        return _to_key(rows[0])

    def revoke(self, which: str) -> ApiKey:
        """Ends a key for good; one that is revoked already stays as it is. Its jobs stay. Raises ApiKeyNotFound."""
        key = self.get(which)
        with write_transaction(self._database) as connection:
            connection.execute(update(api_keys).where(api_keys.c.id == key.id, ACTIVE).values(revoked_at=self._now()))
        return self.get(str(key.id))


def _check_name(name: str) -> None:
    """A key that nobody can tell from others should not be the one that closes the service to all who have none."""
    if not name.strip():
        raise InvalidParams({"name": ["The key's name is empty: say whose key it is."]})
    if not name.isprintable():
        raise InvalidParams({"name": ["The key's name must be one line of letters, digits and signs that can be printed."]})
    if len(name) > MAX_NAME:
        raise InvalidParams({"name": [f"The key's name has {len(name)} characters, and may have {MAX_NAME}."]})


def hash_key(key: str) -> str:
    """What is kept and compared instead of the key."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def _is_meant_by(which: str) -> ColumnElement[bool]:
    if which.isascii() and which.isdigit() and len(which) < 10:
        return api_keys.c.id == int(which)
    if len(which) > SHOWN_CHARACTERS:
        return api_keys.c.hash == hash_key(which)
    if len(which) <= len(KEY_PREFIX):  # what all keys begin with means none of them
        return false()
    return func.substr(api_keys.c.prefix, 1, len(which)) == which


def _to_key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        limits=KeyLimits(
            max_running=row.max_running,
            max_queued=row.max_queued,
            requests_a_minute=row.requests_a_minute,
            weight=row.weight,
        ),
        webhook_secret=row.webhook_secret,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
