"""The job table as requests see it: their caller's own jobs, and totals that reveal nothing about others' jobs.

The api's handlers get these views and never the store, so they cannot forget to check a job's owner.
"""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar, cast

from promptreel.errors import JobNotFound
from promptreel.jobs.changes import Change, ChangeLog
from promptreel.jobs.eta import Ahead, Timing, Work
from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.job import AnyJob, Job, JobStatus, NewJob, TrainingJob, VideoJob
from promptreel.jobs.keys import Caller
from promptreel.jobs.kinds import Params
from promptreel.jobs.params import VideoParams
from promptreel.jobs.store import JobStore
from promptreel.jobs.training_params import TrainingParams
from promptreel.jobs.worker_records import WorkerRecord


@dataclass(frozen=True)
class Idempotency:
    """Identifies repeated requests: by the client's idempotency key, the request's path, and its fields.

    The fields are the request's, not the job's: a randomly drawn seed must not make a repeated request different.
    """

    key: str
    path: str
    fields: Mapping[str, Any] = field(repr=False)  # the API key may be among them

    @property
    def key_hash(self) -> str:
        """Has a fixed length, however long the client's key is."""
        return hashlib.sha256(self.key.encode(errors="surrogatepass")).hexdigest()

    @cached_property
    def request_hash(self) -> str:
        """Leaves out the API key, which a repeated request may send in a header instead."""
        fields = {name: value for name, value in self.fields.items() if name != "key"}
        canonical = json.dumps([self.path, fields], sort_keys=True, default=_hash_bytes)
        return hashlib.sha256(canonical.encode()).hexdigest()


def _hash_bytes(value: object) -> str:
    """Stands for an uploaded file's bytes, which JSON cannot hold."""
    assert isinstance(value, bytes)
    return hashlib.sha256(value).hexdigest()


_VIDEO = VideoParams.kind


def _to_video_job(job: AnyJob) -> VideoJob:
    """Raises JobNotFound for a job of another kind."""
    if isinstance(job.params, VideoParams):
        return cast("VideoJob", job)
    raise JobNotFound(f"There is no job {job.id} that makes a video.")


class OwnJobs:
    """A caller's own video jobs. Other callers' jobs, and jobs of other kinds, look like unknown ids.

    `idempotency`: None if the request has no idempotency key.
    """

    def __init__(self, store: JobStore, caller: Caller, idempotency: Idempotency | None = None) -> None:
        self._store = store
        self._caller = caller
        self._idempotency = idempotency

    def find_first(self) -> VideoJob | None:
        """The job that this request created when first sent; None if this is the first time. Raises what `submit` raises."""
        first = _find_first(self._store, self._caller, self._idempotency)
        return None if first is None else _to_video_job(first)

    def submit(self, new: NewJob) -> VideoJob:
        """Queues a job for the caller. Raises IdempotencyConflict, RateLimitExceeded and InvalidApiKey."""
        return _to_video_job(self._store.submit(_made_by(new, self._caller, self._idempotency)))

    def get(self, job_id: int) -> VideoJob:
        """Raises JobNotFound."""
        return _to_video_job(self._store.get(job_id, of=self._caller, kind=_VIDEO))

    def list(self, *, limit: int = 50, after: int | None = None, oldest_first: bool = False) -> builtins.list[VideoJob]:
        """See `JobStore.list`."""
        page = self._store.list(limit=limit, after=after, oldest_first=oldest_first, of=self._caller, kind=_VIDEO)
        return [_to_video_job(job) for job in page]

    def list_succeeded(self, *, limit: int, offset: int = 0) -> builtins.list[VideoJob]:
        """See `JobStore.list_succeeded`."""
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

    # Totals over all callers, who share the workers. They reveal nothing about a single job.

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


ParamsT = TypeVar("ParamsT", bound=Params)


