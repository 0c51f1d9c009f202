"""The endpoints `/v1/trainings`: train a model on pictures or clips, and watch it."""

from __future__ import annotations

import re
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

from promptreel.api.bodies import FieldsWithFiles
from promptreel.api.deletion import delete_training
from promptreel.api.dependencies import ServicesOfApp
from promptreel.api.estimates import look_ahead_of_training
from promptreel.api.parts import Services
from promptreel.api.training_fields import Words
from promptreel.api.training_intake import submit_training
from promptreel.api.v1 import training_openapi as docs
from promptreel.api.v1.answers import ContentUnavailable
from promptreel.api.v1.events import EVENTS_MEDIA_TYPE, stream_events
from promptreel.api.v1.requests import DIALECT, read_cursor
from promptreel.api.v1.training_answers import samples_of, to_deleted_training, to_training, to_training_page
from promptreel.api.v1.training_events import TrainingWatcher
from promptreel.errors import JobNotFound
from promptreel.jobs.job import TrainingJob
from promptreel.media import MEDIA_TYPES
from promptreel.training.plan import DEFAULT_PRESET

NO_SUCH_TRAINING = "There is no such training. Ids look like training_17: check the one that was returned when it was created."
WORDS = Words(base="base", model_id="id", steps="steps", visibility="visibility", preset=DEFAULT_PRESET, tells_ignored=True)
_TRAINING_ID = re.compile(r"training_(0|[1-9][0-9]{0,17})", re.ASCII)
_KEPT = {"Cache-Control": "private, max-age=3600"}  # a sample never changes


def add_routes(router: APIRouter) -> None:
    add = partial(router.add_api_route, tags=["v1"])
    add("/v1/trainings", create_training, methods=["POST"], openapi_extra=docs.CREATE)
    add("/v1/trainings", list_trainings, methods=["GET"], openapi_extra=docs.LIST)
    path = "/v1/trainings/{training_id}"
    add(path, get_training, methods=["GET"])
    add(path, remove_training, methods=["DELETE"])
    add(f"{path}/cancel", cancel_training, methods=["POST"])
    add(f"{path}/events", send_events, methods=["GET"], response_class=StreamingResponse, responses=docs.EVENTS_ANSWERS)
    add(f"{path}/samples/{{number}}", send_sample, methods=["GET"], response_class=Response, responses=docs.SAMPLE_ANSWERS)


def create_training(request: Request, fields: FieldsWithFiles, services: ServicesOfApp) -> JSONResponse:
    """Train a model on pictures or clips. It is there, under its id, when the status is completed."""
    return _answer(request, services, submit_training(request, services, fields, WORDS, dialect=DIALECT))


def list_trainings(request: Request, services: ServicesOfApp) -> JSONResponse:
    """List trainings by age. For the next page, send the `last_id` of this one as `after`."""
    cursor = read_cursor(request.query_params, read_id=read_training_id, what="training")
    jobs = services.trainings.list(limit=cursor.limit + 1, after=cursor.after, oldest_first=cursor.oldest_first)
    return JSONResponse(to_training_page(jobs, cursor).to_json())


def get_training(request: Request, training_id: str, services: ServicesOfApp) -> JSONResponse:
    """The state of a training: queued, in_progress, completed, or failed with the reason."""
    return _answer(request, services, _find(request, services, training_id))


def remove_training(request: Request, training_id: str, services: ServicesOfApp) -> JSONResponse:
    """Delete a training, its examples and its samples; stop it first if it is not done. The model that it made stays."""
    job = _find(request, services, training_id)
    delete_training(services, job)
    return JSONResponse(to_deleted_training(job.id).to_json())


def cancel_training(request: Request, training_id: str, services: ServicesOfApp) -> JSONResponse:
    """Stop a training. It then fails with the code `cancelled`. A training that has ended stays as it is."""
    job = _find(request, services, training_id)
    return _answer(request, services, services.trainings.cancel(job.id))


def send_events(request: Request, training_id: str, services: ServicesOfApp) -> StreamingResponse:
    """Server-sent events: each change of a training, until it has ended."""
    job = _find(request, services, training_id)
    events = stream_events(TrainingWatcher(services, job.id).look, is_stopping=services.is_stopping)
    return StreamingResponse(events, media_type=EVENTS_MEDIA_TYPE, headers={"X-Accel-Buffering": "no"})


def send_sample(request: Request, training_id: str, number: str, services: ServicesOfApp) -> Response:
    """A clip made during a training, with range requests."""
    job = _find(request, services, training_id)
    samples = samples_of(job)
    is_there = number.isascii() and number.isdigit() and len(number) < 10 and int(number) < len(samples)
    path = services.storage.path(samples[int(number)]["key"]) if is_there else None
    if path is None:
        raise ContentUnavailable(f"There is no such sample: the training has made {len(samples)} so far, counted from 0.")
    return FileResponse(path, media_type=MEDIA_TYPES["mp4"], headers=_KEPT)


def read_training_id(sent: object) -> int | None:
    """The job's id. None if the value cannot be the id of a training."""
    match = _TRAINING_ID.fullmatch(sent) if isinstance(sent, str) else None
    return int(match[1]) if match else None


def _find(request: Request, services: Services, training_id: str) -> TrainingJob:
    """Raises JobNotFound, with the same message for an unknown id and a malformed one."""
    job_id = read_training_id(training_id)
    try:
        job = services.trainings.get(-1 if job_id is None else job_id)
    except JobNotFound as error:
        raise JobNotFound(NO_SUCH_TRAINING) from error
    request.state.job_id = job.id
    return job


def _answer(request: Request, services: Services, job: TrainingJob) -> JSONResponse:
    request.state.job_id = job.id
    return JSONResponse(to_training(job, look_ahead_of_training(services, job)).to_json())
