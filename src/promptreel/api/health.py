"""Health checks for people and monitoring."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from promptreel.api.answer_model import Answer, Count, either, ref
from promptreel.api.dependencies import OpenServicesOfApp
from promptreel.api.parts import OpenServices
from promptreel.jobs.job import JobStatus


class Health(Answer):
    status: Literal["ok", "degraded"]
    version: str
    workers: Count
    queued: Count
    running: Count


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
    workers = len(services.jobs.live_workers())
    return Health(
        status="ok" if workers else "degraded",
        version=services.version,
        workers=workers,
        queued=services.jobs.count(JobStatus.QUEUED),
        running=services.jobs.count(JobStatus.RUNNING),
    )
