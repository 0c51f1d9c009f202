"""A receiver of webhooks on loopback, with a configurable answer for each path."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook


@dataclass(frozen=True)
class Message:
    """One received POST; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def json(self) -> Any:
        return json.loads(self.body)

    def verify(self, secret: str) -> Any:
        """The body, once `standardwebhooks` has verified its signature and time."""
        return Webhook(secret).verify(self.body, self.headers)


class _Hook(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        behaviour = self.server.behaviours.get(self.path, 200)  # read first: whoever sees the message may change it
        self.server.received.append(Message(self.path, headers, body))
        if isinstance(behaviour, threading.Event):
            behaviour.wait(60)
            behaviour = 200
        self.send_response(307 if isinstance(behaviour, str) else behaviour)
        if isinstance(behaviour, str):
            self.send_header("Location", behaviour)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            return  # the courier hung up

    def log_message(self, *_: object) -> None:
        return


class Receiver(ThreadingHTTPServer):
    """Reserves its port, and refuses connections until `receiving` starts it.

    `behaviours`: for a path, the status to answer, a text to redirect to, or an event to wait for. All others get 200.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook, bind_and_activate=False)
        self.server_bind()
        self.received: list[Message] = []
        self.behaviours: dict[str, int | str | threading.Event] = {}

    @property
    def port(self) -> int:
        return self.server_address[1]

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def messages(self, path: str = "/hook") -> list[Message]:
        return [message for message in self.received if message.path == path]


@contextmanager
def receiving(receiver: Receiver | None = None) -> Iterator[Receiver]:
    receiver = receiver or Receiver()
    receiver.server_activate()
    threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield receiver
    finally:
        for behaviour in receiver.behaviours.values():
            if isinstance(behaviour, threading.Event):
                behaviour.set()
        receiver.shutdown()
        receiver.server_close()
