"""Slow and hostile hosts behind URLs in requests: inits and webhooks. They are real servers on loopback addresses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from tests.encoding.files import encode_image
from tests.flows.service import SHORT, Service
from tests.hostile.case import HostileCase
from tests.waiting import wait_for

PORT = 21700  # shared by all hosts, each on its own address; below the ephemeral ports
SETTINGS = {"fetch_allow_networks": "127.0.0.0/8", "fetch_allow_ports": PORT}
"""The service's settings for these cases."""

PICTURE = encode_image(np.full((96, 96, 3), (200, 40, 40), np.uint8))
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
FORTY_MEGABYTES = 40 * 1024 * 1024

Behave = Callable[["Host", socket.socket], None]


class Host:
    """Listens on its own address. `asked` counts requests; `left` counts those whose sender hung up before the answer."""

    def __init__(self, number: int, behave: Behave) -> None:
        self.address = f"127.0.1.{number}"
        self.over = threading.Event()
        self.asked = 0
        self.left = 0
        self._behave = behave
        self._listener = socket.create_server((self.address, PORT), backlog=64, reuse_port=False)
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def url(self, path: str = "/init.png") -> str:
        return f"http://{self.address}:{PORT}{path}"

    def close(self) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def _serve(self) -> None:
        while not self.over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            connection.recv(65536)
            self.asked += 1
            self._behave(self, connection)
        except OSError:
            self.left += not self.over.is_set()
        finally:
            connection.close()


@contextmanager
def hosts(behave: Behave, *, count: int = 1, first: int = 1) -> Iterator[list[Host]]:
    with ExitStack() as opened:
        made = [Host(number, behave) for number in range(first, first + count)]
        for host in made:
            opened.callback(host.close)
        yield made


def send(connection: socket.socket, content: bytes, *, headers: bytes = OK) -> None:
    connection.sendall(headers + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)


def serve_picture(_host: Host, connection: socket.socket) -> None:
    send(connection, PICTURE)


def hang(host: Host, connection: socket.socket) -> None:
    """Never answers. Raises an OSError when the other side hangs up, as a write would."""
    connection.settimeout(0.05)
    while not host.over.is_set():
        try:
            if not connection.recv(1024):
                raise ConnectionResetError
        except TimeoutError:
            continue


def drip(host: Host, connection: socket.socket) -> None:
    """Sends a header byte by byte: no single wait is long."""
    for byte in OK + b"X: " + b"x" * 100_000:
        connection.sendall(bytes([byte]))
        if host.over.wait(0.05):
            return


def drip_body(host: Host, connection: socket.socket) -> None:
    connection.sendall(OK + b"Content-Length: 1000000\r\n\r\n")
    while not host.over.wait(0.05):
        connection.sendall(b"x")


def send_endless_headers(host: Host, connection: socket.socket) -> None:
    connection.sendall(OK)
    while not host.over.is_set():
        connection.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")


def send_endless_body(host: Host, connection: socket.socket) -> None:
    connection.sendall(OK + b"\r\n")
    while not host.over.is_set():
        connection.sendall(b"x" * 65536)


def send_endless_chunks(host: Host, connection: socket.socket) -> None:
    """Sends one-byte chunks, which cost the reader more than the sender."""
    connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while not host.over.is_set():
        connection.sendall(b"1\r\nx\r\n" * 1000)


def redirect_for_ever(host: Host, connection: socket.socket) -> None:
    send(connection, b"", headers=f"HTTP/1.1 302 Found\r\nLocation: {host.url(f'/{host.asked}')}\r\n".encode())


