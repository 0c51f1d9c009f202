"""The hosted service's training endpoints: there is no training yet, and each of them says so."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from promptreel.api.dialects import listings_openapi as openapi
from promptreel.api.services import CallerOfRequest
from promptreel.errors import NotAvailable

PATHS = (
    "/api/v3/fine_tune",
    "/api/v3/fine_tune_v2",
    "/api/v3/lora_fine_tune",
    "/api/v3/fine_tune_status/{training_id}",
    "/api/v3/finetune_list",
    "/api/v3/cancle_training/{training_id}",  # the hosted service's spelling
    "/api/v3/cancel_training/{training_id}",
    "/api/v3/finetune/delete/{training_id}",
)


def add_routes(router: APIRouter) -> None:
    for path in PATHS:
        described = openapi.body(properties={}) | (openapi.TRAINING_ID if "{" in path else {})
        router.add_api_route(path, train, methods=["POST"], tags=["training"], openapi_extra=described)


def train(_caller: CallerOfRequest) -> JSONResponse:
    """Not available yet."""
    raise NotAvailable(
        "Training is not available yet. Train elsewhere, and add the checkpoint's folder as docs/models.md shows."
    )
