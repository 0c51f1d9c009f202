"""The errors that Promptreel reports to users, as one tree. The api's own are defined in api/.

    PromptreelError
    ├── InvalidParams         invalid_params        `fields` has the messages of each bad field
    ├── ModelNotFound         model_not_found
    ├── ModelInUse            model_in_use          jobs or other models need it, so it is not removed
    ├── JobNotFound           job_not_found
    ├── DeliveryNotFound      delivery_not_found
    ├── InvalidApiKey         invalid_api_key       missing, unknown or revoked
    ├── ForeignPage           foreign_page          another site's web page sent a request without a key
    ├── RateLimitExceeded     rate_limit_exceeded   an API key has reached a limit; retry later
    ├── IdempotencyConflict   idempotency_conflict  the Idempotency-Key belongs to another request
    ├── LinkUnusable          link_unusable         a file link has expired, or its signature is wrong
    ├── ApiKeyNotFound        api_key_not_found     command line: no key matches, or several do
    ├── UrlUnusable           url_unusable          a URL in a request is forbidden or cannot be fetched
    ├── DatabaseBusy          database_busy         retry later
    ├── DecoderBusy           decoder_busy          too many pictures and videos await their check; retry later
    ├── NotAvailable          not_available         the hosted service has this function, Promptreel has not
    ├── BadConfiguration      bad_configuration     the settings or the machine prevent a start
    ├── RemoteFailed          remote_failed         raised only by promptreel.Client
    │   ├── ServerUnreachable     server_unreachable
    │   ├── RequestRefused        request_refused       `code` is the server's, if it sent one
    │   └── NotDoneInTime         not_done_in_time
    └── JobFailed             job_failed            a job failed; its row keeps code and message
        ├── CheckpointUnusable    checkpoint_unusable
        ├── OutOfMemory           out_of_memory
        ├── GenerationFailed      generation_failed
        ├── TrainingFailed        training_failed
        ├── InitUnusable          init_unusable
        ├── EncodingFailed        encoding_failed
        ├── StorageFailed         storage_failed
        │   └── DiskFull              disk_full             retry later
        ├── DeviceLost            device_lost           the worker restarts, and its jobs are retried
        └── WorkerLost            worker_lost

Requests can meet the errors under JobFailed, too: for instance StorageFailed, when an upload cannot be stored.

Codes never change, so programs may compare them. Messages may change. Errors of libraries are translated where they occur.
This module knows nothing of HTTP: `api/problems.py` turns errors into answers.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any


class PromptreelError(Exception):
    """Base of the errors that users see. The message says what is wrong, and what to do if anything helps.

    `retry_after`: seconds after which a retry may succeed; None if unknown.
    """

    code: str = "error"
    retry_after: float | None = None

    @property
    def message(self) -> str:
        return str(self)


class InvalidParams(PromptreelError):
    """Some fields of a request are invalid. `fields` maps the name of each to its messages."""

    code = "invalid_params"

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        super().__init__(" ".join(message for messages in fields.values() for message in messages))
        self.fields = dict(fields)


class ModelNotFound(PromptreelError):
    """No model has this id."""

    code = "model_not_found"


class ModelInUse(PromptreelError):
    """A model is not removed, because a job or another model needs it."""

    code = "model_in_use"


class JobNotFound(PromptreelError):
    """No job has this id, or another API key owns it. The caller must not learn which."""

    code = "job_not_found"


class DeliveryNotFound(PromptreelError):
    """The job has no webhook, or has not ended: there is nothing to deliver."""

    code = "delivery_not_found"


class InvalidApiKey(PromptreelError):
    """The key is missing, unknown or revoked. The caller must not learn which."""

    code = "invalid_api_key"


class ForeignPage(PromptreelError):
    """Another site's web page, open in a browser on this machine, sent a request to a service without API keys."""

    code = "foreign_page"


class RateLimitExceeded(PromptreelError):
    """An API key has reached one of its limits."""

    code = "rate_limit_exceeded"

    def __init__(self, why: str, *, retry_after: int) -> None:
        super().__init__(f"Rate limit exceeded. {why}")
        self.retry_after = retry_after


