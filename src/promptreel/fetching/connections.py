"""Connections to checked addresses only, with a deadline for the whole fetch."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpcore2
from httpcore2 import NetworkBackend, NetworkStream


class Deadline:
    """The moment at which a fetch must be over, `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self, at_most: float | None = None) -> float:
        """Seconds that the next wait may take. Raises httpcore2.ReadTimeout when none are left."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the deadline is over")
        return left if at_most is None else min(left, at_most)


POLL_SECONDS = 0.5

OnWait = Callable[[], object]
"""Called now and then while nothing arrives. It may raise to stop."""


class PinnedBackend(NetworkBackend):
    """Connects to the first of `addresses` that accepts, and never resolves the host's name again.

    httpcore keeps the name from the URL for SNI, the certificate check and the Host header.
    """

    def __init__(
        self, addresses: Sequence[str], deadline: Deadline, network: NetworkBackend, on_wait: OnWait | None = None
    ) -> None:
        self._addresses = addresses
        self._deadline = deadline
        self._network = network
        self._on_wait = on_wait

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - `addresses` replaces it
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> NetworkStream:
        failures: list[httpcore2.ConnectError | httpcore2.ConnectTimeout] = []
        for address in self._addresses:
            left = self._deadline.left(timeout)
            try:
                stream = self._network.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failures.append(error)
            else:
                return _TimedStream(stream, self._deadline, self._on_wait)
        raise failures[-1]


class _TimedStream(NetworkStream):
    """A stream that enforces the deadline on every wait, so that sending byte by byte does not extend it."""

    def __init__(self, stream: NetworkStream, deadline: Deadline, on_wait: OnWait | None) -> None:
        self._stream = stream
        self._deadline = deadline
        self._on_wait = on_wait

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._on_wait is None:
            return self._stream.read(max_bytes, self._deadline.left(timeout))
        patience = Deadline(self._deadline.left(timeout))
        while True:
            try:
                return self._stream.read(max_bytes, patience.left(POLL_SECONDS))
            except httpcore2.ReadTimeout:
                self._on_wait()
                patience.left()  # raises when it is over

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> NetworkStream:
        left = self._deadline.left(timeout)
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline, self._on_wait)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
