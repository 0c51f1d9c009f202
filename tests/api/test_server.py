"""What the server does before the application sees a request, over a real connection."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.api.body_memory import BodyMemory
from promptreel.api.crowd import HEAD_SECONDS, UNREAD_SECONDS
from promptreel.api.server import MAX_HEADER_BYTES, build_server
from promptreel.bootstrap import build_app, build_courier
from promptreel.jobs.database import open_database, write_transaction
from promptreel.settings import load_settings
from tests.api.conftest import SUBMIT
from tests.waiting import LONGEST_SECONDS, wait_for

Serve = Callable[..., AbstractContextManager[httpx.Client]]
FROM_A_PROXY = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "video.test"}


class Clock:
    """A clock that the test sets. Each reading adds a microsecond, so that readings have an order."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1e-6
        return self.seconds


def test_processes_start_while_another_one_writes(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    build_app(settings, serves_local=True)
    with write_transaction(open_database(settings.database)):
        with TestClient(build_app(settings, serves_local=True)) as client:
            assert client.get("/health").status_code == 200
        build_courier(settings, owner="courier-1", stop=threading.Event())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def serve(services: AppParts, clock: Clock) -> Serve:
    @contextmanager
    def run(*, most: int = 100, servers: list[uvicorn.Server] | None = None, **settings: object) -> Iterator[httpx.Client]:
        server = build_server(create_app(replace(services, **settings)), now=clock, most=most)
        if servers is not None:
            servers.append(server)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                address = f"http://127.0.0.1:{listener.getsockname()[1]}"
                with httpx.Client(base_url=address, trust_env=False, timeout=LONGEST_SECONDS) as client:
                    yield client
            finally:
                server.should_exit = True
                thread.join()

    return run


def start_of_links(client: httpx.Client) -> str:
    link = urlsplit(client.post(SUBMIT, json={"prompt": "a red cat"}, headers=FROM_A_PROXY).json()["fetch_result"])
    return f"{link.scheme}://{link.netloc}"


def status_of_unfinished_header(client: httpx.Client, value: bytes) -> bytes:
    """The status line of the answer to a request with an unfinished header."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=LONGEST_SECONDS) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nX-Long: " + value)
        return connection.makefile("rb").readline()


def test_forwarded_headers_from_this_machine_are_ignored(serve: Serve) -> None:
    with serve() as client:
        assert start_of_links(client) == str(client.base_url)


def test_trusted_proxy_is_recognized_even_if_it_forwards_the_clients_address(serve: Serve) -> None:
    with serve(trusted_proxies=(ip_network("127.0.0.0/8"),)) as client:
        assert start_of_links(client) == "https://video.test"


def test_headers_have_a_limit(serve: Serve) -> None:
    with serve() as client:
        assert client.get("/health", headers={"X-Long": "x" * (MAX_HEADER_BYTES // 2)}).status_code == 200
        assert status_of_unfinished_header(client, b"x" * MAX_HEADER_BYTES) == b"HTTP/1.1 400 Bad Request\r\n"
        assert client.get("/health").status_code == 200


@contextmanager
def connected(client: httpx.Client, words: bytes = b"") -> Iterator[socket.socket]:
    """A connection that has sent `words`."""
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, timeout=LONGEST_SECONDS) as connection:
        connection.sendall(words)
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    """All bytes until the service closes the connection."""
    received = bytearray()
    with suppress(ConnectionError):
        while more := connection.recv(1024 * 1024):
            received += more
    return bytes(received)


def ask_anew(client: httpx.Client) -> int:
    """The status of /health, over a new connection."""
    return httpx.get(client.base_url.join("/health"), trust_env=False, timeout=LONGEST_SECONDS).status_code


BEGUN = b"GET /health HTTP/1.1\r\nHost: a\r\n"
ENDED = b"\r\n"
BODY = b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{"


@pytest.mark.slow
@pytest.mark.parametrize("words", [b"", BEGUN])
def test_connection_without_a_complete_request_is_closed(serve: Serve, clock: Clock, words: bytes) -> None:
    with serve() as client, connected(client, words) as connection:
        client.get("/health")  # by now the server has seen the connection
        clock.seconds += HEAD_SECONDS + 1

        assert read_to_end(connection) == b""
        assert ask_anew(client) == 200


@pytest.mark.slow
def test_second_request_has_its_own_time_limit(serve: Serve, clock: Clock) -> None:
    with serve() as client, connected(client, BEGUN + ENDED) as connection:
        first = connection.recv(65536)
        connection.sendall(BEGUN)
        client.get("/health")
        clock.seconds += HEAD_SECONDS + 1

        assert (first + read_to_end(connection)).count(b"HTTP/1.1 200") == 1


@pytest.mark.slow
def test_client_that_does_not_read_is_disconnected(serve: Serve, clock: Clock) -> None:
    request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n" + ENDED
    servers: list[uvicorn.Server] = []
    with serve(servers=servers) as client:
        size = len(client.get("/openapi.json").content)
        with connected(client) as connection:
            connection.sendall(request * (64 * 1024 * 1024 // size))  # more than the system's buffers hold

            def is_dropped() -> bool:
                clock.seconds += UNREAD_SECONDS + 1
                return not servers[0].server_state.connections

            wait_for(is_dropped)
            assert len(read_to_end(connection)) < 64 * 1024 * 1024 - size


def test_body_that_does_not_arrive_is_given_up(serve: Serve) -> None:
    with serve(body_memory=BodyMemory(grace_seconds=0.05)) as client, connected(client, BODY) as connection:
        answer = connection.recv(65536)
        while b"}}" not in answer:
            answer += connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"body_too_slow" in answer


def is_closed(connection: socket.socket) -> bool:
    """Whether the service has closed the connection without an answer."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("words", [b"", BEGUN, BODY])
def test_silent_connections_make_room_for_requests(serve: Serve, caplog: pytest.LogCaptureFixture, words: bytes) -> None:
    with serve(most=4) as client, ExitStack() as held:
        silent = [held.enter_context(connected(client, words)) for _ in range(40)]

        assert [ask_anew(client) for _ in range(3)] == [200] * 3
        wait_for(lambda: sum(map(is_closed, silent)) >= 36)
    told = [record.message for record in caplog.records if "connections" in record.message]
    assert told == ["there are more than 4 connections: 1 were closed or refused"]


def test_connections_that_were_silent_longest_make_room_first(serve: Serve) -> None:
    servers: list[uvicorn.Server] = []
    with serve(most=4, servers=servers) as client, ExitStack() as held:
        silent: list[socket.socket] = []
        for _ in range(12):
            silent.append(held.enter_context(connected(client)))
            # Without this wait the kernel may hand over two connections in either order.
            wait_for(lambda: silent[-1].getsockname() in {each.client for each in list(servers[0].server_state.connections)})

        wait_for(lambda: [is_closed(each) for each in silent] == [True] * 8 + [False] * 4)


def test_limit_of_open_files_is_raised_and_shared_by_connections_and_sent_files() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (600, {hard}));"
        "from fastapi import FastAPI; from promptreel.api.server import build_server;"
        "print(build_server(FastAPI()).server_state.most, resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )

    def run(hard: int) -> str:
        command = [sys.executable, "-c", code.format(hard=hard)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert run(600) == "172 600"
    assert run(3000) == "1024 3000"
