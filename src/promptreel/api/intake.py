"""What every request for a video goes through: it is read, the file that it starts from is stored, then its job is queued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastapi import Request

from promptreel.api.base_url import base_url
from promptreel.api.parts import Services
from promptreel.jobs.job import NewJob, VideoJob
from promptreel.media import Init


def submit(request: Request, services: Services, read: Callable[[], tuple[NewJob, Init | None]]) -> VideoJob:
    """Queues the job that `read` makes of the request; a repeated request is not read again, but has its first job.

    For what it names may be gone by now: a file behind a URL, a link that expired, the video of a remix. Nor is a request
    read whose caller has no room for another job: nothing is fetched or stored for it.
    A job with a webhook remembers where its client reached us, for the links that the webhook is told.
    """
    first = services.jobs.find_first()
    if first is not None:
        return first
    new_job, init = read()
    if init is not None:  # the file is there before the row names it
        services.storage.save_bytes(init.data, init.key)
    if new_job.webhook_url is not None:
        new_job = replace(new_job, request=new_job.request | {"base_url": base_url(request, services)})
    return services.jobs.submit(new_job)
