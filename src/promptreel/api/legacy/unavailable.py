"""Endpoints of the hosted service that are not available here. Each says why, and what to do instead."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from promptreel.api.dependencies import Authenticated
from promptreel.api.legacy import listings_openapi as openapi
from promptreel.errors import NotAvailable

_WATERMARKS = "Watermarks are not removed here: videos of this service have none."
VIDEO_PATHS = {
    "/api/v6/video/open_sora": "Open-Sora is not available: POST /api/v6/video/text2video makes videos "
    "with the models that are here.",
    "/api/v6/video/watermark_remover": _WATERMARKS,
    "/api/v1/enterprise/video/watermark_remover": _WATERMARKS,
    "/api/v7/video-fusion/lip-sync": "Lip synchronization is not available: videos of this service have no sound.",
    "/api/v7/video-fusion/motion-control": "Motion control is not available: POST /api/v7/video-fusion/video-to-video "
    "makes a video from another one and a prompt.",
}
# Operations for customers with a server of their own.
_OPERATION = {
    "restart_server": "The service is not restarted by request: whoever runs it stops `promptreel serve` and starts it again.",
    "update": "The service is not updated by request: whoever runs it installs another version and starts it again.",
    "clear_cache": "There is no cache to clear: memory is freed when another model is loaded.",
    "clear_queue": "The queue is not cleared at once: cancel each of your jobs, with POST /api/v3/delete_image and its id as "
    "request_id.",
}
OPERATION_PATHS = {f"/api/v1/enterprise/{folder}{name}": why for name, why in _OPERATION.items() for folder in ("", "video/")}
WHY = {**VIDEO_PATHS, **OPERATION_PATHS}


def add_routes(router: APIRouter) -> None:
    for path in WHY:
        described = openapi.body(properties={})
        tag = "video" if path in VIDEO_PATHS else "service"
        router.add_api_route(path, refuse, methods=["POST"], tags=[tag], openapi_extra=described)


def refuse(request: Request, _caller: Authenticated) -> JSONResponse:
    """Not available: the answer says why, and what to do instead."""
    raise NotAvailable(WHY[request.scope["route"].path])
