"""Putting a job into the queue: once for each idempotency key, within the limits of its API key, in its fair place.

Everything happens in `insert_job`, inside a write transaction that may hold other submissions too (group_commit.py): each
counts those before it against its limits, and what is refused takes none of them along.

The fair place is start-time fair queueing in its self-clocked form (Golestani, "A self-clocked fair queueing scheme for
broadband applications", INFOCOM 1994): each API key has a virtual time `last_vt`, which its jobs push on by cost / weight; the
queue is served by virtual time, and the virtual clock is that of the job that was served last. So a key that floods the queue
waits behind itself, and one that comes back after a rest has saved up nothing.
"""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from promptreel.errors import IdempotencyConflict, InvalidApiKey, RateLimitExceeded
from promptreel.jobs.clock import Moment
from promptreel.jobs.installation_facts import VIRTUAL_CLOCK, read_fact, write_fact
from promptreel.jobs.job import JobStatus, NewJob
from promptreel.jobs.tables import api_keys, has_status, is_of, jobs

_INSERT = insert(jobs).returning(jobs)  # built once: putting a statement together takes longer than running it

FULL_QUEUE_RETRY_SECONDS = 30
"""When a client with too many waiting jobs may try again: a guess, for nobody knows when the next of them begins."""


def insert_job(connection: Connection, new: NewJob, *, now: Moment, max_attempts: int) -> Row[Any]:
    """The new job's row, or the first one's that was submitted with its idempotency key.

    Raises IdempotencyConflict, RateLimitExceeded, and InvalidApiKey if the key has been revoked meanwhile.
    """
    first = find_first(connection, new.api_key_id, new.idem_key, new.request_hash)
    if first is not None:
        return first
    row_values = {
        "kind": new.params.kind,
        "file_prefix": str(uuid.uuid4()),
        "params": new.params.to_json(),
        "request": new.request,
        "track_id": new.track_id,
        "webhook_url": new.webhook_url,
        "api_key_id": new.api_key_id,
        "idem_key": new.idem_key,
        "request_hash": new.request_hash,
        "model_id": new.params.model_id,
        "batch_key": new.params.batch_key,
        "cost": new.cost,
        "vt": _take_place(connection, new.api_key_id, new.cost),
        "status": JobStatus.QUEUED,
        "run_at": now.steady,
        "max_attempts": max_attempts,
        "created_at": now.wall,
    }
    return connection.execute(_INSERT, row_values).one()


def find_first(
    connection: Connection, api_key_id: int | None, idem_key: str | None, request_hash: str | None
) -> Row[Any] | None:
    """The row of the job that the same request made before, if it has an idempotency key. Raises IdempotencyConflict."""
    if idem_key is None:
        return None
    first = connection.execute(select(jobs).where(is_of(api_key_id), jobs.c.idem_key == idem_key)).one_or_none()
    if first is not None and first.request_hash != request_hash:
        raise IdempotencyConflict(
            "Another request was sent with this idempotency key before. Send a new key with each new request, "
            "and the same key only to repeat a request unchanged."
        )
    return first


def check_room(connection: Connection, api_key_id: int) -> Row[Any]:
    """The row of the API key, if it may have another job wait. Raises RateLimitExceeded and InvalidApiKey."""
    this_one = api_keys.c.id == api_key_id
    key = connection.execute(select(api_keys).where(this_one, api_keys.c.revoked_at.is_(None))).one_or_none()
    if key is None:
        raise InvalidApiKey("Invalid API key")
    if key.max_queued is not None:
        waiting = select(func.count()).where(has_status(JobStatus.QUEUED), is_of(api_key_id))
        if connection.execute(waiting).scalar_one() >= key.max_queued:
            raise RateLimitExceeded(
                f"So many jobs of this API key may wait at once: {key.max_queued}. Try again when one of them has begun.",
                retry_after=FULL_QUEUE_RETRY_SECONDS,
            )
    return key


def advance_clock(connection: Connection, vt: float) -> None:
    """Says that a job of this virtual time is being served. Inside a write transaction."""
    if vt > _read_clock(connection):
        write_fact(connection, VIRTUAL_CLOCK, repr(vt))


def _take_place(connection: Connection, api_key_id: int | None, cost: float) -> float:
    """The job's virtual time. The one local caller's jobs are served in their order, as far as the clock has come."""
    clock = _read_clock(connection)
    if api_key_id is None:
        return clock
    key = check_room(connection, api_key_id)
    vt = float(max(clock, key.last_vt) + cost / key.weight)
    connection.execute(update(api_keys).where(api_keys.c.id == api_key_id).values(last_vt=vt))
    return vt


def _read_clock(connection: Connection) -> float:
    return float(read_fact(connection, VIRTUAL_CLOCK) or 0.0)
