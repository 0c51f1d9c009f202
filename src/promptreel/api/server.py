"""The HTTP server that the application runs in."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI

MAX_HEADER_BYTES = 64 * 1024
"""Of a request's first line and headers together; a longer one is cut off with 400."""


def build_server(app: FastAPI) -> uvicorn.Server:
    """Not started yet. Only the application knows proxies (addresses.py): the server must not believe others on its own."""
    config = uvicorn.Config(
        app,
        http="h11",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
    )
    return uvicorn.Server(config)
