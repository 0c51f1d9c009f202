"""The hosted service's endpoints for trainings. A training's id is the id of the model that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from promptreel.api.base_url import links
from promptreel.api.bodies import Fields, FieldsWithFiles
from promptreel.api.deletion import delete_training
from promptreel.api.dependencies import ServicesOfApp
from promptreel.api.estimates import look_ahead_of_training
from promptreel.api.field_reader import FieldReader
from promptreel.api.legacy import listings_openapi as openapi
from promptreel.api.parts import Services
from promptreel.api.training_fields import MAX_ID, Words
from promptreel.api.training_intake import submit_training
from promptreel.errors import JobNotFound, ModelNotFound
from promptreel.jobs.job import JobStage, JobStatus, TrainingJob
from promptreel.jobs.links import Links
from promptreel.jobs.training_params import training_source
from promptreel.training.plan import DEFAULT_PRESET
from promptreel.training.presets import PRESETS

DIALECT = "fine_tune"
WEBHOOK_TYPE = "training"
FOLDERS = ("/api/v3", "/api/v1/enterprise")
PRESETS_OF = {"fine_tune": "dreambooth", "fine_tune_v2": "dreambooth", "lora_fine_tune": DEFAULT_PRESET}
"""By the endpoint: the preset of requests that name none."""
MOST_LISTED = 100
_NOT_HERE = frozenset({"sdxl", "flux", "sd3"})


def add_routes(router: APIRouter) -> None:
    def post(path: str, handler: Any, described: dict[str, Any]) -> None:
        for folder in FOLDERS:
            router.add_api_route(f"{folder}/{path}", handler, methods=["POST"], tags=["training"], openapi_extra=described)

    for name in PRESETS_OF:
        post(name, fine_tune, openapi.body(properties=openapi.FINE_TUNE, required=["images"]))
    described = openapi.body(properties={}) | openapi.TRAINING_ID
    post("fine_tune_status/{training_id}", show_status, described)
    post("finetune_list", list_trainings, openapi.body(properties={}))
    for spelling in ("cancle_training", "cancel_training"):  # the first is the hosted service's
        post(f"{spelling}/{{training_id}}", cancel_training, described)
    post("finetune/delete/{training_id}", remove_training, described)


def fine_tune(request: Request, fields: FieldsWithFiles, services: ServicesOfApp) -> JSONResponse:
    """Train a model on pictures or clips. The `training_id` is the model's id once its state is model_ready."""
    words = Words(
        base="base_model_id",
        model_id="model_id",
        steps="max_train_steps",
        visibility="model_visibility",
        preset=PRESETS_OF[request.scope["path"].rsplit("/", 1)[1]],
    )
    job = submit_training(request, services, _to_ours(fields), words, dialect=DIALECT)
    request.state.job_id = job.id
    minutes = max(1, round(look_ahead_of_training(services, job).eta / 60))
    wait = f"it will take upto {minutes} minute{'' if minutes == 1 else 's'}."
    return _succeed(
        "deploying_gpu", data=". ".join([wait.rstrip("."), *job.request["notes"]]) + ".", training_id=job.params.model_id
    )


