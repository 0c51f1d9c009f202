"""Server-sent events of one video: each change, until it has ended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.concurrency import run_in_threadpool

from promptreel.api.estimates import look_ahead
from promptreel.api.parts import Services
from promptreel.api.shared_looks import POLL_SECONDS
from promptreel.api.v1.answers import to_deleted, to_outlook, to_progress, to_status, to_video
from promptreel.errors import JobNotFound
from promptreel.jobs.job import JobStatus, VideoJob
from promptreel.jobs.links import Links

EVENTS_MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE_SECONDS = 15.0  # proxies close silent connections after about a minute
LOOKS_PER_OUTLOOK = 10  # the queue is read less often than the job

KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True)
class Event:
    """An event with its data. `seq` is its id: the number of the last change that it tells of (jobs/changes.py)."""

    name: str
    data: Mapping[str, Any]
    seq: int | None = None

    def encode(self) -> bytes:
        head = "" if self.seq is None else f"id: {self.seq}\n"
        return f"{head}event: {self.name}\ndata: {json.dumps(self.data)}\n\n".encode()


def read_event_id(sent: str | None) -> int | None:
    """The number in a header Last-Event-ID; None if it is not one of ours."""
    is_number = sent is not None and sent.isascii() and sent.isdigit() and len(sent) < 19
    return int(sent) if sent is not None and is_number else None


async def stream_events(
    look: Callable[[], list[Event]],
    *,
    is_stopping: Callable[[], bool],
    poll_seconds: float = POLL_SECONDS,
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
) -> AsyncIterator[bytes]:
    """Calls `look` repeatedly. Ends after the event `end`, or when the process shuts down: clients then reconnect."""
    silent = 0.0
    while not is_stopping():
        events = await run_in_threadpool(look)
        for event in events:
            yield event.encode()
        if events and events[-1].name == "end":
            return
        silent = 0.0 if events else silent + poll_seconds
        if silent >= keep_alive_seconds:
            yield KEEP_ALIVE
            silent = 0.0
        await anyio.sleep(poll_seconds)


class VideoWatcher:
    """Reports what has changed since its last look, and everything at its first. `links` is called for each preview.

    `seq`: the id of the last event that the client got earlier. If nothing has changed since, the first look is silent, too.
    """

    def __init__(self, services: Services, job_id: int, *, links: Callable[[], Links], seq: int | None = None) -> None:
        self._seq = seq
        self._services = services
        self._job_id = job_id
        self._links = links
        self._looks = 0
        self._told: dict[str, object] = {}

    def look(self) -> list[Event]:
        """The new events. The last one is `end` if the job has ended or was deleted."""
        seq = self._services.changes.last_of(self._job_id)  # before the job: an id must not promise what was not told
        try:
            job = self._services.jobs.get(self._job_id)
            changed = list(self._changes(job, seq))
        except JobNotFound:
            return [Event("end", to_deleted(self._job_id).to_json(), seq)]
        self._looks += 1
        return [*changed, Event("end", to_video(job).to_json(), seq)] if job.is_final else changed

    def _changes(self, job: VideoJob, seq: int) -> Iterator[Event]:
        stage = {"status": to_status(job), "stage": job.stage}
        progress = {"progress": to_progress(job)}
        is_new_stage, is_new_share = self._is_new("stage", stage), self._is_new("share", progress)
        if self._looks == 0 and seq == self._seq:  # the client knows both
            is_new_stage = is_new_share = False
        if is_new_stage:
            yield Event("stage", stage, seq)
        if is_new_stage or is_new_share or self._looks % LOOKS_PER_OUTLOOK == 0:
            outlook = {} if job.is_final else to_outlook(look_ahead(self._services, job))
            if self._is_new("progress", progress | outlook):
                yield Event("progress", progress | outlook, seq)
        preview = self._services.storage.read(job.preview_key) if job.status is JobStatus.RUNNING else None
        if preview is not None and self._is_new("preview", preview):
            yield Event("preview", {"url": self._links().preview(job)}, seq)

    def _is_new(self, name: str, value: object) -> bool:
        if self._told.get(name) == value:
            return False
        self._told[name] = value
        return True
