"""Connections with limits: how many there may be, and how long each may keep the server waiting.

uvicorn only closes connections that are idle between two requests. It waits forever for headers that never end and for clients
that never read. It accepts connections until the process has no file descriptors left, and then answers nobody.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from promptreel.logs import Seldom

log = logging.getLogger(__name__)

HEAD_SECONDS = 20.0
"""How long a connection may take to send a request line and headers, counted from its start or from its last answer."""

UNREAD_SECONDS = 30.0
"""How long a client may read nothing while data is waiting for it."""

MAX_CONNECTIONS = 1024
_RECEIVE_BYTES = 64 * 1024
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"


class Crowd(ServerState):
    """All connections of a server, at most `most` at once.

    When there are more, it closes waiting connections: first those of the host that has the most of them, then those that have
    been silent longest. So a client that sends its request gets in, however many stay silent.
    """

    def __init__(self, most: int, *, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.most = most
        self.now = now
        self.seldom = Seldom(log, now=now)

    def admit(self, newcomer: Connection) -> bool:
        """Whether there is room for the newcomer. Closes waiting connections to make room."""
        if len(self.connections) <= self.most:
            return True
        waited_for = [each for each in self._all() if each is not newcomer and each.is_waited_for]
        crowds = Counter(each.host for each in waited_for)
        closed = heapq.nsmallest(1 + self.most // 20, waited_for, key=lambda each: (-crowds[each.host], each.heard_at))
        for each in closed:
            each.drop()
        count = max(1, len(closed))
        self.seldom.warning("there are more than %d connections: %d were closed or refused", self.most, count, count=count)
        return bool(closed)

    def look(self) -> None:
        """Closes connections that have kept the server waiting too long. Call it about once a second."""
        for each in self._all():
            each.look()

    def _all(self) -> list[Connection]:
        return [each for each in self.connections if isinstance(each, Connection)]


class Connection(H11Protocol):
    """One connection. The server waits for it while its client still has something to send or to read."""

    server_state: Crowd

    def __init__(
        self, config: Config, server_state: Crowd, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._now = server_state.now
        self._free_at = self._now()
        self._unread = 0
        self._read_at = 0.0
        self.heard_at = self._now()

    @property
    def host(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def is_waited_for(self) -> bool:
        return self._is_free or self.cycle.more_body or self.transport.get_write_buffer_size() > 0

    @property
    def _is_free(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = _RECEIVE_BYTES  # type: ignore[attr-defined] # asyncio would read 256 kB at once from each client
        if not self.server_state.admit(self):
            self.server_state.connections.discard(self)
            transport.write(_REFUSAL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._now()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._free_at = self._now()
        super().on_response_complete()

    def look(self) -> None:
        """Closes the connection if it has kept the server waiting too long."""
        now, unread = self._now(), self.transport.get_write_buffer_size()
        if unread == 0 or unread != self._unread:
            self._unread, self._read_at = unread, now
        elif now - self._read_at > UNREAD_SECONDS:
            self.drop()
        if self._is_free and now - self._free_at > HEAD_SECONDS:
            self.transport.close()  # sends the rest of the answer first

    def drop(self) -> None:
        """Closes the connection now, without sending the rest."""
        self.server_state.connections.discard(self)
        self.transport.abort()
