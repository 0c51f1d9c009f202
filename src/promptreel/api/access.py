"""Middleware around every request: its id, its log line, security headers, release of its memory, unknown errors."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Collection
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptreel.api.body_parser import MalformedRequest, refuse_many_fields
from promptreel.api.problems import answer_error, answer_unknown_error
from promptreel.errors import PromptreelError

NOTHING_RUNS = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox"
"""For a browser that opens an answer as a page: it may show an uploaded file, but run nothing in it."""

log = logging.getLogger(__name__)


class AccessLog:
    """Middleware. The log line never names the query, headers or body, because they hold keys."""

    def __init__(self, app: ASGIApp, *, real_status_codes: Collection[str]) -> None:
        self._app = app
        self._real_status_codes = real_status_codes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = uuid.uuid4().hex
        started = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["status"] = message["status"]
                if "place" in state:  # the handler is done with the body; the answer may be an endless stream
                    state["place"].leave()
                _add_headers(MutableHeaders(scope=message), state["request_id"])
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers)
        finally:
            if "place" in state:
                state["place"].leave()
            _log_access(scope, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            refuse_many_fields(scope["query_string"])
            await self._app(scope, receive, send)
        except MalformedRequest as error:
            await answer_error(Request(scope), error)(scope, receive, send)
        except Exception:
            state = scope["state"]
            request_id = state["request_id"]
            log.exception("unknown error in request=%s", request_id)
            if "status" in state:  # the answer has begun: only a broken connection can tell the client
                raise
            state["error_code"] = PromptreelError.code
            answer = answer_unknown_error(scope["path"], request_id, real_status_codes=self._real_status_codes)
            await answer(scope, receive, send)


def _add_headers(headers: MutableHeaders, request_id: str) -> None:
    headers["X-Request-Id"] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Content-Security-Policy", NOTHING_RUNS)  # /docs sets its own
    # No cache may keep a job's status, or a 404 from before its success.
    headers.setdefault("Cache-Control", "no-store")


def _log_access(scope: Scope, seconds: float) -> None:
    state = scope["state"]
    log.info(
        "%s %s %s %.0f ms request=%s job=%s%s",
        scope["method"],
        quote(scope["path"][:200]),
        state.get("status", "cut off"),
        seconds * 1000,
        state["request_id"],
        state.get("job_id", "-"),
        f" error={state['error_code']}" if "error_code" in state else "",
    )
