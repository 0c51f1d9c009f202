"""Builds the HTTP application. No torch is imported here or below."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from promptreel.api.access import AccessLog
from promptreel.api.docs_page import PAGE_PATH
from promptreel.api.legacy.paths import FETCH_PATHS
from promptreel.api.openapi_document import DescribedApp, describe_answers
from promptreel.api.parts import AppParts
from promptreel.api.problems import answer_disconnect, answer_error, answer_http_error
from promptreel.api.router import build_router
from promptreel.api.slashes import PlainSlashes
from promptreel.api.unpacking import Unpacking
from promptreel.encoding.decoder import MOST_WAITING as CHECKS_AT_ONCE
from promptreel.errors import PromptreelError
from promptreel.fetching.fetcher import AT_ONCE as FETCHES_AT_ONCE

__all__ = ["AppParts", "create_app"]

THREADS = 40 + FETCHES_AT_ONCE + CHECKS_AT_ONCE
"""A request holds a thread until it is answered. Those that wait for slow hosts or for the decoder leave 40 for others."""


@asynccontextmanager
async def _with_threads(_app: FastAPI) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = THREADS
    yield


@cache
def _described_router() -> APIRouter:
    """Built once per process: it depends on no application, and takes longer to build than the rest of one."""
    router = build_router()
    describe_answers(router)
    return router


def create_app(parts: AppParts) -> FastAPI:
    """Builds the application from its parts. Starts nothing and keeps no state of its own."""
    router = _described_router()
    app = DescribedApp(
        title="Promptreel",
        version=parts.version,
        description="Text to video on your own machine. Requests are read leniently: JSON, forms and query strings; "
        'numbers as strings; yes/no and true/false; null for "the default". Unknown fields are ignored; under /v1, `tip` names '
        "them.",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        lifespan=_with_threads,
    )
    app.state.parts = parts
    app.state.router = router
    app.router.routes.extend(router.routes)  # `include_router` would build every route again at the first request
    app.add_exception_handler(PromptreelError, answer_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(ClientDisconnect, answer_disconnect)
    app.add_middleware(Unpacking)
    app.add_middleware(PlainSlashes, kept=[f"{path}/" for path in (*FETCH_PATHS, PAGE_PATH)])
    if parts.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=parts.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(AccessLog, real_status_codes=parts.real_status_codes)
    return app
