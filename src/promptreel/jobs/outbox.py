"""The outbox: what is to be delivered when a job has ended, written in the transaction that ends it."""

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
"""The one event so far: a job ends once, and the table takes one row for each job and event."""


def change_jobs(connection: Connection, which: ColumnElement[bool], *, now: Moment, **values: Any) -> Sequence[Row[Any]]:
    """Changes jobs that have not ended, and returns their new rows. Each that ends by it is to be announced to its webhook.

    No job ends in any other way, so that none can forget its webhook. `which` must leave out jobs that have ended already.
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
    """Whom a delivery waits for: the host, with the port if one is named. Never raises, for the job must end all the same."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"[:255]
    except ValueError:
        return ""
