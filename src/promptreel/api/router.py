"""All endpoints. Each is a function that reads its request, asks the store, and answers in its API's words."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from promptreel.api import docs_page, files, health, web_page
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
from promptreel.api.v1 import model_routes as v1_model_routes
from promptreel.api.v1 import routes as v1_routes
from promptreel.api.v1 import session_routes
from promptreel.api.v1 import training_routes as v1_training_routes

_OF_HOSTED_SERVICE = (
    model_lists,
    model_search,
    model_operations,
    system_load,
    results,
    base64_uploads,
    trainings,
    unavailable,
)


def build_router() -> APIRouter:
    router = APIRouter(redirect_slashes=False, default_response_class=JSONResponse)
    of_v1 = (v1_routes, v1_model_routes, v1_training_routes, session_routes)
    for kind in (web_page, legacy_routes, files, health, docs_page, *of_v1, *_OF_HOSTED_SERVICE):
        kind.add_routes(router)
    return router
