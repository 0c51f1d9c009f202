"""What every request for a video ends with: the file that it starts from is stored, then its job is queued."""

from __future__ import annotations

from dataclasses import replace

from fastapi import Request

from promptreel.api.addresses import base_url
from promptreel.api.services import Services
from promptreel.jobs.job import Job, NewJob
from promptreel.media import Init


def submit(request: Request, services: Services, new_job: NewJob, init: Init | None = None) -> Job:
    """Queues the job. One with a webhook remembers where its client reached us, for the links that the webhook is told."""
    if init is not None:  # the file is there before the row names it
        services.storage.save_bytes(init.data, init.key)
    if new_job.webhook_url is not None:
        new_job = replace(new_job, request=new_job.request | {"base_url": base_url(request, services)})
    return services.jobs.submit(new_job)
