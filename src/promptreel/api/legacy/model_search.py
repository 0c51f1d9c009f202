"""The hosted service's search of models, as its command line uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from promptreel.api.bodies import Fields
from promptreel.api.dependencies import ServicesOfApp
from promptreel.api.field_reader import FieldReader
from promptreel.api.legacy import listings_openapi as openapi
from promptreel.api.legacy.requests import MAX_TEXT
from promptreel.api.paging import Page, read_page
from promptreel.models.registry import ModelCard

PATH = "/api/agents/v1/models"
MODELS_A_PAGE = 20
MAX_MODELS_A_PAGE = 100
PROVIDER = "promptreel"
FEATURES = ("video", "video_fusion")
"""What the hosted service's clients call models that make videos."""

FILTERS: Mapping[str, Callable[[ModelCard], tuple[str | None, ...]]] = {
    "feature": lambda _card: FEATURES,
    "provider": lambda _card: (PROVIDER,),
    "model_type": lambda card: (_type_of(card),),
    "model_subcategory": lambda card: (card.kind.value,),
    "base_model": lambda card: (card.base,),
    "tags": lambda card: card.trigger_words,
}
"""By the field of a search: the values that a model matches."""


def add_routes(router: APIRouter) -> None:
    def get(path: str, handler: Any, **described: Any) -> None:
        router.add_api_route(PATH + path, handler, methods=["GET"], tags=["models"], **described)

    get("", search_models, openapi_extra=openapi.query(openapi.SEARCHED_MODELS))
    get("/filters", list_filters)
    get("/tags", list_tags)
    get("/providers", list_providers)
    get("/{model_id}", show_model)


def search_models(fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """The models whose id, name or description contains `search`, and that match all filters, in pages."""
    reader = FieldReader(fields)
    search = (reader.text("search", maximum=MAX_TEXT) or "").strip().casefold()
    asked = {name: _split(reader.text(name, maximum=MAX_TEXT) or "") for name in FILTERS}
    page = read_page(reader, default=MODELS_A_PAGE, maximum=MAX_MODELS_A_PAGE)
    reader.raise_errors()
    found = [card for card in services.models.list() if search in _searchable(card) and _matches(card, asked)]
    return JSONResponse({"data": [_to_entry(card) for card in _cut(found, page)], "meta": page.describe(len(found))})


def list_filters(services: ServicesOfApp) -> JSONResponse:
    """The values that each filter of a search finds."""
    cards = services.models.list()
    return JSONResponse({"data": {name: _values(name, cards) for name in FILTERS}})


def list_tags(services: ServicesOfApp) -> JSONResponse:
    """The trigger words of all models, which a search finds as `tags`."""
    return JSONResponse({"data": _values("tags", services.models.list())})


def list_providers(services: ServicesOfApp) -> JSONResponse:
    """Who provides the models: this service alone."""
    return JSONResponse({"data": _values("provider", services.models.list())})


def show_model(model_id: str, services: ServicesOfApp) -> JSONResponse:
    """One model."""
    return JSONResponse({"data": _to_entry(services.models.get(model_id))})


def _values(name: str, cards: Iterable[ModelCard]) -> list[str]:
    return sorted({value for card in cards for value in FILTERS[name](card) if value})


def _matches(card: ModelCard, asked: Mapping[str, set[str]]) -> bool:
    """Whether the model has one of the values of each filter that is asked for."""
    return all(
        not values or not values.isdisjoint(value.casefold() for value in FILTERS[name](card) if value)
        for name, values in asked.items()
    )


def _split(values: str) -> set[str]:
    return {value.strip().casefold() for value in values.split(",") if value.strip()}


def _type_of(card: ModelCard) -> str:
    return card.family or card.kind.value


def _to_entry(card: ModelCard) -> dict[str, Any]:
    return {
        "model_id": card.model_id,
        "model_name": card.name,
        "name": card.name,
        "description": card.description,
        "provider": PROVIDER,
        "model_type": _type_of(card),
        "model_subcategory": card.kind.value,
        "base_model": card.base,
        "status": "model_ready",
    }


def _searchable(card: ModelCard) -> str:
    return "\n".join((card.model_id, card.name, card.description)).casefold()


def _cut(cards: list[ModelCard], page: Page) -> list[ModelCard]:
    return cards[page.offset : page.offset + page.per_page]
