"""A file server on loopback with ranges and entity tags, whose connections break off when told to. It is a hub, too.

A hub's repository answers at /api/models/OWNER/NAME/revision/REVISION with its files, and at
/OWNER/NAME/resolve/REVISION/FILE with one of them.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LIST = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/?]+))?")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileHost

    def do_HEAD(self) -> None:
        self.do_GET(with_body=False)

    def do_GET(self, *, with_body: bool = True) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append((path, {name.title(): value for name, value in self.headers.items()}))
        if listed := _LIST.fullmatch(path):
            self._list(listed["repo"])
        elif (found := _FILE.fullmatch(path)) and found["repo"] in self.server.repositories:
            content = self.server.repositories[found["repo"]].get(found["name"])
            told = {"X-Repo-Commit": COMMIT} | ({"X-Error-Code": "EntryNotFound"} if content is None else {})
            self._send(content, with_body=with_body, **told)
        else:
            self._send(self.server.files.get(path), with_body=with_body, **self.server.headers)

    def _list(self, repo: str) -> None:
        files = self.server.repositories.get(repo)
        if files is None:
            self._send(None, with_body=True, **{"X-Error-Code": "RepoNotFound"})
            return
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                "lfs": {"sha256": hash_of(content), "size": len(content), "pointerSize": 1},
            }
            for name, content in files.items()
        ]
        told = {
            "id": repo,
            "modelId": repo,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": ["license:creativeml-openrail-m"],
            "downloads": 0,
        }
        self._send(json.dumps(told).encode(), with_body=True)

    def _send(self, content: bytes | None, *, with_body: bool, **headers: str) -> None:
        if content is None:
            self._head(404, {"Content-Length": "0", **headers})
            return
        tag = f'"{hash_of(content)}"'
        wanted = re.fullmatch(r"bytes=([0-9]+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and self.headers.get("If-Range", tag) == tag else 0
        if wanted and start >= len(content):
            self._head(416, {"Content-Length": "0"})
            return
        told = {"Content-Length": str(len(content) - start), "ETag": tag, "Accept-Ranges": "bytes", **headers}
        if wanted and self.headers.get("If-Range", tag) == tag:
            self._head(206, told | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})
        else:
            self._head(200, told)
        if with_body:
            self._send_body(content[start:])

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_body(self, content: bytes) -> None:
        after = self.server.take_break()
        self.wfile.write(content[:after])
        self.wfile.flush()
        if after is not None and after < len(content):
            if self.server.holds:
                self.server.is_holding.set()
                self.server.released.wait(60)
            self.close_connection = True
            self.connection.shutdown(1)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            return  # the client hung up

    def log_message(self, *_: object) -> None:
        return


class FileHost(ThreadingHTTPServer):
    """`breaks`: after how many bytes of their bodies the next answers break off, one after the other. With `holds`, they stand
    still there until `released` is set.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.breaks: list[int] = []
        self.holds = False
        self.is_holding, self.released = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return self.server_address[1]

    def take_break(self) -> int | None:
        return self.breaks.pop(0) if self.breaks else None

    def ranges_asked(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.asked]


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def hosting() -> Iterator[FileHost]:
    host = FileHost()
    threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield host
    finally:
        host.released.set()
        host.shutdown()
        host.server_close()
