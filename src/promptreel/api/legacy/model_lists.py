"""The hosted service's lists of models and schedulers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from promptreel.api.dependencies import Authenticated, ServicesOfApp
from promptreel.api.legacy import listings_openapi as openapi
from promptreel.jobs.params import SCHEDULERS
from promptreel.models.registry import ModelCard


def add_routes(router: APIRouter) -> None:
    def post(path: str, handler: Any, **described: Any) -> None:
        router.add_api_route(path, handler, methods=["POST"], tags=["models"], openapi_extra=openapi.body(**described))

    for generation in ("v3", "v4"):
        post(f"/api/{generation}/dreambooth/model_list", list_models, properties={})
    post("/api/v1/enterprise/get_all_models", list_models, properties={})
    post("/api/v1/enterprise/schedulers_list", list_schedulers, properties={})


def list_models(services: ServicesOfApp) -> JSONResponse:
    """All available models."""
    return JSONResponse([_to_entry(card) for card in services.models.list()])


def list_schedulers(_caller: Authenticated) -> JSONResponse:
    """The values that the field `scheduler` accepts."""
    return JSONResponse({"status": "success", "schedulers": list(SCHEDULERS)})


def _to_entry(card: ModelCard) -> dict[str, Any]:
    """The documented keys, and `model_category`. `screenshots` is empty, because models have none."""
    return {
        "model_id": card.model_id,
        "status": "model_ready",
        "created_at": f"{card.created_at:%Y-%m-%dT%H:%M:%S.000000Z}",
        "instance_prompt": ", ".join(card.trigger_words),
        "model_name": card.name,
        "description": card.description,
        "screenshots": "",
        "max_frames": card.max_frames,
        "fps": card.fps,
        "model_category": card.kind.value,
    }
