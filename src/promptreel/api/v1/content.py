"""The files of a video: itself, its first frame, its preview, and what it started from."""

from __future__ import annotations

from fastapi.responses import FileResponse, Response

from promptreel.api.parts import Services
from promptreel.api.posters import poster_of
from promptreel.api.v1.answers import ContentUnavailable
from promptreel.jobs.job import JobStatus, VideoJob
from promptreel.media import INIT_TYPES, MEDIA_TYPES, POSTER_MEDIA_TYPE, PREVIEW_MEDIA_TYPE, kind_of_init

_KEPT = {"Cache-Control": "private, max-age=3600"}  # a finished video never changes


def send_variant(services: Services, job: VideoJob, variant: str) -> Response:
    """One of `requests.VARIANTS`. Raises ContentUnavailable and NotAvailable."""
    if variant == "input":
        return _send_input(services, job)
    if variant == "preview" and job.result is None:
        return Response(_read_preview(services, job), media_type=PREVIEW_MEDIA_TYPE)
    path = services.storage.path(job.result.key) if job.result else None
    if path is None:
        raise ContentUnavailable(why_unavailable(job))
    if variant in {"thumbnail", "preview"}:
        return Response(poster_of(path), media_type=POSTER_MEDIA_TYPE, headers=_KEPT)
    return FileResponse(path, media_type=MEDIA_TYPES[job.params.output_type], headers=_KEPT)


def why_unavailable(job: VideoJob) -> str:
    match job.status:
        case JobStatus.SUCCEEDED:
            return "The video's file was deleted."
        case JobStatus.FAILED | JobStatus.CANCELLED:
            return "There is no video, because it failed: retrieve it to read why."
        case _:
            return "The video is not there yet: retrieve it until its status is completed."


def _send_input(services: Services, job: VideoJob) -> Response:
    key = job.params.init_key
    path = services.storage.path(key) if key is not None else None
    if key is None or path is None:
        raise ContentUnavailable("The video started from no picture or video, or its file was deleted.")
    media_type = INIT_TYPES[kind_of_init(key)].get(path.suffix[1:], "application/octet-stream")
    return FileResponse(path, media_type=media_type, headers=_KEPT)


def _read_preview(services: Services, job: VideoJob) -> bytes:
    content = services.storage.read(job.preview_key) if job.status is JobStatus.RUNNING else None
    if content is None:
        raise ContentUnavailable("There is no preview now: ask again while the video is being made.")
    return content
