"""The hosted service's endpoints for the load of the service."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from promptreel.api.dependencies import ServicesOfApp
from promptreel.api.estimates import estimate_queue
from promptreel.api.legacy import listings_openapi as openapi
from promptreel.api.parts import Services
from promptreel.jobs.job import JobStatus


def add_routes(router: APIRouter) -> None:
    described = openapi.body(properties={})
    for generation in ("v3", "v1/enterprise", "v1/enterprise/video"):
        for name, handler in (("system_load", system_load), ("system_details", system_details)):
            path = f"/api/{generation}/{name}"
            router.add_api_route(path, handler, methods=["POST"], tags=["service"], openapi_extra=described)


def system_load(services: ServicesOfApp) -> JSONResponse:
    """The number of waiting jobs, and the seconds until all jobs are done. `status` is that of /health."""
    waiting = services.jobs.count_of_all(JobStatus.QUEUED)
    return JSONResponse({"queue_num": waiting, "queue_time": estimate_queue(services), "status": _status(services)})


def system_details(services: ServicesOfApp) -> JSONResponse:
    """The number of models, and the seconds until all jobs are done. `status` is that of /health."""
    models = len(services.models.list())
    return JSONResponse({"model_count": models, "queue_time": estimate_queue(services), "status": _status(services)})


def _status(services: Services) -> str:
    return "ok" if services.jobs.live_workers() else "degraded"
