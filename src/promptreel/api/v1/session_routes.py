"""`/v1/session`: signs the page in and out."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from promptreel.api.cookies import set_session
from promptreel.api.dependencies import Authenticated


def add_routes(router: APIRouter) -> None:
    add = partial(router.add_api_route, "/v1/session", tags=["v1"])
    add(sign_in, methods=["POST"])
    add(sign_out, methods=["DELETE"])


def sign_in(request: Request, caller: Authenticated) -> JSONResponse:
    """Sign the service's own page in: it sends its API key once, and then a cookie. Programs need none of this."""
    return set_session(request, caller.api_key_id)


def sign_out(request: Request, _caller: Authenticated) -> JSONResponse:
    """Sign the page out."""
    return set_session(request, None)
