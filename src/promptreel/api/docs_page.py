"""`/docs`: the OpenAPI document as a page to try, by a Swagger UI that is in the package, so that it works without a network.

Nothing but this folder's own scripts may run in it, and it talks to nobody but this service.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).parent / "swagger_ui"
PAGE_PATH = "/docs"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",  # the style sheet's own icons; an answer that is a picture
        "media-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_PARTS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "start.js": "text/javascript"}
_KEPT = {"Cache-Control": "no-cache"}  # kept, and asked for again: an upgrade may change them


def add_routes(router: APIRouter) -> None:
    router.add_api_route(PAGE_PATH, send_page, methods=["GET", "HEAD"], include_in_schema=False)
    router.add_api_route(f"{PAGE_PATH}/", leave_slash, methods=["GET", "HEAD"], include_in_schema=False)
    router.add_api_route(f"{PAGE_PATH}/{{name}}", send_part, methods=["GET", "HEAD"], include_in_schema=False)


def send_page() -> FileResponse:
    """Its addresses are relative, so that it works behind a proxy that adds to the path."""
    return FileResponse(FOLDER / "index.html", media_type="text/html", headers=_KEPT | {"Content-Security-Policy": POLICY})


def leave_slash() -> RedirectResponse:
    """To where the page's relative addresses are right."""
    return RedirectResponse(f"..{PAGE_PATH}")


def send_part(name: str) -> FileResponse:
    if name not in _PARTS:
        raise HTTPException(404, "There is no such file.")
    return FileResponse(FOLDER / name, media_type=_PARTS[name], headers=_KEPT)
