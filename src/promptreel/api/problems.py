"""The one place where errors become HTTP: each class has a status, and each API its shape of errors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from promptreel.api.bodies import BodyTooLarge, BodyTooSlow
from promptreel.api.body_memory import NoRoom
from promptreel.api.body_parser import MalformedRequest
from promptreel.api.unpacking import UnknownEncoding
from promptreel.api.v1.answers import ContentUnavailable, to_error
from promptreel.errors import (
    ApiKeyNotFound,
    BadConfiguration,
    DatabaseBusy,
    DecoderBusy,
    DeliveryNotFound,
    DiskFull,
    ForeignPage,
    IdempotencyConflict,
    InvalidApiKey,
    InvalidParams,
    JobFailed,
    JobNotFound,
    LinkUnusable,
    ModelInUse,
    ModelNotFound,
    NotAvailable,
    PromptreelError,
    RateLimitExceeded,
    UrlUnusable,
)

# The generations whose errors answer 200, unless the settings say otherwise. v7 and the agents' paths always had real statuses.
GENERATIONS = ("v3", "v4", "v5", "v6", "enterprise")

MALFORMED_TIP = (
    "1. Make sure you are passing Content-Type: application/json in header. "
    "2. Make sure you are doing POST request with valid JSON. "
    "3. Make sure your JSON does not have any trailing comma or single quotes; a form or a query string works too."
)

STATUSES: dict[type[PromptreelError], int] = {
    InvalidParams: 400,
    MalformedRequest: 400,
    BodyTooLarge: 413,
    UnknownEncoding: 415,
    BodyTooSlow: 408,
    NoRoom: 503,
    ModelNotFound: 404,
    ModelInUse: 409,
    JobNotFound: 404,
    DeliveryNotFound: 404,
    ApiKeyNotFound: 404,
    InvalidApiKey: 401,
    ForeignPage: 403,
    RateLimitExceeded: 429,
    IdempotencyConflict: 409,
    LinkUnusable: 403,
    ContentUnavailable: 404,
    UrlUnusable: 400,
    DatabaseBusy: 503,
    DecoderBusy: 503,
    DiskFull: 503,
    NotAvailable: 501,
    JobFailed: 500,
    BadConfiguration: 500,
}


def status_of(error: PromptreelError) -> int:
    """The status of the error's class, or of its nearest ancestor that has one."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def status_to_send(path: str, status: int, real_status_codes: Collection[str]) -> int:
    """The status itself, or 200 where clients read `status` in the body and give up on anything else.

    These are the clients of GENERATIONS, without those in `real_status_codes`; on a fetch, the clients of every generation.
    """
    generation = _generation_of(path)
    if generation is None:
        return status
    if "/fetch" in path:
        return 200
    return 200 if generation in GENERATIONS and generation not in real_status_codes else status


def _generation_of(path: str) -> str | None:
    """The generation of the hosted service's API that a path belongs to; None for all other paths."""
    _, api, generation, *rest = [*path.split("/"), "", "", ""]
    if api != "api":
        return None
    return "enterprise" if generation == "v1" and rest[0] == "enterprise" else generation


def speaks_openai(path: str) -> bool:
    """Whether errors under this path have OpenAI's shape; all others have the hosted service's."""
    return path == "/v1" or path.startswith("/v1/")


def plain_body(path: str, status: int, message: str) -> dict[str, Any]:
    """The body for an error that has no class of ours, in the shape of the path's API."""
    return to_error(status, message).to_json() if speaks_openai(path) else error_body(message)


def error_body(message: str | dict[str, list[str]], **more: Any) -> dict[str, Any]:
    return {"status": "error", "message": message, "messege": message, **more}


def body_of(error: PromptreelError, path: str, status: int) -> dict[str, Any]:
    """The body for an error: in the hosted service's words where it has any, else with the error's own message."""
    if speaks_openai(path):
        param = next(iter(error.fields), None) if isinstance(error, InvalidParams) else None
        return to_error(status, error.message, code=error.code, param=param).to_json()
    match error:
        case InvalidParams():
            return error_body(error.fields, tip=error.message)  # the message is an object; programs can print the tip
        case MalformedRequest():
            return error_body("Invalid API Request", tip=MALFORMED_TIP)
        case ModelNotFound():
            return error_body("Model not found", tip=error.message)
        case JobNotFound():
            return {"status": "failed", "id": "", "message": "Request not found", "messege": "Request not found", "output": []}
        case _:
            when = {} if error.retry_after is None else {"retry_after": error.retry_after}
            return error_body(error.message, **when)


def headers_of(error: PromptreelError) -> dict[str, str]:
    """Headers that clients look for, whatever the status."""
    if error.retry_after is not None:
        return {"Retry-After": f"{error.retry_after:g}"}
    match error:
        case InvalidApiKey():
            return {"WWW-Authenticate": "Bearer"}
        case NotAvailable():
            return {"X-Should-Retry": "false"}  # OpenAI's SDK asks again after a 501 otherwise
        case _:
            return {}


def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Answers our own errors. The code goes to the log, because many answer shapes have no field for it."""
    assert isinstance(error, PromptreelError)
    request.state.error_code = error.code
    path = request.url.path
    status = status_to_send(path, status_of(error), request.app.state.parts.real_status_codes)
    return JSONResponse(body_of(error, path, status), status, headers_of(error))


def answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answers what the framework refuses. An unknown path is 404 and a wrong method 405 in every generation of the API."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    message, path = error.detail, request.url.path
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    if error.status_code == 404 and "endpoint" not in request.scope:  # no handler said why
        message = f"There is nothing at {path[:200]}: see /docs for all paths."
    return JSONResponse(plain_body(path, error.status_code, message), error.status_code, headers)


def _allowed_methods(request: Request) -> list[str]:
    """The methods of all routes that match; the framework names only the first route's. Exact paths win over patterns."""
    router = request.app.state.router
    matching = [route for route in router.routes if route.matches(request.scope)[0] is not Match.NONE]
    spelled_out = [route for route in matching if route.path == request.scope["path"]]
    return sorted({method for route in spelled_out or matching for method in route.methods})


def answer_unknown_error(path: str, request_id: str, *, real_status_codes: Collection[str]) -> JSONResponse:
    """Answers a bug of ours without its details. The request's id finds them in the log."""
    message = f"Something went wrong on the server. Look for request {request_id} in its log."
    status = status_to_send(path, 500, real_status_codes)
    return JSONResponse(plain_body(path, status, message), status)


def answer_disconnect(request: Request, _error: Exception) -> JSONResponse:
    """For a client that hung up while sending. Nobody reads this answer; it keeps the case out of the log of unknown errors."""
    message = "The connection was closed before the request was complete."
    return JSONResponse(plain_body(request.url.path, 400, message), 400)
