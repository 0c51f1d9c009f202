"""What the server does before the application sees a request: over a real connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.api.server import MAX_HEADER_BYTES, build_server
from promptreel.bootstrap import build_app, build_courier
from promptreel.jobs.database import open_database, write_transaction
from promptreel.settings import load_settings
from tests.api.conftest import SUBMIT
from tests.waiting import LONGEST_SECONDS

Serve = Callable[..., AbstractContextManager[httpx.Client]]
FROM_A_PROXY = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "video.test"}


def test_processes_start_while_another_one_writes(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    build_app(settings, serves_local=True)
    with write_transaction(open_database(settings.database)):
        with TestClient(build_app(settings, serves_local=True)) as client:
            assert client.get("/health").status_code == 200
        build_courier(settings, owner="courier-1", stop=threading.Event())


@pytest.fixture
def serve(services: AppParts) -> Serve:
    @contextmanager
    def run(**settings: object) -> Iterator[httpx.Client]:
        server = build_server(create_app(replace(services, **settings)))
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
    """The first line of the answer to a request whose header does not end."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=LONGEST_SECONDS) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nX-Long: " + value)
        return connection.makefile("rb").readline()


def test_forwarded_headers_of_whoever_is_at_this_machine_are_not_believed(serve: Serve) -> None:
    with serve() as client:
        assert start_of_links(client) == str(client.base_url)


def test_trusted_proxy_at_this_machine_is_known_though_it_tells_whom_it_speaks_for(serve: Serve) -> None:
    with serve(trusted_proxies=(ip_network("127.0.0.0/8"),)) as client:
        assert start_of_links(client) == "https://video.test"


def test_headers_have_a_limit(serve: Serve) -> None:
    with serve() as client:
        assert client.get("/health", headers={"X-Long": "x" * (MAX_HEADER_BYTES // 2)}).status_code == 200
        assert status_of_unfinished_header(client, b"x" * MAX_HEADER_BYTES) == b"HTTP/1.1 400 Bad Request\r\n"
        assert client.get("/health").status_code == 200
