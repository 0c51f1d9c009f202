"""A server's answers as the client's types: videos, models and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from promptreel import errors
from promptreel.errors import InvalidParams, JobFailed, PromptreelError, RequestRefused

R = TypeVar("R")

FINAL_STATUSES = frozenset({"completed", "failed"})


@dataclass(frozen=True, kw_only=True)
class RemoteVideo:
    """A snapshot of a video on a server.

    `status` is `queued`, `in_progress`, `completed` or `failed`; `progress` goes to 100. `stage`, `queue_position` (1 is
    next) and `eta` (seconds) are set while it is not done. `answer` is the server's whole answer.
    """

    id: str
    status: str
    progress: int
    model: str
    prompt: str
    size: str
    seed: int | None
    stage: str | None
    queue_position: int | None
    eta: int | None
    error_code: str | None
    error_message: str | None
    answer: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def is_done(self) -> bool:
        """Whether it is completed or failed."""
        return self.status in FINAL_STATUSES


@dataclass(frozen=True, kw_only=True)
class RemoteSample:
    """A clip that a training made at this step. `number` names it for the server."""

    number: int
    step: int
    prompt: str


@dataclass(frozen=True, kw_only=True)
class RemoteTraining:
    """A snapshot of a training on a server. `model` is the id of the model that it makes. The rest is as in RemoteVideo."""

    id: str
    model: str
    status: str
    progress: int
    step: int
    steps: int
    loss: float | None
    stage: str | None
    queue_position: int | None
    eta: int | None
    samples: tuple[RemoteSample, ...]
    error_code: str | None
    error_message: str | None
    answer: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def is_done(self) -> bool:
        """Whether it is completed or failed."""
        return self.status in FINAL_STATUSES


@dataclass(frozen=True, kw_only=True)
class RemoteModel:
    """A model on a server. `max_frames` is the most it makes in one window, `fps` the rate it was trained for."""

    id: str
    name: str
    description: str
    max_frames: int | None
    fps: int | None


def read_video(answer: Mapping[str, Any]) -> RemoteVideo:
    """Raises RequestRefused for an answer that is not a video."""
    return _read("video", _to_video, answer)


def read_training(answer: Mapping[str, Any]) -> RemoteTraining:
    """Raises RequestRefused for an answer that is not a training."""
    return _read("training", _to_training, answer)


def read_model(answer: Mapping[str, Any]) -> RemoteModel:
    """Raises RequestRefused for an answer that is not a model."""
    return _read("model", _to_model, answer)


def _read(kind: str, read: Callable[[Mapping[str, Any]], R], answer: Mapping[str, Any]) -> R:
    try:
        return read(answer)
    except (KeyError, AttributeError) as error:
        raise RequestRefused(f"The server's answer is not a {kind}: is it a Promptreel server? Check its address.") from error


def _to_video(answer: Mapping[str, Any]) -> RemoteVideo:
    error = answer.get("error") or {}
    return RemoteVideo(
        id=answer["id"],
        status=answer["status"],
        progress=answer.get("progress") or 0,
        model=answer.get("model") or "",
        prompt=answer.get("prompt") or "",
        size=answer.get("size") or "",
        seed=answer.get("seed"),
        stage=answer.get("stage"),
        queue_position=answer.get("queue_position"),
        eta=answer.get("eta"),
        error_code=error.get("code"),
        error_message=error.get("message"),
        answer=answer,
    )


def _to_training(answer: Mapping[str, Any]) -> RemoteTraining:
    error = answer.get("error") or {}
    samples = answer.get("samples") or ()
    return RemoteTraining(
        id=answer["id"],
        model=answer["model"],
        status=answer["status"],
        progress=answer.get("progress") or 0,
        step=answer.get("step") or 0,
        steps=answer.get("steps") or 0,
        loss=answer.get("loss"),
        stage=answer.get("stage"),
        queue_position=answer.get("queue_position"),
        eta=answer.get("eta"),
        samples=tuple(RemoteSample(number=each["number"], step=each["step"], prompt=each["prompt"]) for each in samples),
        error_code=error.get("code"),
        error_message=error.get("message"),
        answer=answer,
    )


def _to_model(answer: Mapping[str, Any]) -> RemoteModel:
    return RemoteModel(
        id=answer["id"],
        name=answer.get("name") or answer["id"],
        description=answer.get("description") or "",
        max_frames=answer.get("max_frames"),
        fps=answer.get("fps"),
    )


def to_job_error(job: RemoteVideo | RemoteTraining) -> PromptreelError:
    """The error of a failed video or training: our class with the server's code, or JobFailed with that code."""
    what = "video" if isinstance(job, RemoteVideo) else "training"
    message = job.error_message or f"The {what} failed, and the server did not say why."
    kind = _with_code(job.error_code)
    if kind is not None and issubclass(kind, JobFailed):
        return kind(message)
    error = JobFailed(message)
    error.code = job.error_code or error.code
    return error


def to_refusal(status: int, answer: object, *, retry_after: float | None) -> PromptreelError:
    """The error in an answer: our class with its code, or RequestRefused if no class fits or its constructor needs more."""
    told = answer.get("error") if isinstance(answer, Mapping) else None
    if not isinstance(told, Mapping) or not told.get("message"):
        return RequestRefused(f"The server answered with status {status}. Check its address.", retry_after=retry_after)
    code, message = told.get("code"), str(told["message"])
    kind = _with_code(code)
    if kind is InvalidParams:
        return InvalidParams({str(told.get("param")): [message]})
    if kind is None or "__init__" in vars(kind):
        return RequestRefused(message, code=code, retry_after=retry_after)
    return kind(message)


def _with_code(code: object) -> type[PromptreelError] | None:
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PromptreelError))
    return next((kind for kind in kinds if kind.code == code), None)
