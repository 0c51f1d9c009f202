"""Links to files, open to anyone who knows their random name: finished videos and previews of running jobs."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from promptreel.api.dependencies import OpenServicesOfApp
from promptreel.api.legacy.openapi import FILE_ANSWERS, PREVIEW_ANSWERS
from promptreel.api.parts import OpenServices
from promptreel.api.posters import poster_of
from promptreel.errors import JobNotFound
from promptreel.jobs.job import JobStatus, VideoJob
from promptreel.media import MEDIA_TYPES, POSTER_MEDIA_TYPE, PREVIEW_MEDIA_TYPE


def add_routes(router: APIRouter) -> None:
    path = "/files/{file_prefix}.{output_type}"
    shape = FILE_ANSWERS
    router.add_api_route(path, send_file, methods=["GET"], response_class=FileResponse, responses=shape, tags=["video"])
    router.add_api_route(path, send_file, methods=["HEAD"], include_in_schema=False)
    path = "/files/{file_prefix}/preview.webp"
    shape = PREVIEW_ANSWERS
    router.add_api_route(path, send_preview, methods=["GET"], response_class=Response, responses=shape, tags=["video"])
    router.add_api_route(path, send_preview, methods=["HEAD"], include_in_schema=False)
    path = "/files/{file_prefix}/sample.webp"
    router.add_api_route(path, send_sample, methods=["GET"], response_class=Response, responses=shape, tags=["training"])
    router.add_api_route(path, send_sample, methods=["HEAD"], include_in_schema=False)


def send_file(request: Request, file_prefix: str, output_type: str, services: OpenServicesOfApp) -> FileResponse:
    """A finished video. Range requests work, so players can seek."""
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
    """A small moving picture of what the video will look like, renewed while the job runs."""
    job = _find_owner(request, services, file_prefix)
    content = services.storage.read(job.preview_key) if job.status is JobStatus.RUNNING else None
    if content is None:
        raise HTTPException(404, "There is no preview now: ask again while the job runs.")
    return Response(content, media_type=PREVIEW_MEDIA_TYPE)


def send_sample(request: Request, file_prefix: str, services: OpenServicesOfApp) -> Response:
    """The first frame of a training's newest sample."""
    services.link_maker.check(request.url.path, request.query_params)
    try:
        job = services.jobs.get_training_by_file_prefix(file_prefix)
    except JobNotFound as error:
        raise HTTPException(404, "There is no such file.") from error
    request.state.job_id = job.id
    samples = (job.report or {}).get("samples", ())
    path = services.storage.path(samples[-1]["key"]) if samples else None
    if path is None:
        raise HTTPException(404, "There is no sample yet: ask again while the training runs.")
    return Response(poster_of(path), media_type=POSTER_MEDIA_TYPE)


def _find_owner(request: Request, services: OpenServices, file_prefix: str) -> VideoJob:
    """The job that a file belongs to. Raises LinkUnusable."""
    services.link_maker.check(request.url.path, request.query_params)
    try:
        job = services.jobs.get_by_file_prefix(file_prefix)
    except JobNotFound as error:
        raise HTTPException(404, "There is no such file.") from error
    request.state.job_id = job.id
    return job
