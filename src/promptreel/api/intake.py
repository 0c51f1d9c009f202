"""The steps of every request for a video: read it, store its init, queue its job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastapi import Request

from promptreel.api.base_url import base_url
from promptreel.api.parts import Services
from promptreel.jobs.job import NewJob, VideoJob
from promptreel.media import Init


def submit(request: Request, services: Services, read: Callable[[], tuple[NewJob, Init | None]]) -> VideoJob:
    """Queues the job that `read` makes from the request. A repeated request is not read again: it gets its first job.

    Reading it again could fail, because the files and videos that it names may be gone by now. A request is not read either
    when its caller may queue no more jobs: then nothing is fetched or stored. A job with a webhook keeps the base URL that its
    client used, for the links in the webhook.

    Raises what `OwnJobs.submit` and `read` raise, and StorageFailed.
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
