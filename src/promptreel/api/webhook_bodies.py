"""The body of a job's webhook, in the dialect of the job's request."""

from __future__ import annotations

from typing import Any

from promptreel.api.legacy.answers import to_webhook as to_legacy_webhook
from promptreel.api.v1.answers import to_webhook as to_event
from promptreel.api.v1.requests import DIALECT
from promptreel.jobs.job import Job
from promptreel.jobs.links import LinkMaker


def to_webhook(job: Job, delivery_id: str, links: LinkMaker) -> dict[str, Any]:
    """The body for a job that has ended. Its links have the same base URL as the answer to the job's request."""
    if job.request.get("dialect") == DIALECT:
        return to_event(job, delivery_id)
    return to_legacy_webhook(job, links.start(job.request.get("base_url", "")))
