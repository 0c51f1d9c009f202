"""Everything that can go wrong, as one tree.

    PromptreelError
    ├── InvalidParams         invalid_params        the caller can fix it; `fields` says where
    ├── ModelNotFound         model_not_found
    ├── JobNotFound           job_not_found
    ├── DeliveryNotFound      delivery_not_found
    ├── InvalidApiKey         invalid_api_key       none was sent, or one that is unknown or revoked
    ├── ForeignPage           foreign_page          another site's page, where no key says who asks
    ├── RateLimitExceeded     rate_limit_exceeded   what a key may do; `retry_after` says when to come back
    ├── IdempotencyConflict   idempotency_conflict  an Idempotency-Key that was used for another request
    ├── LinkUnusable          link_unusable         a link to a file that has expired, or is not signed as it must be
    ├── ApiKeyNotFound        api_key_not_found     of the command line: no key that can be meant
    ├── UrlUnusable           url_unusable          a URL that the caller gave; the message says why
    ├── DatabaseBusy          database_busy         the job table cannot be used now; a later try may succeed
    ├── DecoderBusy           decoder_busy          too many pictures and videos wait to be checked; a later try may succeed
    ├── NotAvailable          not_available         what the hosted service did and this one does not
    ├── BadConfiguration      bad_configuration     this machine or its settings; start-up refuses
    ├── RemoteFailed          remote_failed         what a client asked of a server elsewhere did not come about
    │   ├── ServerUnreachable     server_unreachable
    │   ├── RequestRefused        request_refused       or whatever code the server gave
    │   └── NotDoneInTime         not_done_in_time
    └── JobFailed             what a job can die of; its code and message are kept on the job
        ├── CheckpointUnusable    checkpoint_unusable
        ├── OutOfMemory           out_of_memory
        ├── GenerationFailed      generation_failed
        ├── InitUnusable          init_unusable
        ├── EncodingFailed        encoding_failed
        ├── StorageFailed         storage_failed
        │   └── DiskFull              disk_full             of a request too; a later try may succeed
        ├── DeviceLost            device_lost           of `generate` alone: a worker ends, and its jobs are tried again
        └── WorkerLost            worker_lost

`code` is a promise and may be compared; a message may change. Foreign exceptions become one of these where they enter.
HTTP is not known here: `api/problems.py` maps the tree to answers.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping


class PromptreelError(Exception):
    """Base of all errors that Promptreel raises on purpose; the message says what to do about it.

    `retry_after` is in how many seconds the same request is worth another try, where that helps.
    """

    code: str = "error"
    retry_after: float | None = None

    @property
    def message(self) -> str:
        return str(self)


class InvalidParams(PromptreelError):
    """Some fields of a request cannot be used; `fields` maps each one's name to what is wrong with it."""

    code = "invalid_params"

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        super().__init__(" ".join(message for messages in fields.values() for message in messages))
        self.fields = dict(fields)


class ModelNotFound(PromptreelError):
    """No checkpoint with this id is known."""

    code = "model_not_found"


class JobNotFound(PromptreelError):
    """No job with this id, or it belongs to somebody else: the two are told apart by nobody."""

    code = "job_not_found"


class DeliveryNotFound(PromptreelError):
    """The job has no webhook, or has not ended: there is nothing to deliver."""

    code = "delivery_not_found"


class InvalidApiKey(PromptreelError):
    """A request without a key, or with one that is unknown or revoked: the three are told apart by nobody."""

    code = "invalid_api_key"


class ForeignPage(PromptreelError):
    """A web page of another site asked, through a browser at this machine, and no key says that it may."""

    code = "foreign_page"


class RateLimitExceeded(PromptreelError):
    """A key has used up what its limits allow."""

    code = "rate_limit_exceeded"

    def __init__(self, why: str, *, retry_after: int) -> None:
        super().__init__(f"Rate limit exceeded. {why}")
        self.retry_after = retry_after


class IdempotencyConflict(PromptreelError):
    """Another request was sent with this idempotency key before."""

    code = "idempotency_conflict"


class LinkUnusable(PromptreelError):
    """A link to a file has expired, or its signature is not ours."""

    code = "link_unusable"


class ApiKeyNotFound(PromptreelError):
    """No API key, or more than one, is meant by what was given."""

    code = "api_key_not_found"


class UrlUnusable(PromptreelError):
    """A URL that a request names may not be fetched, or could not be."""

    code = "url_unusable"


class DatabaseBusy(PromptreelError):
    """The database cannot be used now, as when another process holds its write lock for too long."""

    code = "database_busy"
    retry_after = 5


class DecoderBusy(PromptreelError):
    """Pictures and videos are checked one after the other, and too many wait already."""

    code = "decoder_busy"
    retry_after = 5


class NotAvailable(PromptreelError):
    """The hosted service did this and Promptreel does not; the message says what to do instead."""

    code = "not_available"


class BadConfiguration(PromptreelError):
    """The settings or the machine do not allow a safe start."""

    code = "bad_configuration"


class RemoteFailed(PromptreelError):
    """What a client asked of a server elsewhere did not come about (client.py)."""

    code = "remote_failed"


class ServerUnreachable(RemoteFailed):
    """The server did not answer, though it was asked again and again for a while."""

    code = "server_unreachable"


class RequestRefused(RemoteFailed):
    """The server's answer is an error with no class of its own here; `code` is the server's, if it gave one.

    `retry_after` is what the server said, if it did.
    """

    code = "request_refused"

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code or self.code
        self.retry_after = retry_after


class NotDoneInTime(RemoteFailed):
    """A video was not done in the time that its client wanted to wait; it goes on."""

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
    """The init image or video cannot be decoded, or is too large to be."""

    code = "init_unusable"


class EncodingFailed(JobFailed):
    """The frames could not be written as a video."""

    code = "encoding_failed"


class StorageFailed(JobFailed):
    """A file could not be stored, or one that was is gone."""

    code = "storage_failed"


class DiskFull(StorageFailed):
    """A file, or the job table, has no room on its disk. A job that meets this is tried again for most of a day."""

    code = "disk_full"
    retry_after = 30


class DeviceLost(JobFailed):
    """The device failed in a way that only a new process gets over. A worker ends with it; its jobs keep their other lives."""

    code = "device_lost"


class WorkerLost(JobFailed):
    """The worker died with this job too many times."""

    code = "worker_lost"


def is_full(error: Exception) -> bool:
    """Whether an error of the system says that a disk, or somebody's share of it, has no room left."""
    return getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}


PASSING = (DatabaseBusy, DiskFull)
"""What passes by itself, or once somebody has made room: what met it is worth another try, after `retry_after` seconds."""


class JobCancelled(Exception):
    """Raised inside a running job once somebody has asked to cancel it."""


class JobLost(Exception):
    """Raised inside a running job whose lease went to another worker, or which must be given back."""


class DeliveryLost(Exception):
    """Raised when a courier records an attempt at a delivery that another courier has taken over, or that was deleted."""
