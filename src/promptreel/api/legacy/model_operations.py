"""The hosted service's operations on a model: load, verify, reload, delete."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from promptreel.api.bodies import Fields
from promptreel.api.dependencies import ServicesOfApp
from promptreel.api.field_reader import FieldReader
from promptreel.api.import_fields import Words, read_import
from promptreel.api.legacy import listings_openapi as openapi
from promptreel.api.legacy.requests import MAX_TEXT
from promptreel.api.parts import Services
from promptreel.errors import CheckpointUnusable, InvalidParams, ModelNotFound, NotAvailable
from promptreel.extras import install_command, is_installed
from promptreel.importing.choosing import HOW_TO_CONVERT
from promptreel.jobs.job import ImportJob, JobStatus
from promptreel.models.registry import ModelCard
from promptreel.models.verification import verify

DIALECT = "load_model"
WEBHOOK_TYPE = "load_model"
STARTED = "model load started"
WORDS = Words(
    source="url",
    model_id="model_id",
    name="model_name",
    kind="model_category",
    visibility="model_visibility",
    replace="force_load",
)


def add_routes(router: APIRouter) -> None:
    def post(path: str, handler: Any, **described: Any) -> None:
        router.add_api_route(path, handler, methods=["POST"], tags=["models"], openapi_extra=openapi.body(**described))

    for path in ("/api/v3/load_model", "/api/v1/enterprise/load_model"):
        post(path, load_model, properties=openapi.LOAD_MODEL, required=["url"])
    post("/api/v1/enterprise/verify_model", verify_model, properties=openapi.MODEL_ID, required=["model_id"])
    post("/api/v1/enterprise/delete_model", delete_model, properties=openapi.MODEL_ID, required=["model_id"])
    for path in ("/api/v4/dreambooth/model_reload", "/api/v6/images/model_reload"):
        post(path, reload_model, properties=openapi.MODEL_ID, required=["model_id"])


def load_model(request: Request, fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Start to import a model from a URL. The lists show it when it is there; until then, `verify_model` says how far it is."""
    reader = FieldReader(fields)
    url, model_id = reader.required_text("url", maximum=MAX_TEXT), reader.text("model_id", maximum=MAX_TEXT)
    again = reader.yes_no("force_load", default=False)
    if (reader.text("model_format", maximum=MAX_TEXT) or "").strip().lower() in {"ckpt", "pt", "bin", "pickle"}:
        reader.reject("model_format", f"The model format must be safetensors or diffusers. {HOW_TO_CONVERT}")
    reader.raise_errors()
    if not again and any(card.model_id in {model_id, url} for card in services.models.list()):
        return _succeed("the model is there already, and was not loaded again")
    job = services.imports.find_first() or services.imports.submit(read_import(fields, WORDS, services, dialect=DIALECT))
    request.state.job_id = job.id
    return _succeed(STARTED, model_id=job.params.model_id)


def verify_model(fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Whether a job could load a model: reads all its files. If not, the answer says what is wrong."""
    card = _find(fields, services)
    if not is_installed("media"):
        raise NotAvailable(f"This server cannot check models. Its operator can add this with: {install_command('media')}")
    verify(card, services.models)
    return _succeed("model is ready", model_id=card.model_id)


def delete_model(fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Delete an imported model of your own, and its files. Not while a job or another model needs it."""
    return _succeed("model deleted", model_id=services.models.remove(_find(fields, services).model_id).id)


def reload_model(fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Success for a model that is there. It needs no reload, because idle models stay available."""
    return _succeed("model is ready", model_id=_find(fields, services).model_id)


def to_webhook(job: ImportJob) -> dict[str, Any]:
    """The webhook's body for an import that has ended."""
    told = {"track_id": job.request.get("track_id", job.track_id), "id": job.id, "model_id": job.params.model_id}
    if job.status is JobStatus.SUCCEEDED:
        return {"status": "success", **told, "message": "model is ready", "webhook_type": WEBHOOK_TYPE}
    why = "Cancelled" if job.status is JobStatus.CANCELLED else job.error_message
    return {"status": "failed", **told, "message": why, "webhook_type": WEBHOOK_TYPE}


def _find(fields: Fields, services: Services) -> ModelCard:
    """The model of the field `model_id`. Raises ModelNotFound, and says how its import goes if there is one."""
    reader = FieldReader(fields)
    model_id = reader.required_text("model_id", maximum=MAX_TEXT)
    reader.raise_errors()
    try:
        return services.models.get(model_id)
    except ModelNotFound:
        job = services.imports.latest(model_id)
        if job is None:
            raise
    match job.status:
        case JobStatus.FAILED:
            raise CheckpointUnusable(f"The model could not be imported: {job.error_message}")
        case JobStatus.QUEUED | JobStatus.RUNNING:
            raise InvalidParams({"model_id": [f"The model is still being imported: {round(job.progress * 100)} % are done."]})
        case _:
            raise ModelNotFound(f"There is no model {model_id[:100]!r}: it was deleted, or its import was cancelled.")


def _succeed(message: str, **more: str) -> JSONResponse:
    return JSONResponse({"status": "success", "message": message, "messege": message, **more})