def redirect_inside(_host: Host, connection: socket.socket) -> None:
    send(connection, b"", headers=b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/meta-data\r\n")


def announce_much(host: Host, connection: socket.socket) -> None:
    connection.sendall(OK + f"Content-Length: {10**15}\r\n\r\n".encode())
    host.over.wait(60)


def announce_nonsense(_host: Host, connection: socket.socket) -> None:
    connection.sendall(OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n")


def close_at_once(_host: Host, connection: socket.socket) -> None:
    connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
    )  # SO_LINGER 0: closing resets the connection


def close_amid(_host: Host, connection: socket.socket) -> None:
    connection.sendall(OK + f"Content-Length: {len(PICTURE)}\r\n\r\n".encode() + PICTURE[: len(PICTURE) // 2])
    close_at_once(_host, connection)


def send_unzipped(_host: Host, connection: socket.socket) -> None:
    send(connection, b"\x1f\x8b" + bytes(100), headers=OK + b"Content-Encoding: gzip\r\n")


def refused(behave: Behave, why: str) -> Callable[[Service], None]:
    """Asserts that an init from such a host is refused with these words."""

    def attack(service: Service) -> None:
        with hosts(behave) as (host,):
            check_refused(service.ask(**SHORT, init_image=host.url()), why)
            assert host.asked

    return attack


def check_refused(answer: dict[str, Any], why: str) -> None:
    assert answer["status"] == "error", answer
    (message,) = answer["message"]["init_image"]
    assert why in message


def slow_beside_a_good_one(behave: Behave) -> Callable[[Service], None]:
    """Sixteen hosts hang as many requests; meanwhile a good host is fetched."""

    def attack(service: Service) -> None:
        with hosts(serve_picture, first=100) as (good,), hosts(behave, count=16) as slow:
            with asked_at_once(service, [host.url() for host in slow]) as answers:
                wait_for(lambda: all(host.asked for host in slow))
                accepted = service.ask(**SHORT, init_image=good.url())
                assert accepted["status"] == "processing", accepted
                service.jobs.cancel(accepted["id"])
                assert not any(host.left for host in slow)  # none was dropped to make room for the good one
                for host in slow:
                    host.over.set()
            for answer in answers:
                assert answer.result()["status"] == "error"

    return attack


@contextmanager
def asked_at_once(service: Service, urls: Sequence[str]) -> Iterator[list[Future[dict[str, Any]]]]:
    with ThreadPoolExecutor(len(urls)) as threads:
        yield [threads.submit(service.ask, **SHORT, init_image=url) for url in urls]


def webhooks_that_hang(service: Service) -> None:
    """Forty receivers do not answer. A good one gets its delivery before any of them times out."""
    with hosts(serve_picture, first=100) as (good,), hosts(hang, count=40) as slow:
        asked = [service.ask(**SHORT, webhook=host.url("/hook")) for host in [*slow, good]]
        for answer in asked:
            service.jobs.cancel(answer["id"])
        wait_for(lambda: good.asked)
        assert not any(host.left for host in slow)
        wait_for(lambda: all(host.asked or host.left for host in slow))
    forget(service, asked)


def webhooks_that_send_without_end(service: Service) -> None:
    """The courier needs only the status, and must not read an endless body."""
    with hosts(send_endless_body, count=4) as endless:
        asked = [service.ask(**SHORT, webhook=host.url("/hook")) for host in endless]
        for answer in asked:
            service.jobs.cancel(answer["id"])
        wait_for(lambda: all(host.left for host in endless))
    forget(service, asked)


def forget(service: Service, asked: Sequence[dict[str, Any]]) -> None:
    """Deletes the jobs, so that retries do not disturb later cases."""
    for answer in asked:
        service.jobs.delete(answer["id"])


CASES: list[HostileCase] = [
    HostileCase("sixteen hosts hang beside a good one", slow_beside_a_good_one(hang)),
    HostileCase("sixteen hosts drip headers beside a good one", slow_beside_a_good_one(drip)),
    HostileCase("sixteen hosts drip bodies beside a good one", slow_beside_a_good_one(drip_body)),
    HostileCase("host sends headers without end", refused(send_endless_headers, "valid HTTP")),
    HostileCase("host sends a body without end", refused(send_endless_body, "too large")),
    HostileCase("host redirects without end", refused(redirect_for_ever, "redirects more than 3 times")),
    HostileCase("host redirects to what only the server reaches", refused(redirect_inside, "not on the public internet")),
    HostileCase("host announces a petabyte", refused(announce_much, "too large")),
    HostileCase("host announces a number of 5,000 digits", refused(announce_nonsense, "valid HTTP")),
    HostileCase("host closes at once", refused(close_at_once, "closed the connection")),
    HostileCase("host closes amid a picture", refused(close_amid, "closed the connection")),
    HostileCase("host compresses what nobody asked it to", refused(send_unzipped, "compressed")),
    HostileCase("host sends chunks of a byte without end", refused(send_endless_chunks, "too many small chunks")),
    HostileCase("forty webhooks hang", webhooks_that_hang),
    HostileCase("webhooks answer without end", webhooks_that_send_without_end),
]
