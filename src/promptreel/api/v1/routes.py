"""The endpoints of OpenAI's API for videos: `/v1/videos`."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from promptreel.api.base_url import links
from promptreel.api.bodies import Fields, FieldsWithFiles
from promptreel.api.deletion import delete_job
from promptreel.api.dependencies import Authenticated, ServicesOfApp, StillKnown
from promptreel.api.estimates import look_ahead
from promptreel.api.intake import submit
from promptreel.api.parts import Services
from promptreel.api.v1 import openapi
from promptreel.api.v1.answers import ContentUnavailable, to_deleted, to_page, to_video
from promptreel.api.v1.content import send_variant, why_unavailable
from promptreel.api.v1.edits import read_edit, read_edit_of, read_source_id, refuse_large
from promptreel.api.v1.events import EVENTS_MEDIA_TYPE, VideoWatcher, read_event_id, stream_events
from promptreel.api.v1.feed import stream_changes
from promptreel.api.v1.plans import plan_video
from promptreel.api.v1.requests import NO_SUCH_VIDEO, parse_video_id, read_create, read_cursor, read_remix, read_variant
from promptreel.errors import JobNotFound, NotAvailable
from promptreel.jobs.job import NewJob, VideoJob
from promptreel.media import Init

_UNBUFFERED = {"X-Accel-Buffering": "no"}


def add_routes(router: APIRouter) -> None:
    docs = openapi
    add = partial(router.add_api_route, tags=["v1"])
    add("/v1/videos", create_video, methods=["POST"], openapi_extra=docs.CREATE)
    add("/v1/videos", list_videos, methods=["GET"], openapi_extra=docs.LIST)
    add("/v1/videos/plan", plan_video, methods=["POST"], openapi_extra=docs.PLAN)
    add("/v1/videos/edits", edit_video, methods=["POST"], openapi_extra=docs.EDIT)
    add("/v1/videos/extensions", extend_video, methods=["POST"], openapi_extra=docs.EDIT)
    add("/v1/videos/characters", create_character, methods=["POST"])
    path = "/v1/videos/{video_id}"
    add(path, get_video, methods=["GET"])
    add(path, delete_video, methods=["DELETE"])
    add(f"{path}/cancel", cancel_video, methods=["POST"])
    add(f"{path}/remix", remix_video, methods=["POST"], openapi_extra=docs.REMIX)
    add(
        f"{path}/content",
        send_content,
        methods=["GET"],
        response_class=Response,
        openapi_extra=docs.CONTENT,
        responses=docs.CONTENT_ANSWERS,
    )
    add(f"{path}/content", send_content, methods=["HEAD"], include_in_schema=False)
    add("/v1/events", send_all_events, methods=["GET"], response_class=StreamingResponse, **docs.ALL_EVENTS)
    add(f"{path}/events", send_events, methods=["GET"], response_class=StreamingResponse, **docs.EVENTS)


def create_video(request: Request, fields: FieldsWithFiles, services: ServicesOfApp) -> JSONResponse:
    """Queue a video. Poll it until its status is completed, then fetch its content."""

    def read() -> tuple[NewJob, Init | None]:
        return read_create(fields, services.models, services.fetcher, services.decoder)

    return _answer(request, services, submit(request, services, read))


def list_videos(request: Request, services: ServicesOfApp) -> JSONResponse:
    """List videos by age. For the next page, send the `last_id` of this one as `after`."""
    cursor = read_cursor(request.query_params)
    jobs = services.jobs.list(limit=cursor.limit + 1, after=cursor.after, oldest_first=cursor.oldest_first)
    return JSONResponse(to_page(jobs, cursor).to_json())


def get_video(request: Request, video_id: str, services: ServicesOfApp) -> JSONResponse:
    """The state of a video: queued, in_progress, completed, or failed with the reason."""
    return _answer(request, services, _find_job(request, services, video_id))


def delete_video(request: Request, video_id: str, services: ServicesOfApp) -> JSONResponse:
    """Delete a video and its file. A video that is still being made is stopped."""
    job = _find_job(request, services, video_id)
    delete_job(services, job)
    return JSONResponse(to_deleted(job.id).to_json())


def cancel_video(request: Request, video_id: str, services: ServicesOfApp) -> JSONResponse:
    """Stop making a video. It then fails with the code `cancelled`. A video that has ended stays as it is."""
    job = _find_job(request, services, video_id)
    return _answer(request, services, services.jobs.cancel(job.id))


def remix_video(request: Request, video_id: str, fields: Fields, services: ServicesOfApp) -> JSONResponse:
    """Queue the same video with another prompt: same model, same settings, same seed."""

    def read() -> tuple[NewJob, Init | None]:
        source = _find_job(request, services, video_id)
        return read_remix(fields, source, services.models, services.fetcher), None

    return _answer(request, services, submit(request, services, read))


def edit_video(request: Request, fields: FieldsWithFiles, services: ServicesOfApp) -> JSONResponse:
    """Queue a video that starts from another one, with a new prompt. Fields left out keep the values of a video made here."""

    def read() -> tuple[NewJob, Init | None]:
        source_id = read_source_id(fields)
        if source_id is None:
            return read_edit(fields, services.models, services.fetcher, services.decoder)
        source = _find_job(request, services, source_id)
        if source.result is not None:
            refuse_large(source.result.size_bytes)
        content = services.storage.read(source.result.key) if source.result else None
        if content is None:
            raise ContentUnavailable(why_unavailable(source))
        return read_edit_of(source, content, fields, models=services.models, fetcher=services.fetcher, decoder=services.decoder)

    return _answer(request, services, submit(request, services, read))


def extend_video(_caller: Authenticated) -> JSONResponse:
    """Not available: videos cannot be extended. The answer says what to do instead."""
    raise NotAvailable(
        "Videos are not extended here. Make a longer one: POST /v1/videos takes up to 240 frames, as seconds or num_frames."
    )


def create_character(_caller: Authenticated) -> JSONResponse:
    """Not available: there are no characters. The answer says what to do instead."""
    raise NotAvailable("Characters are not available. Send a picture or a video as input_reference instead.")


def send_content(request: Request, video_id: str, services: ServicesOfApp) -> Response:
    """A file of the video: itself, its first frame, a preview while there is none, or what it started from. With ranges."""
    variant = read_variant(request.query_params)
    return send_variant(services, _find_job(request, services, video_id), variant)


def send_events(request: Request, video_id: str, services: ServicesOfApp) -> StreamingResponse:
    """Server-sent events: each change of a video, until it has ended."""
    job = _find_job(request, services, video_id)
    seq = read_event_id(request.headers.get("last-event-id"))
    watcher = VideoWatcher(services, job.id, links=partial(links, request, services), seq=seq)
    events = stream_events(watcher.look, is_stopping=services.is_stopping)
    return StreamingResponse(events, media_type=EVENTS_MEDIA_TYPE, headers=_UNBUFFERED)


def send_all_events(request: Request, services: ServicesOfApp, is_known: StillKnown) -> StreamingResponse:
    """Server-sent events: each change of your videos, imports and trainings. With `Last-Event-ID`, all since that event."""
    last_event_id = request.headers.get("last-event-id")
    events = stream_changes(services, last_event_id=last_event_id, is_known=is_known)
    return StreamingResponse(events, media_type=EVENTS_MEDIA_TYPE, headers=_UNBUFFERED)


def _find_job(request: Request, services: Services, video_id: str) -> VideoJob:
    """Raises JobNotFound, with the same message for an unknown id and a malformed one."""
    try:
        job = services.jobs.get(parse_video_id(video_id))
    except JobNotFound as error:
        raise JobNotFound(NO_SUCH_VIDEO) from error
    request.state.job_id = job.id
    return job


def _answer(request: Request, services: Services, job: VideoJob) -> JSONResponse:
    request.state.job_id = job.id
    return JSONResponse(to_video(job, look_ahead(services, job)).to_json())
