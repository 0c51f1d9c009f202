"""The hosted service's lists of models and schedulers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from promptreel.api.bodies import Fields
from promptreel.api.dependencies import Authenticated, ServicesOfApp
from promptreel.api.field_reader import FieldReader
from promptreel.api.legacy import listings_openapi as openapi
from promptreel.api.legacy.requests import MAX_TEXT
from promptreel.api.paging import Page, read_page
from promptreel.jobs.params import SCHEDULERS
from promptreel.models.registry import ModelCard

MODELS_A_PAGE = 20
MAX_MODELS_A_PAGE = 100
PROVIDER = "promptreel"


def add_routes(router: APIRouter) -> None:
    def post(path: str, handler: Any, **described: Any) -> None:
        router.add_api_route(path, handler, methods=["POST"], tags=["models"], openapi_extra=openapi.body(**described))

    for generation in ("v3", "v4"):
        post(f"/api/{generation}/dreambooth/model_list", list_models, properties={})
    post("/api/v1/enterprise/get_all_models", list_models, properties={})
    post("/api/v1/enterprise/schedulers_list", list_schedulers, properties={})

    query = openapi.query(openapi.PAGED_MODELS)
    router.add_api_route("/api/agents/v1/models", search_models, methods=["GET"], tags=["models"], openapi_extra=query)
    router.add_api_route("/api/agents/v1/models/{model_id}", show_model, methods=["GET"], tags=["models"])


def list_models(services: ServicesOfApp) -> JSONResponse:
    """All available models."""
    return JSONResponse([_to_entry(card) for card in services.models.list()])


def search_models(fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """The models whose id, name or description contains `search`, in pages."""
    reader = FieldReader(fields)
    search = (reader.text("search", maximum=MAX_TEXT) or "").strip().casefold()
    page = read_page(reader, default=MODELS_A_PAGE, maximum=MAX_MODELS_A_PAGE)
    reader.raise_errors()
    found = [card for card in services.models.list() if search in _searchable(card)]
    return JSONResponse({"data": [_to_agents_entry(card) for card in _cut(found, page)], "meta": page.describe(len(found))})


def show_model(model_id: str, services: ServicesOfApp) -> JSONResponse:
    """One model."""
    return JSONResponse({"data": _to_agents_entry(services.models.get(model_id))})


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


def _to_agents_entry(card: ModelCard) -> dict[str, Any]:
    return {
        "model_id": card.model_id,
        "model_name": card.name,
        "name": card.name,
        "description": card.description,
        "provider": PROVIDER,
        "model_type": card.family or card.kind.value,
        "status": "model_ready",
    }


def _searchable(card: ModelCard) -> str:
    return "\n".join((card.model_id, card.name, card.description)).casefold()


def _cut(cards: list[ModelCard], page: Page) -> list[ModelCard]:
    return cards[page.offset : page.offset + page.per_page]
