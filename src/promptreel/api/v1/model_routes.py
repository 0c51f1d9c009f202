"""The endpoints `/v1/models`: what there is, as in OpenAI's API, and our own to import and delete models."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from promptreel.api.bodies import Fields
from promptreel.api.dependencies import ServicesOfApp
from promptreel.api.import_fields import Words, read_import
from promptreel.api.parts import Services
from promptreel.api.v1.answers import DeletedModel, ModelImport, to_import, to_model, to_models
from promptreel.api.v1.import_openapi import IMPORT
from promptreel.api.v1.requests import DIALECT
from promptreel.errors import JobNotFound
from promptreel.jobs.job import ImportJob
from promptreel.jobs.worker_records import Holders, list_holders

NO_SUCH_IMPORT = "There is no such import. Ids look like import_17: check the one that was returned when it was created."
WORDS = Words(source="source", model_id="id", name="name", kind="kind", visibility="visibility", replace="replace")
_IMPORT_ID = re.compile(r"import_(0|[1-9][0-9]{0,17})", re.ASCII)


def add_routes(router: APIRouter) -> None:
    add = partial(router.add_api_route, tags=["v1"])
    add("/v1/models", list_models, methods=["GET"])
    add("/v1/models", import_model, methods=["POST"], openapi_extra=IMPORT)
    add("/v1/models/imports/{import_id}", get_import, methods=["GET"])
    add("/v1/models/imports/{import_id}/cancel", cancel_import, methods=["POST"])
    add("/v1/models/{model_id}", get_model, methods=["GET"])
    add("/v1/models/{model_id}", delete_model, methods=["DELETE"])


def list_models(services: ServicesOfApp) -> JSONResponse:
    """The models that are there: checkpoints, which make videos, and then those that go with them, such as motion adapters."""
    return JSONResponse(to_models(services.models.list(), _find_holders(services)).to_json())


def get_model(model_id: str, services: ServicesOfApp) -> JSONResponse:
    """One model."""
    return JSONResponse(to_model(services.models.get(model_id), _find_holders(services)).to_json())


def delete_model(model_id: str, services: ServicesOfApp) -> JSONResponse:
    """Delete an imported model of your own, and its files. Not while a job or another model needs it."""
    removed = services.models.remove(model_id)
    return JSONResponse(DeletedModel(id=removed.id, object="model", deleted=True).to_json())


def import_model(request: Request, fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Import a model from a URL, or by hub id if the service allows it. Poll the import until its status is completed."""
    first = services.imports.find_first()
    if first is None:
        first = services.imports.submit(read_import(fields, WORDS, services, dialect=DIALECT))
    return _answer(request, first)


def get_import(request: Request, import_id: str, services: ServicesOfApp) -> JSONResponse:
    """The state of an import: queued, in_progress, completed, or failed with the reason."""
    return _answer(request, _find(import_id, services.imports.get))


def cancel_import(request: Request, import_id: str, services: ServicesOfApp) -> JSONResponse:
    """Stop an import. One that has ended stays as it is."""
    return _answer(request, _find(import_id, services.imports.cancel))


def _find_holders(services: Services) -> Holders:
    return list_holders(services.jobs.live_workers())


def _find(import_id: str, look: Callable[[int], ImportJob]) -> ImportJob:
    """Raises JobNotFound, with the same message for an unknown id and a malformed one."""
    match = _IMPORT_ID.fullmatch(import_id)
    try:
        return look(int(match[1]) if match else -1)
    except JobNotFound as error:
        raise JobNotFound(NO_SUCH_IMPORT) from error


def _answer(request: Request, job: ImportJob) -> JSONResponse:
    request.state.job_id = job.id
    answer: ModelImport = to_import(job)
    return JSONResponse(answer.to_json())
