"""All endpoints. Each is a function that reads its request, asks the store, and answers in its API's words."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from promptreel.api import docs_page, files, health, web_page
from promptreel.api.legacy import base64_uploads, model_lists, model_operations, results, system_load, unavailable
from promptreel.api.legacy import routes as legacy_routes
from promptreel.api.v1 import model_routes as v1_model_routes
from promptreel.api.v1 import routes as v1_routes
from promptreel.api.v1 import session_routes

_OF_HOSTED_SERVICE = (model_lists, model_operations, system_load, results, base64_uploads, unavailable)


def build_router() -> APIRouter:
    router = APIRouter(redirect_slashes=False, default_response_class=JSONResponse)
    for kind in (
        web_page,
        legacy_routes,
        files,
        health,
        docs_page,
        v1_routes,
        v1_model_routes,
        session_routes,
        *_OF_HOSTED_SERVICE,
    ):
        kind.add_routes(router)
    return router
