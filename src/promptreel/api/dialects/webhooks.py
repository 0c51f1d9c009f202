"""What a webhook is told of a job, in the words of the dialect that the job came by."""

from __future__ import annotations

from typing import Any

from promptreel.api.dialects import legacy, openai
from promptreel.jobs.job import Job
from promptreel.jobs.links import LinkMaker


def to_webhook(job: Job, delivery_id: str, links: LinkMaker) -> dict[str, Any]:
    """The body for a job that has ended. Its links begin as those of the answer to the job's request."""
    if job.request.get("dialect") == openai.DIALECT:
        return openai.to_webhook(job, delivery_id)
    return legacy.to_webhook(job, links.start(job.request.get("base_url", "")))
