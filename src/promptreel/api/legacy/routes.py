"""The hosted service's endpoints that create and fetch, for every generation of its API."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from promptreel.api.base_url import links
from promptreel.api.bodies import Fields, FieldsWithInit
from promptreel.api.dependencies import Authenticated, ServicesOfApp
from promptreel.api.estimates import estimate
from promptreel.api.field_reader import FieldReader
from promptreel.api.intake import submit
from promptreel.api.legacy import openapi
from promptreel.api.legacy.answers import to_answer
from promptreel.api.legacy.paths import CREATE_PATHS, FETCH_BY_FIELD_PATHS, FETCH_PATHS
from promptreel.api.legacy.requests import parse_job_id, read_create
from promptreel.api.parts import Services
from promptreel.api.problems import error_body
from promptreel.api.uploads import inline_uploads
from promptreel.errors import JobNotFound
from promptreel.jobs.job import NewJob, VideoJob
from promptreel.media import Init


def add_routes(router: APIRouter) -> None:
    for path, dialect in CREATE_PATHS.items():
        described = openapi.describe_create(dialect)
        router.add_api_route(path, text2video, methods=["POST"], openapi_extra=described, tags=["video"])
    for path in FETCH_PATHS:
        by_id = f"{path}/{{job_id}}"
        router.add_api_route(by_id, fetch, methods=["POST"], openapi_extra=openapi.FETCH, tags=["video"])
        router.add_api_route(by_id, fetch, methods=["GET"], tags=["video"])
        router.add_api_route(f"{path}/", fetch_nothing, methods=["POST", "GET"], include_in_schema=False)
    for path in FETCH_BY_FIELD_PATHS:
        described = openapi.FETCH_BY_FIELD
        router.add_api_route(path, fetch_by_field, methods=["POST"], openapi_extra=described, tags=["video"])
        described = openapi.FETCH_BY_QUERY
        router.add_api_route(path, fetch_by_field, methods=["GET"], openapi_extra=described, tags=["video"])


def text2video(request: Request, fields: FieldsWithInit, services: ServicesOfApp) -> JSONResponse:
    """Queue a video. The answer comes at once and says when to fetch the result (`eta`, seconds) and where (`fetch_result`)."""
    dialect = CREATE_PATHS[request.scope["path"]]

    def read() -> tuple[NewJob, Init | None]:
        inlined = inline_uploads(fields, services)
        return read_create(inlined, dialect, services.models, services.fetcher, services.decoder)

    return _answer(request, services, submit(request, services, read))


def fetch(request: Request, job_id: str, services: ServicesOfApp) -> JSONResponse:
    """The state of a job: processing, success with the link to the video, or failed with the reason."""
    return _answer(request, services, _find_job(services, job_id))


def fetch_nothing(_caller: Authenticated) -> JSONResponse:
    """A fetch without an id in the path."""
    return JSONResponse(error_body("The id is missing. Fetch the address in fetch_result, which ends in the job's id."))


def fetch_by_field(request: Request, fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """The same, with the job's id in `request_id`."""
    reader = FieldReader(fields)
    request_id = reader.given("request_id")
    if request_id is None:
        reader.reject("request_id", "The request id field is required.")
    reader.raise_errors()
    return _answer(request, services, _find_job(services, request_id))


def _find_job(services: Services, sent_id: object) -> VideoJob:
    job_id = parse_job_id(sent_id)
    if job_id is None:
        raise JobNotFound("There is no job with this id. Check the id that was returned when it was submitted.")
    return services.jobs.get(job_id)


def _answer(request: Request, services: Services, job: VideoJob) -> JSONResponse:
    request.state.job_id = job.id
    eta = 0 if job.is_final else estimate(services, job)
    return JSONResponse(to_answer(job, links=links(request, services), eta=eta))