def show_status(request: Request, training_id: str, _fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """How far a training is: its state in `message` and `model_training_status`, and a log with an ETA in `data`."""
    job = _find(request, services, training_id)
    return JSONResponse(to_status(job, look_ahead_of_training(services, job).eta, links(request, services)))


def list_trainings(_fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """The caller's trainings, newest first."""
    data = [
        {
            "model_id": job.params.model_id,
            "training_id": job.params.model_id,
            "status": to_state(job),
            "created_at": job.created_at.isoformat(),
            "instance_prompt": job.params.instance_prompt,
            "base_model_id": job.params.base,
            "model_category": job.params.preset,
        }
        for job in services.trainings.list(limit=MOST_LISTED)
    ]
    return _succeed("model list", data=data)


def cancel_training(request: Request, training_id: str, _fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Stop a training. One that has ended stays as it is; the answer says so."""
    job = _find(request, services, training_id)
    if job.is_final:
        return _succeed(f"the training has ended already: {to_state(job)}", training_id=training_id)
    services.trainings.cancel(job.id)
    return _succeed("training cancelled", training_id=training_id)


def remove_training(request: Request, training_id: str, _fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Delete a training, its examples and samples, and the model that it made. A training that is not done is stopped."""
    job = _find(request, services, training_id)
    with suppress(ModelNotFound):
        made = services.models.get(job.params.model_id)
        if made.record is not None and made.record.source == training_source(job.id):
            services.models.remove(made.model_id)
    delete_training(services, job)
    return _succeed("training deleted", training_id=training_id)


def to_state(job: TrainingJob) -> str:
    """In the hosted service's words, and for an end without a model, in ours."""
    match job.status:
        case JobStatus.SUCCEEDED:
            return "model_ready"
        case JobStatus.FAILED:
            return "training_failed"
        case JobStatus.CANCELLED:
            return "training_cancelled"
        case JobStatus.QUEUED:
            return "training_started" if (job.report or {}).get("step") else "deploying_gpu"
    if job.stage is JobStage.STORING:
        return "trained_model_uploading"
    return "training_success" if job.progress >= 1 else "training_started"


def to_status(job: TrainingJob, eta: int, made: Links) -> dict[str, Any]:
    state = to_state(job)
    has_sample = bool((job.report or {}).get("samples"))
    return {
        "status": "failed" if job.status in {JobStatus.FAILED, JobStatus.CANCELLED} else "success",
        "message": state,
        "messege": state,
        "data": _to_log(job, eta),
        "training_id": job.params.model_id,
        "model_id": job.params.model_id,
        "model_training_status": state,
        "test_image": made.to(f"/files/{job.file_prefix}/sample.webp") if has_sample else None,
        "eta": eta,
    }


def to_webhook(job: TrainingJob) -> dict[str, Any]:
    """The webhook's body for a training that has ended."""
    told = {"track_id": job.request.get("track_id", job.track_id), "id": job.id, "training_id": job.params.model_id}
    told |= {"model_id": job.params.model_id, "model_training_status": to_state(job), "webhook_type": WEBHOOK_TYPE}
    if job.status is JobStatus.SUCCEEDED:
        return {"status": "success", **told, "message": "model_ready", "messege": "model_ready"}
    why = _why(job)
    return {"status": "failed", **told, "message": why, "messege": why}


def _to_log(job: TrainingJob, eta: int) -> str:
    """A line for each thing that happened; the last one says what is to come."""
    lines = [*job.request.get("notes", ()), *(job.report or {}).get("log", ())]
    match job.status:
        case JobStatus.SUCCEEDED:
            lines.append("Model loaded successfully")
        case JobStatus.FAILED | JobStatus.CANCELLED:
            lines.append(_why(job))
        case _:
            step, steps = (job.report or {}).get("step") or 0, job.params.steps
            lines.append(f"Step:{step} of {steps} : ETA : {max(1, round(eta / 60))} minutes")
    return "\n".join(lines)


def _why(job: TrainingJob) -> str:
    if job.status is JobStatus.CANCELLED:
        return "Cancelled"
    return job.error_message or "The training failed, and its worker could not say why."


def _to_ours(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with the hosted service's own ways to say what is trained. Raises InvalidParams."""
    reader = FieldReader(fields)
    base_type = (reader.text("base_model_type", maximum=MAX_ID) or "").strip().lower()
    if base_type in _NOT_HERE and reader.given("base_model_id") is None:
        reader.reject("base_model_type", f"There is no default base for {base_type}: name a model in base_model_id.")
    reader.raise_errors()
    kind = (reader.scalar("training_type", maximum=MAX_ID) or "").strip().lower()
    preset = {"preset": kind} if kind in PRESETS and reader.given("preset") is None else {}
    return {**fields, **preset}


def _find(request: Request, services: Services, training_id: str) -> TrainingJob:
    """The caller's last training of this model. Raises JobNotFound."""
    job = services.trainings.latest(training_id)
    if job is None:
        raise JobNotFound("There is no such training. Check the training_id that was returned when it was created.")
    request.state.job_id = job.id
    return job


def _succeed(message: str, **more: Any) -> JSONResponse:
    return JSONResponse({"status": "success", "message": message, "messege": message, **more})
