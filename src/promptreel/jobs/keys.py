"""KeyStore: the API keys. Caller: who sent a request, and owns its jobs.

Only KeyStore changes keys, except for their virtual time (submissions.py).

A key is 256 random bits, so an unsalted SHA-256 is safe to store: nobody can guess the key from it, and it finds the row.
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
"""How much of a key is stored, to recognize it by: `pr_` and 48 of its 256 bits."""

MAX_NAME = 100

ACTIVE = api_keys.c.revoked_at.is_(None)


@dataclass(frozen=True, kw_only=True)
class KeyLimits:
    """A key's limits; None means no limit. `weight` is its share of the workers, relative to other keys."""

    max_running: int | None = None
    max_queued: int | None = None
    requests_a_minute: int | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """One row of the table. `prefix` is the key's first characters; the key itself is not stored."""

    id: int
    name: str
    prefix: str
    limits: KeyLimits
    webhook_secret: str = field(repr=False)
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent a request. `api_key_id` None is the local caller of a service without keys, who has no limits."""

    api_key_id: int | None


LOCAL_CALLER = Caller(api_key_id=None)


class KeyStore:
    """Safe to use from several threads and processes at once."""

    def __init__(self, database: Database, *, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    def create(self, name: str, limits: KeyLimits | None = None) -> tuple[ApiKey, str]:
        """Makes a key. Returns its row and the key itself, which is not stored. Raises InvalidParams."""
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
        """All keys, oldest first, including revoked ones."""
        with read_transaction(self._database) as connection:
            return [_to_key(row) for row in connection.execute(select(api_keys).order_by(api_keys.c.id))]

    def find(self, key: str) -> ApiKey | None:
        """The key's row; None if it is unknown or revoked. Looking up a hash leaks nothing about other keys by its timing."""
        with read_transaction(self._database) as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.hash == hash_key(key), ACTIVE)).one_or_none()
        return None if row is None else _to_key(row)

    def find_by_id(self, key_id: int) -> ApiKey | None:
        """The key's row; None if it is unknown or revoked."""
        with read_transaction(self._database) as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id, ACTIVE)).one_or_none()
        return None if row is None else _to_key(row)

    def any_active(self) -> bool:
        """Whether there is an active key. If so, every request needs a key."""
        with read_transaction(self._database) as connection:
            return connection.execute(select(api_keys.c.id).where(ACTIVE).limit(1)).one_or_none() is not None

    def get(self, which: str) -> ApiKey:
        """The key with this id or these first characters. Raises ApiKeyNotFound."""
        with read_transaction(self._database) as connection:
            rows = connection.execute(select(api_keys).where(_has_id_or_prefix(which))).all()
        if len(rows) > 1:
            raise ApiKeyNotFound(f"{len(rows)} keys begin with {which}. Give an id, as `promptreel keys list` shows it.")
        if not rows:
            raise ApiKeyNotFound(
                f"There is no key {which}. Give an id or the beginning of a key, as `promptreel keys list` shows them."
            )
        return _to_key(rows[0])

    def revoke(self, which: str) -> ApiKey:
        """Revokes a key permanently; its jobs stay. Revoking it again changes nothing. Raises ApiKeyNotFound."""
        key = self.get(which)
        with write_transaction(self._database) as connection:
            connection.execute(update(api_keys).where(api_keys.c.id == key.id, ACTIVE).values(revoked_at=self._now()))
        return self.get(str(key.id))


def _check_name(name: str) -> None:
    """Raises InvalidParams for a name that would not identify the key."""
    if not name.strip():
        raise InvalidParams({"name": ["The key's name is empty: say whose key it is."]})
    if not name.isprintable():
        raise InvalidParams({"name": ["The key's name must be one line of printable characters."]})
    if len(name) > MAX_NAME:
        raise InvalidParams({"name": [f"The key's name has {len(name)} characters; at most {MAX_NAME} are allowed."]})


def hash_key(key: str) -> str:
    """The hash that is stored and compared instead of the key."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def _has_id_or_prefix(which: str) -> ColumnElement[bool]:
    if which.isascii() and which.isdigit() and len(which) < 10:
        return api_keys.c.id == int(which)
    if len(which) > SHOWN_CHARACTERS:
        return api_keys.c.hash == hash_key(which)
    if len(which) <= len(KEY_PREFIX):  # all keys begin like this
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
