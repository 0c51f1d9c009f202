"""The page's cookie (sessions.py): read from requests, set and cleared by `/v1/session`."""

from __future__ import annotations

from functools import partial
from typing import Literal

from fastapi import Request
from fastapi.responses import JSONResponse

from promptreel.api.answer_model import Answer
from promptreel.api.base_url import base_url
from promptreel.api.foreign_pages import is_from_own_page
from promptreel.api.parts import parts_of
from promptreel.api.sessions import SECONDS
from promptreel.errors import ForeignPage


class Session(Answer):
    """Whether the browser is signed in: its requests need no key then."""

    object: Literal["session"]
    signed_in: bool


def read_session(request: Request) -> int | None:
    """The id of the API key that the request's cookie stands for; None without one, or from another site's page."""
    parts = parts_of(request)
    value = request.cookies.get(parts.sessions.cookie)
    if value is None or not is_from_own_page(request, parts):
        return None
    return parts.sessions.read(value)


def set_session(request: Request, api_key_id: int | None) -> JSONResponse:
    """The answer that signs in, or without a key's id, out. Raises ForeignPage: no other site may choose who is signed in."""
    parts = parts_of(request)
    if api_key_id is not None and not is_from_own_page(request, parts):
        raise ForeignPage("Only the service's own page signs in. Programs send their API key with each request instead.")
    answer = JSONResponse(Session(object="session", signed_in=api_key_id is not None).to_json())
    keep = partial(
        answer.set_cookie,
        parts.sessions.cookie,
        path="/",
        httponly=True,
        samesite="strict",
        secure=base_url(request, parts).startswith("https:"),
    )
    if api_key_id is None:
        keep("", max_age=0)
    else:
        keep(parts.sessions.make(api_key_id), max_age=SECONDS)
    return answer
