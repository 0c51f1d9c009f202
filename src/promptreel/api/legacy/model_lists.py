"""The hosted service's lists of models and schedulers, and its operations on a model."""

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
from promptreel.errors import NotAvailable
from promptreel.extras import install_command, is_installed
from promptreel.jobs.params import SCHEDULERS
from promptreel.models.gate import check_checkpoint, check_weights
from promptreel.models.registry import ModelCard

MODELS_A_PAGE = 20
MAX_MODELS_A_PAGE = 100
PROVIDER = "promptreel"
HOW_TO_ADD = (
    "Models are not loaded from URLs yet. Copy the checkpoint's folder to <data-dir>/models/<model_id> "
    "and write its card, as docs/models.md shows. No restart is needed."
)


def add_routes(router: APIRouter) -> None:
    def post(path: str, handler: Any, **described: Any) -> None:
        router.add_api_route(path, handler, methods=["POST"], tags=["models"], openapi_extra=openapi.body(**described))

    for generation in ("v3", "v4"):
        post(f"/api/{generation}/dreambooth/model_list", list_models, properties={})
    post("/api/v1/enterprise/get_all_models", list_models, properties={})
    for path in ("/api/v3/load_model", "/api/v1/enterprise/load_model"):
        post(path, load_model, properties=openapi.LOAD_MODEL, required=["url"])
    post("/api/v1/enterprise/verify_model", verify_model, properties=openapi.MODEL_ID, required=["model_id"])
    post("/api/v1/enterprise/delete_model", delete_model, properties=openapi.MODEL_ID, required=["model_id"])
    for path in ("/api/v4/dreambooth/model_reload", "/api/v6/images/model_reload"):
        post(path, reload_model, properties=openapi.MODEL_ID, required=["model_id"])
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


def load_model(fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Success for a model that is there already. Others cannot be loaded from a `url` yet: add their folder."""
    reader = FieldReader(fields)
    url = reader.required_text("url", maximum=MAX_TEXT)
    model_id = reader.text("model_id", maximum=MAX_TEXT)
    again = reader.yes_no("force_load", default=False)
    reader.raise_errors()
    if not again and any(card.model_id in (model_id, url) for card in services.models.list()):
        return _succeed("the model is there already, and was not loaded again")
    raise NotAvailable(HOW_TO_ADD)


def verify_model(fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Whether a job could load a model. If not, the answer says what is wrong with its files."""
    card = services.models.get(_read_model_id(fields))
    if not is_installed("media"):
        raise NotAvailable(f"This server cannot check models. Its operator can add this with: {install_command('media')}")
    check_weights(check_checkpoint(card))
    return _succeed("model is ready", model_id=card.model_id)


def delete_model(fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Not available: only the owner of a model's files can remove them, and the built-in model stays."""
    card = services.models.get(_read_model_id(fields))
    if services.models.is_built_in(card.model_id):
        raise NotAvailable(f'The model "{card.model_id}" is built in and cannot be deleted.')
    raise NotAvailable(
        f"Models cannot be deleted by request yet. Remove the folder <data-dir>/models/{card.model_id}. No restart is needed."
    )


def reload_model(fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Success for a model that is there. It needs no reload, because idle models stay available."""
    card = services.models.get(_read_model_id(fields))
    return _succeed("model is ready", model_id=card.model_id)


def list_schedulers(_caller: Authenticated) -> JSONResponse:
    """The values that the field `scheduler` accepts."""
    return JSONResponse({"status": "success", "schedulers": list(SCHEDULERS)})


def _read_model_id(fields: Fields) -> str:
    reader = FieldReader(fields)
    model_id = reader.required_text("model_id", maximum=MAX_TEXT)
    reader.raise_errors()
    return model_id


def _succeed(message: str, **more: str) -> JSONResponse:
    return JSONResponse({"status": "success", "message": message, "messege": message, **more})


def _to_entry(card: ModelCard) -> dict[str, Any]:
    """The documented keys. `created_at` is null and `screenshots` is empty, because checkpoints have neither."""
    return {
        "model_id": card.model_id,
        "status": "model_ready",
        "created_at": None,
        "instance_prompt": ", ".join(card.trigger_words),
        "model_name": card.name,
        "description": card.description,
        "screenshots": "",
        "max_frames": card.max_frames,
        "fps": card.fps,
    }


def _to_agents_entry(card: ModelCard) -> dict[str, Any]:
    return {
        "model_id": card.model_id,
        "model_name": card.name,
        "name": card.name,
        "description": card.description,
        "provider": PROVIDER,
        "model_type": card.family,
        "status": "model_ready",
    }


def _searchable(card: ModelCard) -> str:
    return "\n".join((card.model_id, card.name, card.description)).casefold()


def _cut(cards: list[ModelCard], page: Page) -> list[ModelCard]:
    return cards[page.offset : page.offset + page.per_page]
