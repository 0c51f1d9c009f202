"""Server-sent events of a caller: every change of its jobs, in the order of the table of changes (jobs/changes.py).

All streams look at the same moments, so one look at the database serves all streams of a caller that stand at the same place.
The streams keep nothing but that place. So a client that was away, whose server was restarted, or that reaches another process
goes on from the last id that it has seen.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from starlette.concurrency import run_in_threadpool

from promptreel.api.answer_model import Answer
from promptreel.api.estimates import look_ahead_of
from promptreel.api.parts import Services
from promptreel.api.v1.answers import to_import, to_outlook, to_video, to_video_id
from promptreel.api.v1.events import KEEP_ALIVE, KEEP_ALIVE_SECONDS, Event, read_event_id
from promptreel.api.v1.training_answers import to_training, to_training_id
from promptreel.jobs.changes import Change
from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.job import AnyJob, JobStatus, VideoJob
from promptreel.jobs.params import VideoParams
from promptreel.jobs.training_params import TrainingParams

MOST_AT_ONCE = 200
"""The most changes that one look reads."""
OUTLOOK_SECONDS = 3.0
MOST_OUTLOOKS = 50
"""The most videos of a caller whose place and time are told."""
SHARE_FOR_OUTLOOKS = 20
"""Outlooks are computed again only after this many times what they took: they must not fill the process."""
CHECK_SECONDS = 5.0
"""How often a stream checks that its caller's key is still valid."""


@dataclass(frozen=True)
class Start:
    """Where a stream starts. `has_all`: nothing was missed since the id that the client sent."""

    seq: int
    has_all: bool

    def encode(self) -> bytes:
        return Event("ready", {"resumed": self.has_all}, self.seq).encode()


@dataclass(frozen=True)
class Batch:
    """Encoded events, and the place after them."""

    seq: int
    content: bytes


class CallerFeed:
    """What a caller's streams look up. `services` is limited to the caller."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def start(self, last_event_id: str | None) -> Start:
        """After the event with this id, if that can be; else now."""
        changes = self._services.changes
        seq = read_event_id(last_event_id)
        if seq is not None and changes.reaches_back_to(seq):
            return Start(seq, has_all=True)
        return Start(changes.last(), has_all=False)

    def look(self, seq: int) -> Batch:
        changes = self._services.changes.since(seq, limit=MOST_AT_ONCE)
        content = b"".join(self._encode(change) for change in changes)
        return Batch(changes[-1].seq if changes else seq, content)

    def _encode(self, change: Change) -> bytes:
        """Nothing for a job of a kind that is not told of."""
        told = KINDS_TOLD.get(change.kind)
        if told is None:
            return b""
        if change.job is None:
            deleted = {"id": told.to_id(change.job_id), "object": f"{told.object}.deleted", "deleted": True}
            return Event("deleted", deleted, change.seq).encode()
        return Event(told.name, told.tell(change.job, self._services), change.seq).encode()

    def outlooks(self) -> bytes:
        """The places and times of the caller's oldest unfinished videos."""
        jobs = self._services.changes.unfinished_videos(limit=MOST_OUTLOOKS)
        outlooks = look_ahead_of(self._services, jobs)
        videos = [{"id": to_video_id(job.id), **to_outlook(outlooks[job.id])} for job in jobs if job.id in outlooks]
        return Event("queue", {"videos": videos}).encode()


@dataclass(frozen=True)
class Told:
    """How the jobs of a kind are told: the event's name, the job's id and its object in answers, and the event's data."""

    name: str
    object: str
    to_id: Callable[[int], str]
    tell: Callable[[Any, Services], dict[str, Any]]


def _tell_video(job: VideoJob, services: Services) -> dict[str, Any]:
    """The video as in answers, with its stage; and while there is a preview, the preview's version."""
    data = to_video(job).to_json()
    if job.is_final:
        return data
    data["stage"] = job.stage
    version = services.storage.version(job.preview_key) if job.status is JobStatus.RUNNING else None
    return data if version is None else data | {"preview_version": version}


def _tell_plainly(to_answer: Callable[[Any], Answer]) -> Callable[[AnyJob, Services], dict[str, Any]]:
    return lambda job, _services: to_answer(job).to_json()


KINDS_TOLD: Mapping[str, Told] = MappingProxyType(
    {
        VideoParams.kind: Told("video", "video", to_video_id, _tell_video),
        TrainingParams.kind: Told("training", "training", to_training_id, _tell_plainly(to_training)),
        ImportParams.kind: Told("import", "model.import", lambda job_id: f"import_{job_id}", _tell_plainly(to_import)),
    }
)
"""By kind of job. Jobs of other kinds are not told of."""


async def stream_changes(
    services: Services,
    *,
    last_event_id: str | None,
    is_known: Callable[[], Awaitable[bool]],
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    check_seconds: float = CHECK_SECONDS,
) -> AsyncIterator[bytes]:
    """Ends when the caller's key is revoked, or when the process shuts down: clients then reconnect."""
    feed, looks, caller = CallerFeed(services), services.looks, services.caller.api_key_id
    start = await run_in_threadpool(feed.start, last_event_id)
    yield start.encode()
    seq, told_outlooks, spoken, checked = start.seq, b"", time.monotonic(), time.monotonic()
    while not services.is_stopping():
        at = seq
        batch = await looks.share((caller, at), lambda: feed.look(at))  # noqa: B023 - it is called before `at` changes
        outlooks = await looks.share((caller, "queue"), feed.outlooks, seconds=OUTLOOK_SECONDS, times=SHARE_FOR_OUTLOOKS)
        said = batch.content + (outlooks if outlooks != told_outlooks else b"")
        seq, told_outlooks = batch.seq, outlooks
        if not said and time.monotonic() - spoken >= keep_alive_seconds:
            said = KEEP_ALIVE
        if said:
            spoken = time.monotonic()
            yield said
        if time.monotonic() - checked >= check_seconds:
            checked = time.monotonic()
            if not await is_known():
                return
        await looks.next_moment()
