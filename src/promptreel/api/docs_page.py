"""`/docs`: the OpenAPI document as an interactive page. The package contains Swagger UI, so the page needs no network.

The page runs only scripts of this service, and connects only to it.
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
        "img-src 'self' data: blob:",  # icons of the style sheet; answers that are pictures
        "media-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_PARTS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "start.js": "text/javascript"}
_KEPT = {"Cache-Control": "no-cache"}  # cached, but revalidated: an upgrade may change them


def add_routes(router: APIRouter) -> None:
    router.add_api_route(PAGE_PATH, send_page, methods=["GET", "HEAD"], include_in_schema=False)
    router.add_api_route(f"{PAGE_PATH}/", leave_slash, methods=["GET", "HEAD"], include_in_schema=False)
    router.add_api_route(f"{PAGE_PATH}/{{name}}", send_part, methods=["GET", "HEAD"], include_in_schema=False)


def send_page() -> FileResponse:
    """The page's URLs are relative, so it works behind a proxy that adds a path prefix."""
    return FileResponse(FOLDER / "index.html", media_type="text/html", headers=_KEPT | {"Content-Security-Policy": POLICY})


def leave_slash() -> RedirectResponse:
    """Redirects to /docs, because the page's relative URLs are wrong under /docs/."""
    return RedirectResponse(f"..{PAGE_PATH}")


def send_part(name: str) -> FileResponse:
    if name not in _PARTS:
        raise HTTPException(404, "There is no such file.")
    return FileResponse(FOLDER / name, media_type=_PARTS[name], headers=_KEPT)