class IdempotencyConflict(PromptreelError):
    """A different request has already used this idempotency key."""

    code = "idempotency_conflict"


class LinkUnusable(PromptreelError):
    """A link to a file has expired, or its signature is wrong."""

    code = "link_unusable"


class ApiKeyNotFound(PromptreelError):
    """No API key matches, or more than one does."""

    code = "api_key_not_found"


class UrlUnusable(PromptreelError):
    """A URL in a request may not be fetched, or fetching it failed."""

    code = "url_unusable"


class DatabaseBusy(PromptreelError):
    """The database is not usable now, for example because another process holds its write lock for too long."""

    code = "database_busy"
    retry_after = 5


class DecoderBusy(PromptreelError):
    """Too many pictures and videos await their check. One is checked at a time."""

    code = "decoder_busy"
    retry_after = 5


class NotAvailable(PromptreelError):
    """The hosted service has this function and Promptreel has not. The message names an alternative."""

    code = "not_available"


class BadConfiguration(PromptreelError):
    """The settings or the machine do not allow a safe start."""

    code = "bad_configuration"


class RemoteFailed(PromptreelError):
    """Base of the errors that only `promptreel.Client` raises."""

    code = "remote_failed"


class ServerUnreachable(RemoteFailed):
    """The server did not answer, even after retries."""

    code = "server_unreachable"


class RequestRefused(RemoteFailed):
    """The server refused a request, or its answer is not one of Promptreel's. For errors that no other class here can express.

    `code` and `retry_after` are the server's, if it sent them.
    """

    code = "request_refused"

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code or self.code
        self.retry_after = retry_after


class NotDoneInTime(RemoteFailed):
    """The video was not done within the timeout. The server continues to make it."""

    code = "not_done_in_time"


class JobFailed(PromptreelError):
    """A job ended without a video."""

    code = "job_failed"


class CheckpointUnusable(JobFailed):
    """The checkpoint's files are missing, unsafe or do not fit together."""

    code = "checkpoint_unusable"


class OutOfMemory(JobFailed):
    """The device or the machine has too little memory for a clip of this size and length, or for the model."""

    code = "out_of_memory"


class GenerationFailed(JobFailed):
    """The model could not make the clip."""

    code = "generation_failed"


class TrainingFailed(JobFailed):
    """The model could not be trained: the loss is no number, an example cannot be read, or a training checkpoint is damaged."""

    code = "training_failed"


class InitUnusable(JobFailed):
    """The init image or video cannot be decoded, or not within the limits on time and memory."""

    code = "init_unusable"


class EncodingFailed(JobFailed):
    """The frames could not be written as a video."""

    code = "encoding_failed"


class StorageFailed(JobFailed):
    """A file could not be written or deleted, or a stored file is gone or damaged."""

    code = "storage_failed"


class DiskFull(StorageFailed):
    """The disk has no room for a file or for the database. A job that fails for this reason is retried for 19 hours."""

    code = "disk_full"
    retry_after = 30


class DeviceLost(JobFailed):
    """The device has failed and needs a new process. The worker is restarted, and its jobs are retried."""

    code = "device_lost"


class WorkerLost(JobFailed):
    """Too many workers died while they ran this job."""

    code = "worker_lost"


def is_disk_full(error: Exception) -> bool:
    """Whether the system reports a full disk or a quota that is used up."""
    return getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}


TEMPORARY = (DatabaseBusy, DiskFull)
"""Errors after which a process keeps running and tries again."""


class JobCancelled(Exception):
    """Ends a running job that was cancelled. `write`: what to write in the transaction that ends it, as in Result."""

    write: Callable[[Any], object] | None = None


class JobLost(Exception):
    """A worker may no longer write a job: another worker has taken it over, or its lease may run out. Ends the running job."""


class DeliveryLost(Exception):
    """A courier may no longer write a delivery: another courier has taken it over, or it was deleted."""
