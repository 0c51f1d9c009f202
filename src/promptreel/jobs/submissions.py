"""Queues a job: once per idempotency key, within its API key's limits, at its fair place.

`insert_job` does it all, inside a write transaction that other submissions may share (group_commit.py). Each submission counts
the ones before it against its limits, and a refused one does not affect the others.

The fair place comes from self-clocked fair queueing (Golestani, "A self-clocked fair queueing scheme for broadband
applications", INFOCOM 1994). Each API key has a virtual time `last_vt`, which each of its jobs advances by cost / weight. Jobs
are claimed in order of virtual time, and the virtual clock is the virtual time of the last claimed job. So a key that floods
the queue delays only its own jobs, and an idle key saves up no credit.
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

_INSERT = insert(jobs).returning(jobs)  # built once: building a statement takes longer than running it

FULL_QUEUE_RETRY_SECONDS = 30
"""When a client with too many queued jobs should retry. A guess: when its next job starts is unknown."""


def insert_job(connection: Connection, new: NewJob, *, now: Moment, max_attempts: int) -> Row[Any]:
    """Returns the new job's row, or that of the job submitted earlier with the same idempotency key.

    Raises IdempotencyConflict, RateLimitExceeded, and InvalidApiKey if the API key was revoked meanwhile.
    """
    first = find_first(connection, new.api_key_id, new.idem_key, new.request_hash)
    if first is not None:
        return first
    row_values = {
        "kind": new.params.kind,
        "file_prefix": new.file_prefix or str(uuid.uuid4()),
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
    """The row of the job submitted earlier with this idempotency key, or None. Raises IdempotencyConflict."""
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
    """Returns the API key's row, if it may queue another job. Raises RateLimitExceeded and InvalidApiKey."""
    this_one = api_keys.c.id == api_key_id
    key = connection.execute(select(api_keys).where(this_one, api_keys.c.revoked_at.is_(None))).one_or_none()
    if key is None:
        raise InvalidApiKey("Invalid API key")
    if key.max_queued is not None:
        waiting = select(func.count()).where(has_status(JobStatus.QUEUED), is_of(api_key_id))
        if connection.execute(waiting).scalar_one() >= key.max_queued:
            raise RateLimitExceeded(
                f"This API key may have at most {key.max_queued} queued jobs. Try again when one of them has started.",
                retry_after=FULL_QUEUE_RETRY_SECONDS,
            )
    return key


def advance_clock(connection: Connection, vt: float) -> None:
    """Sets the virtual clock to a claimed job's virtual time; never sets it back. Must run inside a write transaction."""
    if vt > _read_clock(connection):
        write_fact(connection, VIRTUAL_CLOCK, repr(vt))


def _take_place(connection: Connection, api_key_id: int | None, cost: float) -> float:
    """Returns the job's virtual time. The local caller's jobs get the clock's, and so run in order of submission."""
    clock = _read_clock(connection)
    if api_key_id is None:
        return clock
    key = check_room(connection, api_key_id)
    vt = float(max(clock, key.last_vt) + cost / key.weight)
    connection.execute(update(api_keys).where(api_keys.c.id == api_key_id).values(last_vt=vt))
    return vt


def _read_clock(connection: Connection) -> float:
    return float(read_fact(connection, VIRTUAL_CLOCK) or 0.0)
