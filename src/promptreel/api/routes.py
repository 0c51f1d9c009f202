"""The endpoints. Each reads its request, asks the store, and answers in its dialect's words."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from promptreel.api import docs_page, openai_routes
from promptreel.api.addresses import links
from promptreel.api.answer_schemas import either, ref
from promptreel.api.bodies import Fields, FieldsWithInit
from promptreel.api.dialects import (
    legacy,
    legacy_load,
    legacy_models,
    legacy_openapi,
    legacy_results,
    legacy_unavailable,
    legacy_uploads,
)
from promptreel.api.estimates import estimate
from promptreel.api.parsing import FieldReader
from promptreel.api.problems import error_body
from promptreel.api.services import CallerOfRequest, OpenServices, OpenServicesOfApp, Services, ServicesOfApp
from promptreel.api.submission import submit
from promptreel.api.uploads import inline_uploads
from promptreel.errors import JobNotFound
from promptreel.jobs.job import Job, JobStatus, NewJob
from promptreel.media import MEDIA_TYPES, PREVIEW_MEDIA_TYPE, Init

NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "No worker is alive.",
        "content": {"application/json": {"schema": either(ref("Health"), ref("Error"))}},
    }
}


def build_router() -> APIRouter:
    router = APIRouter(redirect_slashes=False, default_response_class=JSONResponse)
    _add_legacy_routes(router)
    path = "/files/{file_prefix}.{output_type}"
    shape = legacy_openapi.FILE_ANSWERS
    router.add_api_route(path, send_file, methods=["GET"], response_class=FileResponse, responses=shape, tags=["video"])
    router.add_api_route(path, send_file, methods=["HEAD"], include_in_schema=False)
    path = "/files/{file_prefix}/preview.webp"
    shape = legacy_openapi.PREVIEW_ANSWERS
    router.add_api_route(path, send_preview, methods=["GET"], response_class=Response, responses=shape, tags=["video"])
    router.add_api_route(path, send_preview, methods=["HEAD"], include_in_schema=False)
    router.add_api_route("/health", health, methods=["GET"], tags=["service"])
    router.add_api_route("/health/ready", ready, methods=["GET"], responses=NOT_READY, tags=["service"])
    for kind in (docs_page, openai_routes, legacy_models, legacy_load, legacy_results, legacy_uploads, legacy_unavailable):
        kind.add_routes(router)
    return router


def _add_legacy_routes(router: APIRouter) -> None:
    for path, dialect in legacy.CREATE_PATHS.items():
        described = legacy_openapi.describe_create(dialect)
        router.add_api_route(path, text2video, methods=["POST"], openapi_extra=described, tags=["video"])
    for path in legacy.FETCH_PATHS:
        by_id = f"{path}/{{job_id}}"
        router.add_api_route(by_id, fetch, methods=["POST"], openapi_extra=legacy_openapi.FETCH, tags=["video"])
        router.add_api_route(by_id, fetch, methods=["GET"], tags=["video"])
        router.add_api_route(f"{path}/", fetch_nothing, methods=["POST", "GET"], include_in_schema=False)
    for path in legacy.FETCH_BY_FIELD_PATHS:
        described = legacy_openapi.FETCH_BY_FIELD
        router.add_api_route(path, fetch_by_field, methods=["POST"], openapi_extra=described, tags=["video"])
        described = legacy_openapi.FETCH_BY_QUERY
        router.add_api_route(path, fetch_by_field, methods=["GET"], openapi_extra=described, tags=["video"])


def text2video(request: Request, fields: FieldsWithInit, services: ServicesOfApp) -> JSONResponse:
    """Queue a video. The answer comes at once: it says when to look (`eta`, seconds) and where (`fetch_result`)."""
    dialect = legacy.CREATE_PATHS[request.scope["path"]]

    def read() -> tuple[NewJob, Init | None]:
        inlined = inline_uploads(fields, services)
        return legacy.read_text2video(inlined, dialect, services.models, services.fetcher, services.decoder)

    return _answer(request, services, submit(request, services, read))


def fetch(request: Request, job_id: str, services: ServicesOfApp) -> JSONResponse:
    """How a job is: processing, success with the link to the video, or failed with the reason."""
    return _answer(request, services, _find_job(services, job_id))


def fetch_nothing(_caller: CallerOfRequest) -> JSONResponse:
    """What is left of a fetch when a client has no id to put behind its path."""
    return JSONResponse(error_body("The id is missing. Fetch the address in fetch_result, which ends in the job's id."))


def fetch_by_field(request: Request, fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """The same, with the job's id in `request_id`."""
    reader = FieldReader(fields)
    request_id = reader.given("request_id")
    if request_id is None:
        reader.reject("request_id", "The request id field is required.")
    reader.raise_errors()
    return _answer(request, services, _find_job(services, request_id))


