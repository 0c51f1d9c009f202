"""Job, with its status and stage. Pure: only the store changes a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeAlias, TypeVar

from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.kinds import Params
from promptreel.jobs.params import VideoParams
from promptreel.jobs.training_params import TrainingParams


class JobStatus(StrEnum):
    """Decides what may happen to the job next."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATUSES = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class JobStage(StrEnum):
    """What the worker is doing with a running job. For information only."""

    LOADING = "loading"
    DENOISING = "denoising"
    DECODING = "decoding"
    ENCODING = "encoding"
    STORING = "storing"
    TRAINING = "training"
    SAMPLING = "sampling"


OnProgress = Callable[[JobStage, float], None]
"""Gets the stage and its share done (0 to 1). Called between any two calls to the model, and regularly while the job waits for
other jobs; a long silence means that the job hangs. It may raise to stop the job."""


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job as a dialect submits it.

    `request`: what the dialect needs to answer in its own terms later. `cost`: the work in units (eta.py), by which API keys
    share the workers. `api_key_id`: the job's owner; None is the local caller of a service without keys. `webhook_url` is
    called when the job has ended. `idem_key` is unique among its caller's jobs; `request_hash` tells whether a later request
    with the same key asks for the same. `file_prefix`: as in Job, for a job whose files are stored before its row; None draws
    one.
    """

    params: Params
    request: dict[str, Any]
    cost: float
    track_id: str | None = None
    webhook_url: str | None = None
    api_key_id: int | None = None
    idem_key: str | None = None
    request_hash: str | None = None
    file_prefix: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a job made: a file in storage, and facts about how it was made, such as the seconds of each stage.

    `write` gets the connection of the transaction that ends the job, to write what must be there exactly if the job succeeds.
    """

    key: str
    size_bytes: int
    sha256: str
    facts: dict[str, Any]
    write: Callable[[Any], object] | None = None


ParamsT_co = TypeVar("ParamsT_co", bound=Params, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Job(Generic[ParamsT_co]):
    """One row of the job table.

    `id` is public and sequential. `file_prefix` is random, and names the job's files. `attempt` counts claims, and is the
    fence: a worker can write only with the attempt that it claimed. `crashes` counts the workers that died with the job.
    `progress` is the share of its calls to the model that are done, 0 to 1. `cost` is its work in units (eta.py). `report` is
    what it tells beyond stage and progress, in its kind's words; None if nothing. It outlives attempts.
    """

    id: int
    file_prefix: str
    params: ParamsT_co
    request: dict[str, Any]
    track_id: str | None
    webhook_url: str | None
    api_key_id: int | None
    status: JobStatus
    stage: JobStage | None
    progress: float
    cost: float
    attempt: int
    crashes: int
    owner: str | None
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error_code: str | None
    error_message: str | None
    result: Result | None
    report: dict[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_STATUSES

    @property
    def kind(self) -> str:
        return self.params.kind

    @property
    def file_name(self: VideoJob) -> str:
        """The finished file's name in links."""
        return f"{self.file_prefix}.{self.params.output_type}"

    @property
    def preview_key(self) -> str:
        """The preview's key in storage. A preview exists only while the job runs, and all attempts share the key."""
        return f"{self.file_prefix}/preview.webp"


AnyJob: TypeAlias = Job[Params]
VideoJob: TypeAlias = Job[VideoParams]
ImportJob: TypeAlias = Job[ImportParams]
TrainingJob: TypeAlias = Job[TrainingParams]


@dataclass(frozen=True, kw_only=True)
class JobAttempt:
    """One attempt at a job. `ended_at` and `outcome` are None until it has ended."""

    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None


@dataclass(frozen=True)
class Claim:
    """The right to work on a job until its lease runs out. Every write of the worker requires it."""

    job_id: int
    attempt: int
    owner: str