class _OwnOfKind(Generic[ParamsT]):
    """A caller's own jobs of one kind. Other callers' jobs, and jobs of other kinds, look like unknown ids.

    `idempotency`: None if the request has no idempotency key.
    """

    params: ClassVar[type[Any]]
    what: ClassVar[str]

    def __init__(self, store: JobStore, caller: Caller, idempotency: Idempotency | None = None) -> None:
        self._store = store
        self._caller = caller
        self._idempotency = idempotency

    @property
    def _mine(self) -> dict[str, Any]:
        return {"of": self._caller, "kind": self.params.kind}

    def _own(self, job: AnyJob) -> Job[ParamsT]:
        """Raises JobNotFound for a job of another kind."""
        if isinstance(job.params, self.params):
            return cast("Job[ParamsT]", job)
        raise JobNotFound(f"There is no job {job.id} that {self.what}.")

    def find_first(self) -> Job[ParamsT] | None:
        """As in OwnJobs."""
        first = _find_first(self._store, self._caller, self._idempotency)
        return None if first is None else self._own(first)

    def submit(self, new: NewJob) -> Job[ParamsT]:
        """Queues a job for the caller. Raises IdempotencyConflict, RateLimitExceeded and InvalidApiKey."""
        return self._own(self._store.submit(_made_by(new, self._caller, self._idempotency)))

    def get(self, job_id: int) -> Job[ParamsT]:
        """Raises JobNotFound."""
        return self._own(self._store.get(job_id, **self._mine))

    def latest(self, model_id: str) -> Job[ParamsT] | None:
        """The caller's last one for this model."""
        found = self._store.list(limit=1, model_id=model_id, **self._mine)
        return self._own(found[0]) if found else None

    def cancel(self, job_id: int) -> Job[ParamsT]:
        """Raises JobNotFound."""
        return self._own(self._store.cancel(job_id, **self._mine))


class OwnImports(_OwnOfKind[ImportParams]):
    """A caller's own imports of models."""

    params = ImportParams
    what = "imports a model"


class OwnTrainings(_OwnOfKind[TrainingParams]):
    """A caller's own trainings."""

    params = TrainingParams
    what = "trains a model"

    def list(self, *, limit: int = 50, after: int | None = None, oldest_first: bool = False) -> builtins.list[TrainingJob]:
        """See `JobStore.list`."""
        page = self._store.list(limit=limit, after=after, oldest_first=oldest_first, **self._mine)
        return [self._own(job) for job in page]

    def delete(self, job_id: int) -> TrainingJob:
        """Raises JobNotFound."""
        return self._own(self._store.delete(job_id, **self._mine))

    def is_making(self, model_id: str) -> bool:
        """Whether an unfinished training makes a model with this id, whoever asked for it."""
        return self._store.is_making(model_id, kind=self.params.kind)

    def queue_ahead(self, job: TrainingJob) -> Ahead:
        return self._store.queue_ahead(job)


class OwnChanges:
    """The changes of a caller's own jobs, of all kinds. Numbers are shared by all callers, and reveal only how much is done."""

    def __init__(self, log: ChangeLog, caller: Caller) -> None:
        self._log = log
        self._caller = caller

    def last(self) -> int:
        return self._log.last()

    def last_of(self, job_id: int) -> int:
        """The number of a job's last change. Only for a job that was found to be the caller's."""
        return self._log.last_of(job_id)

    def reaches_back_to(self, seq: int) -> bool:
        return self._log.reaches_back_to(seq)

    def since(self, seq: int, *, limit: int) -> builtins.list[Change]:
        """See `ChangeLog.since`."""
        return self._log.since(seq, of=self._caller, limit=limit)

    def unfinished_videos(self, *, limit: int) -> builtins.list[VideoJob]:
        """The caller's oldest videos that are waiting or being made."""
        return [_to_video_job(job) for job in self._log.unfinished(of=self._caller, kind=_VIDEO, limit=limit)]


def _find_first(store: JobStore, caller: Caller, asked: Idempotency | None) -> AnyJob | None:
    key_hash, request_hash = (asked.key_hash, asked.request_hash) if asked else (None, None)
    return store.find_first(key_hash, request_hash, of=caller)


def _made_by(new: NewJob, caller: Caller, idempotency: Idempotency | None) -> NewJob:
    own = replace(new, api_key_id=caller.api_key_id)
    if idempotency is None:
        return own
    return replace(own, idem_key=idempotency.key_hash, request_hash=idempotency.request_hash)


class PublicJobs:
    """What needs no API key: the service's health, and the job of a file, for whoever knows the file's random name."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def get_by_file_prefix(self, file_prefix: str) -> VideoJob:
        """Raises JobNotFound."""
        return _to_video_job(self._store.get_by_file_prefix(file_prefix))

    def get_training_by_file_prefix(self, file_prefix: str) -> TrainingJob:
        """Raises JobNotFound."""
        job = self._store.get_by_file_prefix(file_prefix)
        if isinstance(job.params, TrainingParams):
            return cast("TrainingJob", job)
        raise JobNotFound(f"There is no training whose files are named {file_prefix}.")

    def count(self, status: JobStatus) -> int:
        return self._store.count(status)

    def live_workers(self) -> builtins.list[WorkerRecord]:
        return self._store.live_workers()
