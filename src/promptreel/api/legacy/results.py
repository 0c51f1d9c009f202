"""The hosted service's endpoints that list and delete results and uploads."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from promptreel.api.base_url import links
from promptreel.api.bodies import Fields
from promptreel.api.deletion import delete_job
from promptreel.api.dependencies import ServicesOfApp
from promptreel.api.field_reader import FieldReader
from promptreel.api.legacy import listings_openapi as openapi
from promptreel.api.legacy.answers import tell_expiry
from promptreel.api.legacy.requests import parse_job_id
from promptreel.api.paging import read_page
from promptreel.api.parts import Services
from promptreel.api.uploads import delete_upload
from promptreel.errors import JobNotFound
from promptreel.jobs.job import JobStatus

ASSETS_A_PAGE = 10
MAX_ASSETS_A_PAGE = 30
ASSET_TYPES = ("video", "image", "voice", "3d")


def add_routes(router: APIRouter) -> None:
    listed = openapi.body(properties=openapi.ASSETS)
    router.add_api_route("/api/v6/assets_generated", list_assets, methods=["POST"], tags=["video"], openapi_extra=listed)
    deleted = openapi.body(properties=openapi.DELETE, required=["request_id"])
    router.add_api_route("/api/v3/delete_image", delete_result, methods=["POST"], tags=["video"], openapi_extra=deleted)


def list_assets(request: Request, fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """The finished videos, newest first, in pages. Lists of the other types are empty."""
    reader = FieldReader(fields)
    asset_type = reader.choice("type", ASSET_TYPES, default="video")
    page = read_page(reader, default=ASSETS_A_PAGE, maximum=MAX_ASSETS_A_PAGE)
    reader.raise_errors()
    total, jobs = 0, []
    if asset_type == "video":
        total = services.jobs.count(JobStatus.SUCCEEDED)
        jobs = services.jobs.list_succeeded(limit=page.per_page, offset=page.offset)
    made = links(request, services)
    data = [{"id": job.id, "output": [made.video(job)]} for job in jobs]
    answer = {"status": "success", "type": asset_type, "data": data, "pagination": page.describe(total)}
    return JSONResponse(answer | tell_expiry(made))


def delete_result(request: Request, fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Delete an upload, or a job that has ended and its file. Cancel a job that has not ended."""
    request_id = _read_request_id(fields)
    if request_id is None:
        raise JobNotFound("There is no job or upload with this id. Check the id that was returned when it was created.")
    if delete_upload(services, request_id):
        return _succeed("image deleted")
    request.state.job_id = request_id
    return _succeed(_delete(services, request_id))


def _delete(services: Services, job_id: int) -> str:
    """Deletes or cancels the job. Returns a message that says which."""
    job = services.jobs.get(job_id)
    if not job.is_final:
        job = services.jobs.cancel(job_id)
        if job.status is not JobStatus.SUCCEEDED:  # it may have ended before the cancel
            return "video cancelled"
    delete_job(services, job)
    return "video deleted"


def _read_request_id(fields: Fields) -> int | None:
    """None if the value cannot be an id. Raises InvalidParams if the field is missing."""
    reader = FieldReader(fields)
    sent = reader.given("request_id")
    if sent is None:
        reader.reject("request_id", "The request id field is required.")
    reader.raise_errors()
    return parse_job_id(sent)


def _succeed(message: str) -> JSONResponse:
    answer: dict[str, Any] = {"status": "success", "message": message, "messege": message}
    return JSONResponse(answer)
