"""The answers of each endpoint, for /openapi.json. A test compares the service's answers with this document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from promptreel.api import cookies, files, health
from promptreel.api.answer_model import Answer, either, ref, schemas_of
from promptreel.api.legacy import (
    base64_uploads,
    model_lists,
    model_operations,
    model_search,
    results,
    system_load,
    trainings,
    unavailable,
)
from promptreel.api.legacy import routes as legacy_routes
from promptreel.api.legacy.answer_schemas import SCHEMAS as HOSTED_SCHEMAS
from promptreel.api.problems import speaks_openai, status_to_send
from promptreel.api.v1 import answers as v1
from promptreel.api.v1 import model_routes as v1_model_routes
from promptreel.api.v1 import plans, session_routes
from promptreel.api.v1 import routes as v1_routes
from promptreel.api.v1 import training_answers as v1_trainings
from promptreel.api.v1 import training_routes as v1_training_routes

Answers = dict[int | str, dict[str, Any]]

_JOB = ("Processing", "Success", "Failed")

# Endpoints that send files are missing here: they declare their answers with their routes.
_SUCCESS_ANSWERS: dict[Callable[..., Any], tuple[str | type[Answer], ...]] = {
    legacy_routes.text2video: _JOB,
    legacy_routes.fetch: _JOB,
    legacy_routes.fetch_by_field: _JOB,
    health.health: (health.Health,),
    health.ready: (health.Health,),
    model_lists.list_models: ("HostedModels",),
    model_search.search_models: ("AgentsModels",),
    model_search.show_model: ("OneAgentsModel",),
    model_search.list_filters: ("AgentsFilters",),
    model_search.list_tags: ("AgentsValues",),
    model_search.list_providers: ("AgentsValues",),
    model_operations.load_model: ("Done",),
    model_operations.verify_model: ("Done",),
    model_operations.delete_model: ("Done",),
    model_operations.reload_model: ("Done",),
    model_lists.list_schedulers: ("Schedulers",),
    system_load.system_load: ("SystemLoad",),
    system_load.system_details: ("SystemDetails",),
    results.list_assets: ("Assets",),
    results.delete_result: ("Done", "Failed"),
    base64_uploads.upload_cropped: ("Cropped",),
    base64_uploads.upload_base64_string: ("Uploaded",),
    base64_uploads.upload_init_obj: ("Uploaded",),
    trainings.fine_tune: ("TrainingStarted",),
    trainings.show_status: ("TrainingStatus", "Failed"),
    trainings.list_trainings: ("TrainingList",),
    trainings.cancel_training: ("TrainingChanged", "Failed"),
    trainings.remove_training: ("TrainingChanged", "Failed"),
    unavailable.refuse: (),
    v1_routes.create_video: (v1.Video,),
    plans.plan_video: (plans.VideoPlan,),
    v1_routes.list_videos: (v1.VideoPage,),
    v1_routes.get_video: (v1.Video,),
    v1_routes.delete_video: (v1.DeletedVideo,),
    v1_routes.cancel_video: (v1.Video,),
    v1_routes.remix_video: (v1.Video,),
    v1_routes.edit_video: (v1.Video,),
    v1_routes.extend_video: (),
    v1_routes.create_character: (),
    session_routes.sign_in: (cookies.Session,),
    session_routes.sign_out: (cookies.Session,),
    v1_model_routes.list_models: (v1.Models,),
    v1_model_routes.get_model: (v1.Model,),
    v1_model_routes.delete_model: (v1.DeletedModel,),
    v1_model_routes.import_model: (v1.ModelImport,),
    v1_model_routes.get_import: (v1.ModelImport,),
    v1_model_routes.cancel_import: (v1.ModelImport,),
    v1_training_routes.create_training: (v1_trainings.Training,),
    v1_training_routes.list_trainings: (v1_trainings.TrainingPage,),
    v1_training_routes.get_training: (v1_trainings.Training,),
    v1_training_routes.remove_training: (v1_trainings.DeletedTraining,),
    v1_training_routes.cancel_training: (v1_trainings.Training,),
}

_MODELS = [each for answers in (*_SUCCESS_ANSWERS.values(), (v1.OpenAIError,)) for each in answers if not isinstance(each, str)]
_SCHEMAS = {**HOSTED_SCHEMAS, **schemas_of(dict.fromkeys(_MODELS))}
_ERROR = "An error."

_WITHOUT_KEY = {health.health, health.ready, files.send_file, files.send_preview, files.send_sample, base64_uploads.send_upload}
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "key", "description": "`key` may be a field of the request too."},
}
# The empty entry is for a service without keys, which serves only its own machine.
_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}, {}]


class DescribedApp(FastAPI):
    """An application whose OpenAPI document has the components that `describe_answers` refers to.

    Encodes the document only once. Encoding is slow, and repeated requests would block other clients.
    """

    _document: bytes | None = None

    def setup(self) -> None:
        self.add_route("/openapi.json", self._send_document, include_in_schema=False)  # before FastAPI's own
        super().setup()

    async def _send_document(self, _request: Request) -> Response:
        self._document = self._document or bytes(JSONResponse(self.openapi()).body)
        return Response(self._document, media_type="application/json")

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(_SCHEMAS)
            components["securitySchemes"] = _SECURITY_SCHEMES
        return super().openapi()


def describe_answers(router: APIRouter) -> None:
    """Adds to each route its answers, and whether it takes an API key. Raises KeyError for a route that declares no answers."""
    for route in router.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            route.responses = _answers_of(route)
            if route.endpoint not in _WITHOUT_KEY:
                route.openapi_extra = {**(route.openapi_extra or {}), "security": _SECURITY}


def _answers_of(route: APIRoute) -> Answers:
    """The answers on success, and as `default` the errors of the route's API.

    Some generations send errors with the status 200, because their clients expect it.
    """
    error: str | type[Answer] = v1.OpenAIError if speaks_openai(route.path) else "Error"
    answers: Answers = {"default": _json(_ERROR, error)}
    for status, described in route.responses.items():
        answers[status] = described if "content" in described else _json(described["description"], error)
    if 200 not in answers:
        sends_errors_with_200 = status_to_send(route.path, 400, ()) == 200
        names = [*_SUCCESS_ANSWERS[route.endpoint], *(["Error"] if sends_errors_with_200 else [])]
        answers[200] = _json("The answer.", *names)
    return answers


def _json(description: str, *answers: str | type[Answer]) -> dict[str, Any]:
    schemas = [ref(each if isinstance(each, str) else each.__name__) for each in answers]
    return {
        "description": description,
        "content": {"application/json": {"schema": schemas[0] if len(schemas) == 1 else either(*schemas)}},
    }
