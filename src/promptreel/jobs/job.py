"""Job, its states and its stages. Pure: only the store changes a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeAlias, TypeVar

from promptreel.jobs.kinds import Params
from promptreel.jobs.params import VideoParams


class JobStatus(StrEnum):
    """Drives: what may happen to the job next."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATUSES = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class JobStage(StrEnum):
    """Explains: what the worker is doing with a running job. Plays no role in what happens next."""

    LOADING = "loading"
    DENOISING = "denoising"
    DECODING = "decoding"
    ENCODING = "encoding"
    STORING = "storing"


OnProgress = Callable[[JobStage, float], None]
"""Told the stage and the share of it that is done (0 to 1), between any two calls, and again now and then while the job waits
for others; it may raise to stop the job there. Where it is told nothing for long, something hangs."""


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """What a dialect hands to the store.

    `request` is what the dialect needs to answer in its own words later. `cost` is its work in units (eta.py), by which API
    keys share the workers. `api_key_id` is whose job it is; None is the one local caller of a service without
    keys. `webhook_url` is called when the job has ended. `idem_key` makes the job the only one of its caller with this key;
    `request_hash` tells whether a later request with it asks for the same.
    """

    params: Params
    request: dict[str, Any]
    cost: float
    track_id: str | None = None
    webhook_url: str | None = None
    api_key_id: int | None = None
    idem_key: str | None = None
    request_hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a job made: a key in storage, and facts about the file and how it was made (seconds by stage among them)."""

    key: str
    size_bytes: int
    sha256: str
    facts: dict[str, Any]


ParamsT_co = TypeVar("ParamsT_co", bound=Params, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Job(Generic[ParamsT_co]):
    """One row of the job table. Its params say of what kind it is.

    `id` is public and sequential. `file_prefix` is random: it names the job's file. `attempt` counts claims, and is the fence:
    a worker may only write with the attempt that it claimed. `crashes` counts the workers that died with it. `progress` is a
    share of the calls to the model, 0 to 1. `cost` is its work in units (eta.py).
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

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_STATUSES

    @property
    def kind(self) -> str:
        return self.params.kind

    @property
    def file_name(self: VideoJob) -> str:
        """How its finished file is called in links."""
        return f"{self.file_prefix}.{self.params.output_type}"

    @property
    def preview_key(self) -> str:
        """Where in storage the preview is, if there is one, while the job runs; an attempt replaces that of the one before."""
        return f"{self.file_prefix}/preview.webp"


AnyJob: TypeAlias = Job[Params]
VideoJob: TypeAlias = Job[VideoParams]


@dataclass(frozen=True, kw_only=True)
class JobAttempt:
    """One time that a worker had the job; `ended_at` and `outcome` are None while it has it."""

    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None


@dataclass(frozen=True)
class Claim:
    """The right to work on a job until its lease runs out; every write of the worker carries it."""

    job_id: int
    attempt: int
    owner: str
