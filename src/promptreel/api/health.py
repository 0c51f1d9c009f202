"""Health checks for people and monitoring."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import Field

from promptreel.api.answer_model import Answer, Count, either, ref
from promptreel.api.dependencies import OpenServicesOfApp
from promptreel.api.parts import OpenServices
from promptreel.errors import CheckpointUnusable, ModelNotFound
from promptreel.jobs.job import JobStatus
from promptreel.jobs.worker_records import list_holders


class Health(Answer):
    status: Literal["ok", "degraded"]
    version: str
    workers: Count
    queued: Count
    running: Count
    loaded: list[str] = Field(description="The public models that workers have loaded.")


NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "No worker is alive.",
        "content": {"application/json": {"schema": either(ref("Health"), ref("Error"))}},
    }
}


def add_routes(router: APIRouter) -> None:
    router.add_api_route("/health", health, methods=["GET"], tags=["service"])
    router.add_api_route("/health/ready", ready, methods=["GET"], responses=NOT_READY, tags=["service"])


def health(services: OpenServicesOfApp) -> JSONResponse:
    """Whether the service works. `degraded` means that no worker is alive, so jobs wait. Always answers 200."""
    return JSONResponse(_look_at_health(services).to_json())


def ready(services: OpenServicesOfApp) -> JSONResponse:
    """The same for load balancers, which read only the HTTP status: 503 while no worker is alive."""
    state = _look_at_health(services)
    return JSONResponse(state.to_json(), 200 if state.workers else 503)


def _look_at_health(services: OpenServices) -> Health:
    workers = services.jobs.live_workers()
    return Health(
        status="ok" if workers else "degraded",
        version=services.version,
        workers=len(workers),
        queued=services.jobs.count(JobStatus.QUEUED),
        running=services.jobs.count(JobStatus.RUNNING),
        loaded=[model_id for model_id in sorted(list_holders(workers)) if _is_public(model_id, services)],
    )


def _is_public(model_id: str, services: OpenServices) -> bool:
    """Strangers read this: they learn of no private model, whoever imported it."""
    try:
        return services.models.get(model_id).is_public
    except (ModelNotFound, CheckpointUnusable):
        return False