def send_file(request: Request, file_prefix: str, output_type: str, services: OpenServicesOfApp) -> FileResponse:
    """A finished video. Ranges are answered, so that players can seek."""
    job = _find_owner(request, services, file_prefix)
    if output_type != job.params.output_type:
        raise HTTPException(404, "There is no such file.")
    if job.status is not JobStatus.SUCCEEDED or job.result is None:
        raise HTTPException(404, "There is no such file yet: fetch the job until its status is success.")
    path = services.storage.path(job.result.key)
    if path is None:
        raise HTTPException(404, "The file was deleted.")
    return FileResponse(path, media_type=MEDIA_TYPES[output_type], headers={"Cache-Control": "private, max-age=3600"})


def send_preview(request: Request, file_prefix: str, services: OpenServicesOfApp) -> Response:
    """What the video will look like, as far as one can tell: small, moving, and renewed while the job runs."""
    job = _find_owner(request, services, file_prefix)
    content = services.storage.read(job.preview_key) if job.status is JobStatus.RUNNING else None
    if content is None:
        raise HTTPException(404, "There is no preview now: ask again while the job runs.")
    return Response(content, media_type=PREVIEW_MEDIA_TYPE)


def health(services: OpenServicesOfApp) -> JSONResponse:
    """Whether the service works: `degraded` means that no worker is alive, so that jobs wait. Always 200, while it answers."""
    return JSONResponse(_look_at_health(services))


def ready(services: OpenServicesOfApp) -> JSONResponse:
    """The same for what reads the status alone, such as a load balancer: 503 while no worker is alive."""
    state = _look_at_health(services)
    return JSONResponse(state, 200 if state["workers"] else 503)


def _look_at_health(services: OpenServices) -> dict[str, Any]:
    workers = len(services.jobs.live_workers())
    return {
        "status": "ok" if workers else "degraded",
        "version": services.version,
        "workers": workers,
        "queued": services.jobs.count(JobStatus.QUEUED),
        "running": services.jobs.count(JobStatus.RUNNING),
    }


def _find_owner(request: Request, services: OpenServices, file_prefix: str) -> Job:
    """The job that a file belongs to. Raises LinkUnusable."""
    services.link_maker.check(request.url.path, request.query_params)
    try:
        job = services.jobs.get_by_file_prefix(file_prefix)
    except JobNotFound as error:
        raise HTTPException(404, "There is no such file.") from error
    request.state.job_id = job.id
    return job


def _find_job(services: Services, sent_id: object) -> Job:
    job_id = legacy.parse_job_id(sent_id)
    if job_id is None:
        raise JobNotFound("There is no job with this id. Check the id that was returned when it was submitted.")
    return services.jobs.get(job_id)


def _answer(request: Request, services: Services, job: Job) -> JSONResponse:
    request.state.job_id = job.id
    eta = 0 if job.is_final else estimate(services, job)
    return JSONResponse(legacy.to_answer(job, links=links(request, services), eta=eta))
