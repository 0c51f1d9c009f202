"""Everything that can go wrong, as one tree.

    PromptreelError
    ├── InvalidParams         invalid_params        `fields` maps each bad field to what is wrong with it
    ├── ModelNotFound         model_not_found
    ├── ModelInUse            model_in_use          jobs or other models need it, so it is not removed
    ├── JobNotFound           job_not_found
    ├── DeliveryNotFound      delivery_not_found
    ├── InvalidApiKey         invalid_api_key       missing, unknown or revoked
    ├── ForeignPage           foreign_page          a web page of another site asked, without a key
    ├── RateLimitExceeded     rate_limit_exceeded   a key's limits are used up; `retry_after` is set
    ├── IdempotencyConflict   idempotency_conflict  the Idempotency-Key belongs to another request
    ├── LinkUnusable          link_unusable         a file link has expired, or its signature is wrong
    ├── ApiKeyNotFound        api_key_not_found     command line: no key matches, or several do
    ├── UrlUnusable           url_unusable          a URL in a request; the message says why
    ├── DatabaseBusy          database_busy         retry later
    ├── DecoderBusy           decoder_busy          too many pictures and videos wait to be checked; retry later
    ├── NotAvailable          not_available         a function of the hosted service that Promptreel lacks
    ├── BadConfiguration      bad_configuration     settings or machine; stops the start
    ├── RemoteFailed          remote_failed         raised by promptreel.Client
    │   ├── ServerUnreachable     server_unreachable
    │   ├── RequestRefused        request_refused       or the server's own code
    │   └── NotDoneInTime         not_done_in_time
    └── JobFailed             job_failed            why a job failed; code and message are kept with the job
        ├── CheckpointUnusable    checkpoint_unusable
        ├── OutOfMemory           out_of_memory
        ├── GenerationFailed      generation_failed
        ├── InitUnusable          init_unusable
        ├── EncodingFailed        encoding_failed
        ├── StorageFailed         storage_failed
        │   └── DiskFull              disk_full             requests meet it too; retry later
        ├── DeviceLost            device_lost           ends `generate`; a worker restarts and its jobs are retried
        └── WorkerLost            worker_lost

Programs may compare `code`, which never changes; messages may change. Foreign exceptions are translated where they enter.
This module knows no HTTP: `api/problems.py` maps the tree to answers.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping


class PromptreelError(Exception):
    """Base of all errors that Promptreel raises on purpose. The message says what to do.

    `retry_after`: seconds after which a retry may succeed; None if retrying does not help.
    """

    code: str = "error"
    retry_after: float | None = None

    @property
    def message(self) -> str:
        return str(self)


class InvalidParams(PromptreelError):
    """Some fields of a request are invalid; `fields` maps each name to what is wrong with it."""

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
    """No job has this id, or another key owns it: deliberately indistinguishable."""

    code = "job_not_found"


class DeliveryNotFound(PromptreelError):
    """The job has no webhook, or has not ended: there is nothing to deliver."""

    code = "delivery_not_found"


class InvalidApiKey(PromptreelError):
    """The key is missing, unknown or revoked: deliberately indistinguishable."""

    code = "invalid_api_key"


class ForeignPage(PromptreelError):
    """A service without keys got a request from another site's web page, through a browser on this machine."""

    code = "foreign_page"


class RateLimitExceeded(PromptreelError):
    """A key has used up its limits."""

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
    """Too many pictures and videos wait to be checked, one after the other."""

    code = "decoder_busy"
    retry_after = 5


class NotAvailable(PromptreelError):
    """The hosted service did this and Promptreel does not. The message names an alternative."""

    code = "not_available"


class BadConfiguration(PromptreelError):
    """The settings or the machine do not allow a safe start."""

    code = "bad_configuration"


class RemoteFailed(PromptreelError):
    """Base of the errors that `promptreel.Client` raises by itself."""

    code = "remote_failed"


class ServerUnreachable(RemoteFailed):
    """The server did not answer, even after retries."""

    code = "server_unreachable"


class RequestRefused(RemoteFailed):
    """The server answered with an error that has no class here; `code` and `retry_after` are the server's, if it sent them."""

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


class InitUnusable(JobFailed):
    """The init image or video cannot be decoded, or decoding it takes too much."""

    code = "init_unusable"


class EncodingFailed(JobFailed):
    """The frames could not be written as a video."""

    code = "encoding_failed"


class StorageFailed(JobFailed):
    """A file could not be stored, or a stored file is gone."""

    code = "storage_failed"


class DiskFull(StorageFailed):
    """The disk has no room for a file or for the job table. A job that meets this is retried for 19 hours."""

    code = "disk_full"
    retry_after = 30


class DeviceLost(JobFailed):
    """The device will not work again in this process. A worker ends and restarts; its jobs are retried."""

    code = "device_lost"


class WorkerLost(JobFailed):
    """The worker died with this job too many times."""

    code = "worker_lost"


def is_full(error: Exception) -> bool:
    """Whether a system error means that the disk is full or a quota is used up."""
    return getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}


PASSING = (DatabaseBusy, DiskFull)
"""Temporary errors: retry after `retry_after` seconds."""


class JobCancelled(Exception):
    """Raised inside a running job when it has been cancelled."""


class JobLost(Exception):
    """Raised inside a running job that another worker has taken over, or that must return to the queue."""


class DeliveryLost(Exception):
    """Raised when a courier records an attempt at a delivery that another courier has taken over or that was deleted."""
