"""What requests get to see of the job table: their caller's own jobs, and nothing that another caller could use.

The api's handlers are given these views and never the store, so that none of them can forget whose a job is.
"""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

from promptreel.errors import JobNotFound
from promptreel.jobs.eta import Ahead, Timing, Work
from promptreel.jobs.job import AnyJob, JobStatus, NewJob, VideoJob
from promptreel.jobs.keys import Caller
from promptreel.jobs.params import VideoParams
from promptreel.jobs.store import JobStore, WorkerRecord


@dataclass(frozen=True)
class Idempotency:
    """What makes a request the same as an earlier one: a key that the client chose, where it was sent, and its fields.

    The fields are those of the request and not of the job: a seed that was drawn makes no two requests different.
    """

    key: str
    path: str
    fields: Mapping[str, Any] = field(repr=False)  # the API key may be among them

    @property
    def key_hash(self) -> str:
        """Of fixed length, whatever clients choose."""
        return hashlib.sha256(self.key.encode(errors="surrogatepass")).hexdigest()

    @cached_property
    def request_hash(self) -> str:
        """The API key is left out: it may come in a header the next time."""
        fields = {name: value for name, value in self.fields.items() if name != "key"}
        told = json.dumps([self.path, fields], sort_keys=True, default=_hash_bytes)
        return hashlib.sha256(told.encode()).hexdigest()


def _hash_bytes(value: object) -> str:
    """For an uploaded file."""
    assert isinstance(value, bytes)
    return hashlib.sha256(value).hexdigest()


_VIDEO = VideoParams.kind


def _to_video_job(job: AnyJob) -> VideoJob:
    """Raises JobNotFound for a job of another kind."""
    if isinstance(job.params, VideoParams):
        return cast("VideoJob", job)
    raise JobNotFound(f"There is no job {job.id} that makes a video.")


class OwnJobs:
    """A caller's own jobs that make videos. Those of others, and of other kinds, answer as ids that nobody has.

    `idempotency` is the request's, if it asked for that: its first submission is answered again.
    """

    def __init__(self, store: JobStore, caller: Caller, idempotency: Idempotency | None = None) -> None:
        self._store = store
        self._caller = caller
        self._idempotency = idempotency

    def find_first(self) -> VideoJob | None:
        """The job that the request made when it was first sent; None if this is the first time. Raises what `submit` raises."""
        asked = self._idempotency
        key_hash, request_hash = (asked.key_hash, asked.request_hash) if asked else (None, None)
        first = self._store.find_first(key_hash, request_hash, of=self._caller)
        return None if first is None else _to_video_job(first)

    def submit(self, new: NewJob) -> VideoJob:
        """Queues a job of the caller's. Raises IdempotencyConflict, RateLimitExceeded and InvalidApiKey."""
        own = replace(new, api_key_id=self._caller.api_key_id)
        if self._idempotency is not None:
            own = replace(own, idem_key=self._idempotency.key_hash, request_hash=self._idempotency.request_hash)
        return _to_video_job(self._store.submit(own))

    def get(self, job_id: int) -> VideoJob:
        """Raises JobNotFound."""
        return _to_video_job(self._store.get(job_id, of=self._caller, kind=_VIDEO))

    def list(self, *, limit: int = 50, after: int | None = None, oldest_first: bool = False) -> builtins.list[VideoJob]:
        """As `JobStore.list`."""
        page = self._store.list(limit=limit, after=after, oldest_first=oldest_first, of=self._caller, kind=_VIDEO)
        return [_to_video_job(job) for job in page]

    def list_succeeded(self, *, limit: int, offset: int = 0) -> builtins.list[VideoJob]:
        """As `JobStore.list_succeeded`."""
        page = self._store.list_succeeded(limit=limit, offset=offset, of=self._caller, kind=_VIDEO)
        return [_to_video_job(job) for job in page]

    def count(self, status: JobStatus) -> int:
        return self._store.count(status, of=self._caller, kind=_VIDEO)

    def cancel(self, job_id: int) -> VideoJob:
        """Raises JobNotFound."""
        return _to_video_job(self._store.cancel(job_id, of=self._caller, kind=_VIDEO))

    def delete(self, job_id: int) -> VideoJob:
        """Raises JobNotFound."""
        return _to_video_job(self._store.delete(job_id, of=self._caller, kind=_VIDEO))

    # Of everyone's jobs, because all share the workers: sums and counts, that tell nothing of a single one.

    def count_of_all(self, status: JobStatus) -> int:
        return self._store.count(status)

    def queue_ahead(self, job: VideoJob) -> Ahead:
        return self._store.queue_ahead(job)

    def unfinished_work(self) -> builtins.list[Work]:
        return self._store.unfinished_work()

    def live_workers(self) -> builtins.list[WorkerRecord]:
        return self._store.live_workers()

    def recent_timings(self, model_id: str) -> Sequence[Timing]:
        return self._store.recent_timings(model_id)


class PublicJobs:
    """What is told without a key: how the service is, and whose a file is to those who know the file's random name."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def get_by_file_prefix(self, file_prefix: str) -> VideoJob:
        """Raises JobNotFound."""
        return _to_video_job(self._store.get_by_file_prefix(file_prefix))

    def count(self, status: JobStatus) -> int:
        return self._store.count(status)

    def live_workers(self) -> builtins.list[WorkerRecord]:
        return self._store.live_workers()
