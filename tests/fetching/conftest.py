"""A web server on loopback, and fetchers that reach it by name through the tests' own resolver and network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpcore2
import pytest
from httpcore2 import NetworkBackend, NetworkStream, SyncBackend

from promptreel.fetching.fetcher import SafeFetcher

PICTURE = b"\x89PNG " * 400
PUBLIC = "93.184.215.14"


class Pages(BaseHTTPRequestHandler):
    """/picture is a good page, others misbehave, and /to?URL redirects there."""

    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        page, _, query = self.path.partition("?")
        if page == "/to":
            self.answer(b"", status=302, Location=query)
        elif page == "/again":
            self.answer(b"", status=307, Location="/again")
        else:
            getattr(self, f"do_{page.strip('/')}", self.do_missing)()

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def answer(self, content: bytes, *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Type": "image/png", "Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def do_picture(self) -> None:
        self.answer(PICTURE, Content_Type="Image/PNG; q=1")

    def do_missing(self) -> None:
        self.answer(b"secret words", status=404)

    def do_page(self) -> None:
        self.answer(b"<html>", Content_Type="text/html")

    def do_compressed(self) -> None:
        self.answer(PICTURE, Content_Encoding="gzip")

    def do_unending(self) -> None:
        """Sends no Content-Length: only counting bytes shows that it is too large."""
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        while not self.server.over.is_set():
            self.wfile.write(PICTURE)

    def do_drip(self) -> None:
        """Sends headers byte by byte for minutes: no single wait is long."""
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000:
            self.wfile.write(bytes([byte]))
            if self.server.over.wait(0.02):
                return

    def do_rubbish(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            return  # the fetcher hung up

    def log_message(self, *_: object) -> None:
        return


class Site(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Pages)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.over = threading.Event()

    @property
    def port(self) -> int:
        return self.server_address[1]


class RecordedNetwork(NetworkBackend):
    """Makes real connections and records their hosts; connects to loopback in place of `stands_for`."""

    def __init__(self, stands_for: str = PUBLIC) -> None:
        self.connected: list[str] = []
        self._stands_for = stands_for

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> NetworkStream:
        self.connected.append(host)
        where = "127.0.0.1" if host == self._stands_for else host
        return SyncBackend().connect_tcp(where, port, timeout, local_address, socket_options)


def names(**addresses: str) -> Callable[[str, int], list[str]]:
    """A resolver for these hosts. In names, underscores stand for dots; addresses are separated by spaces."""

    def resolve(host: str, port: int) -> list[str]:
        try:
            return addresses[host.replace(".", "_")].split()
        except KeyError:
            raise OSError("no such host") from None

    return resolve


@pytest.fixture(scope="module")
def running_site() -> Iterator[Site]:
    site = Site()
    threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield site
    site.over.set()
    site.shutdown()
    site.server_close()


@pytest.fixture
def site(running_site: Site) -> Site:
    running_site.asked.clear()
    running_site.bodies.clear()
    return running_site


@pytest.fixture
def network() -> RecordedNetwork:
    return RecordedNetwork()


@pytest.fixture
def fetcher(site: Site, network: RecordedNetwork) -> SafeFetcher:
    """Allows the site's port and the host media.test, which resolves to loopback; www.test resolves to a public address."""
    return SafeFetcher(
        allow_hosts=["Media.test"],
        allow_ports=[site.port],
        resolve=names(media_test="127.0.0.1", www_test=PUBLIC),
        network=network,
    )


@pytest.fixture
def seconds_taken() -> Callable[[], float]:
    start = time.monotonic()
    return lambda: time.monotonic() - start
