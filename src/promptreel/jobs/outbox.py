"""The outbox: the transaction that ends a job also writes the delivery to its webhook."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Connection, Row, insert, update

from promptreel.jobs.clock import Moment
from promptreel.jobs.job import FINAL_STATUSES
from promptreel.jobs.tables import deliveries, jobs

JOB_ENDED = "ended"
"""The only event. A job ends once, and the table allows one row per job and event."""


def change_jobs(connection: Connection, which: ColumnElement[bool], *, now: Moment, **values: Any) -> Sequence[Row[Any]]:
    """Changes jobs that have not ended, and returns their new rows. Writes a delivery for each job that this ends.

    Jobs must end only here, so that none misses its webhook. `which` must not match jobs that have already ended.
    """
    rows = connection.execute(update(jobs).where(which).values(**values).returning(jobs)).all()
    for row in rows:
        if row.webhook_url is not None and row.status in FINAL_STATUSES:
            _write_delivery(connection, row, now)
    return rows


def _write_delivery(connection: Connection, job: Row[Any], now: Moment) -> None:
    connection.execute(
        insert(deliveries).values(
            id=f"msg_{uuid.uuid4().hex}",
            job_id=job.id,
            event=JOB_ENDED,
            url=job.webhook_url,
            host=host_of(job.webhook_url),
            state="pending",
            created_at=now.wall,
            next_at=now.steady,
        )
    )


def host_of(url: str) -> str:
    """The receiver, as `host` or `host:port`. Never raises: a bad URL must not keep the job from ending."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"[:255]
    except ValueError:
        return ""
