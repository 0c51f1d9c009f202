"""Downloads one large file to disk. A download that broke off goes on where it was, if the file is still the same."""

from __future__ import annotations

import fcntl
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpcore2

from promptreel.errors import UrlUnusable
from promptreel.fetching.fetcher import Answer, SafeFetcher, check_answer

OnBytes = Callable[[int, int | None], None]
"""Gets the bytes received so far and the file's size, if known. Called often, also while waiting; it may raise to stop."""

LONGEST_SECONDS = 24 * 3600.0
TRIES = 5
"""How many tries in a row may bring nothing, before the download gives up."""
FEWEST_BYTES, WINDOW_SECONDS = 64 * 1024, 60.0
"""A host that sends fewer bytes in so many seconds is given up, so that it cannot hold a worker for days."""
POLL_SECONDS = 0.2

_RANGE = re.compile(r"bytes (?P<start>[0-9]{1,18})-[0-9]{1,18}/(?P<total>[0-9]{1,18}|\*)")
_FILE_NAME = re.compile(r"filename\*?=(?:UTF-8'')?\"?(?P<name>[^\";]+)", re.IGNORECASE)
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_STATE, _CONTENT, _LOCK = "state.json", "content", "lock"


@dataclass(frozen=True)
class Downloaded:
    """The file, and the name that its server gives it: letters, digits and ._- only."""

    path: Path
    name: str


def download(url: str, folder: Path, *, fetcher: SafeFetcher, max_bytes: int, on_bytes: OnBytes) -> Downloaded:
    """Downloads the URL's file into `folder`, which is the URL's own and keeps what was received.

    If another process is downloading into the same folder, waits until it has stopped. Raises UrlUnusable; the message says
    whether the same call may go on later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, lambda: on_bytes(0, None)):
        part = _Part(folder)
        failures = 0
        while True:
            before = part.size
            try:
                return part.receive(url, fetcher=fetcher, max_bytes=max_bytes, on_bytes=on_bytes)
            except UrlUnusable as error:
                failures = 0 if part.size > before else failures + 1
                if not _may_pass(error):
                    raise
                if failures >= TRIES:
                    raise UrlUnusable(
                        f"The download broke off {failures} times in a row after {part.size >> 20} MB. "
                        "Try again later: it goes on where it was."
                    ) from error


class _Part:
    """What was received of a file, and which version of it that is: its entity tag, or its date."""

    def __init__(self, folder: Path) -> None:
        self.content = folder / _CONTENT
        self._state = folder / _STATE
        self._known = _read_state(self._state)
        if not self._known:
            self.content.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        return self.content.stat().st_size if self.content.exists() else 0

    def receive(self, url: str, *, fetcher: SafeFetcher, max_bytes: int, on_bytes: OnBytes) -> Downloaded:
        if self._known.get("is_whole") and self.content.exists():
            return self._downloaded()
        headers = {"Accept": "*/*"}
        if self.size and self._known.get("version"):
            headers |= {"Range": f"bytes={self.size}-", "If-Range": self._known["version"]}
        total: int | None = None
        with fetcher.stream(
            url, headers=headers, seconds=LONGEST_SECONDS, on_wait=lambda: on_bytes(self.size, total)
        ) as answer:
            total = self._begin(answer, resumes="Range" in headers)
            if total is not None and total > max_bytes:
                raise _too_large(max_bytes)
            self._write(answer.chunks, total=total, max_bytes=max_bytes, on_bytes=on_bytes)
        self._remember(self._known | {"is_whole": True})
        return self._downloaded()

    def _begin(self, answer: Answer, *, resumes: bool) -> int | None:
        """Prepares for the answer's bytes. Returns the file's size, if the server tells it."""
        host, headers = answer.target.host, answer.headers
        if resumes and answer.status == 206:
            found = _RANGE.fullmatch(headers.get("content-range", ""))
            if found is not None and int(found["start"]) == self.size:
                return None if found["total"] == "*" else int(found["total"])
        if resumes and answer.status in {206, 416}:  # not the part that was asked for: begin anew
            self._forget()
            raise UrlUnusable(f"{host} cannot go on with the file where it broke off.") from httpcore2.ReadError()
        check_answer(host, answer.status, headers)
        if headers.get("content-type", "").lower().startswith("text/html"):
            raise UrlUnusable(f"{host} answered with a web page, not with a file. Use the address of the download itself.")
        self._forget()
        self._remember({"version": _version_of(headers), "name": _name_of(answer)})
        length = headers.get("content-length", "")
        return int(length) if re.fullmatch(r"[0-9]{1,18}", length, re.ASCII) else None

    def _write(self, chunks: Iterator[bytes], *, total: int | None, max_bytes: int, on_bytes: OnBytes) -> None:
        received = self.size
        pace = _Pace()
        with self.content.open("ab", buffering=0) as file:  # what was received survives a kill
            on_bytes(received, total)
            for chunk in chunks:
                received += len(chunk)
                if received > max_bytes:
                    raise _too_large(max_bytes)
                file.write(chunk)
                pace.count(len(chunk))
                on_bytes(received, total)
        if total is not None and received != total:
            raise UrlUnusable("The file's host broke off. Try again: it goes on where it was.") from httpcore2.ReadError()

    def _downloaded(self) -> Downloaded:
        return Downloaded(self.content, self._known["name"])

    def _remember(self, state: Mapping[str, Any]) -> None:
        self._known = dict(state)
        incoming = self._state.with_suffix(".new")
        incoming.write_text(json.dumps(self._known))
        incoming.replace(self._state)

    def _forget(self) -> None:
        self._state.unlink(missing_ok=True)
        self.content.unlink(missing_ok=True)
        self._known = {}


class _Pace:
    """Raises UrlUnusable if too few bytes come."""

    def __init__(self) -> None:
        self._since, self._bytes = time.monotonic(), 0

    def count(self, received: int) -> None:
        self._bytes += received
        passed = time.monotonic() - self._since
        if passed >= WINDOW_SECONDS:
            if self._bytes < FEWEST_BYTES * passed / WINDOW_SECONDS:
                raise UrlUnusable("The file's host sends hardly anything. Use another host.")
            self._since, self._bytes = time.monotonic(), 0


@contextmanager
def alone_in(folder: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Holds the folder's lock during the block; the kernel frees it when the process ends."""
    with (folder / _LOCK).open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                time.sleep(POLL_SECONDS)
            else:
                break
        yield


def _may_pass(error: UrlUnusable) -> bool:
    """Whether the connection failed, and not the request."""
    causes = (TimeoutError, httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError)
    return isinstance(error.__cause__, causes)


def _version_of(headers: Mapping[str, str]) -> str | None:
    """What If-Range may name: a strong entity tag, else the date."""
    tag = headers.get("etag", "")
    return tag if tag.startswith('"') else headers.get("last-modified")


def _name_of(answer: Answer) -> str:
    named = _FILE_NAME.search(answer.headers.get("content-disposition", ""))
    name = named["name"] if named else answer.target.path.partition("?")[0]
    return _NOT_IN_A_NAME.sub("-", unquote(name).rpartition("/")[2])[-150:].lstrip(".-") or "file"


def _read_state(file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) and isinstance(state.get("name"), str) else {}


def _too_large(max_bytes: int) -> UrlUnusable:
    return UrlUnusable(f"The URL's file is too large: {max_bytes >> 20} MB at most, as PROMPTREEL_MODEL_MEGABYTES says.")
