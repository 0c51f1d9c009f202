"""The HTTP server that the application runs in."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from promptreel.api.crowd import MAX_CONNECTIONS, Connection, Crowd

MAX_HEADER_BYTES = 64 * 1024
"""Of a request line and headers together. More are refused with 400."""

MAX_FILES = 8192
OTHER_FILES = 256
"""Files besides connections and the files sent over them: mainly the database, which each thread opens."""

_WAITING_CONNECTIONS = 2048
_ACCEPTED_AT_ONCE = 64
_TICKS_A_SECOND = 10


def build_server(app: FastAPI, *, now: Callable[[], float] = time.monotonic, most: int = MAX_CONNECTIONS) -> uvicorn.Server:
    """Builds a server for at most `most` connections, and no more than the process may open files for. Does not start it.

    uvicorn must ignore proxy headers: only the application knows the trusted proxies (base_url.py).
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        backlog=_ACCEPTED_AT_ONCE,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
    )
    return _Server(config, Crowd(min(most, _count_connections(_raise_file_limit())), now=now))


def _raise_file_limit() -> int:
    """Raises the limit of open files, and returns it. Many systems allow only 1,024 unless a process asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MAX_FILES if soft == resource.RLIM_INFINITY else soft


def _count_connections(files: int) -> int:
    """The number of connections for a number of files. A connection may need a second file: the one sent over it."""
    return max(1, (files - OTHER_FILES) // 2)


class _Server(uvicorn.Server):
    """Closes slow connections. Logs at most once a minute that it could not accept one."""

    server_state: Crowd

    def __init__(self, config: uvicorn.Config, crowd: Crowd) -> None:
        super().__init__(config)
        self.server_state = crowd

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._tell_exception)
        await super().startup(sockets)
        for listener in sockets or []:  # asyncio's backlog also sets how many it accepts at once, before it serves any
            listener.listen(_WAITING_CONNECTIONS)

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_A_SECOND == 0:
            self.server_state.look()
        return await super().on_tick(counter)

    def _tell_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "accept()" in context["message"]:  # asyncio tries again in a second
            self.server_state.seldom.warning("a connection could not be accepted yet: the system has no files or memory for it")
        else:
            loop.default_exception_handler(context)
