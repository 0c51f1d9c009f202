"""A model hub: lists a repository's files and downloads them, through the hub's own library in a process of its own."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from promptreel.errors import NotAvailable, UrlUnusable
from promptreel.extras import install_command, is_installed

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}", re.ASCII)
POLL_SECONDS = 0.2
_SILENT_SECONDS = 120.0
# Plain HTTP resumes a download; the library's own protocol does not, and asks further hosts.
_ENVIRONMENT = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "0",
    "TRANSFORMERS_OFFLINE": "0",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
}


@dataclass(frozen=True)
class HubFile:
    """A file in a repository. `sha256`: as the hub tells it, of large files only."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class HubRepository:
    """A repository's files by name, at one commit. `licence`: the hub's short name of it, if it tells one."""

    name: str
    commit: str
    files: Mapping[str, HubFile]
    licence: str | None


class Hub:
    """`token`: of the account whose private and gated repositories may be read; None reads public ones only."""

    def __init__(self, endpoint: str, *, token: str | None = None) -> None:
        self._endpoint = endpoint
        self._token = token

    @contextmanager
    def open(self) -> Iterator[HubSession]:
        """Starts the process that talks to the hub; it ends with the block. Raises NotAvailable without the extra `hub`."""
        if not is_installed("hub"):
            raise NotAvailable(f"The hub's library is not installed here: {install_command('hub')}.")
        process = subprocess.Popen(
            [sys.executable, "-m", "promptreel.fetching.hub_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is this process's to handle
            env=os.environ | _ENVIRONMENT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield HubSession(process.stdin, process.stdout, {"endpoint": self._endpoint, "token": self._token})
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


class HubSession:
    """Asks the process one thing after the other. `always`: what every request holds."""

    def __init__(self, requests: IO[str], answers: IO[str], always: Mapping[str, Any]) -> None:
        self._requests = requests
        self._lines = _lines(answers)
        self._always = always

    def list_files(self, repo: str, revision: str | None, *, on_wait: Callable[[], object]) -> HubRepository:
        """Raises UrlUnusable. `on_wait` is called often; it may raise."""
        told = self._ask({"task": "list", "repo": repo, "revision": revision}, lambda _received: on_wait())
        try:
            files = {str(name): HubFile(int(each["size"]), each["sha256"]) for name, each in told["files"].items()}
            return HubRepository(repo, str(told["commit"]), files, told["licence"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UrlUnusable("The hub's answer cannot be read. Check PROMPTREEL_HUB_ENDPOINT.") from error

    def download(self, repository: HubRepository, file: str, path: Path, *, on_bytes: Callable[[int], object]) -> None:
        """Downloads to `path`, and goes on with what an earlier call left there. Raises UrlUnusable."""
        wanted = {"task": "download", "repo": repository.name, "revision": repository.commit}
        self._ask(wanted | {"file": file, "path": str(path)}, on_bytes)

    def _ask(self, request: dict[str, Any], on_bytes: Callable[[int], object]) -> dict[str, Any]:
        """Reads the process's lines until its answer. Calls `on_bytes` often, with what was received so far."""
        self._requests.write(json.dumps({**request, **self._always}) + "\n")
        self._requests.flush()
        received, silent = 0, 0.0
        for line in self._lines:
            told: dict[str, Any] = {} if line is None else json.loads(line)
            silent = silent + POLL_SECONDS if line is None else 0.0
            if "error" in told:
                raise UrlUnusable(told["error"])
            if told.get("is_whole") or "files" in told:
                return told
            received = told.get("received", received)
            on_bytes(received)
            if silent > _SILENT_SECONDS:
                break
        raise UrlUnusable("The hub's answer did not come. Try again: a download goes on where it was.")


def _lines(stdout: IO[str]) -> Iterator[str | None]:
    """The lines as they come; None now and then while there is none. Ends when the process does."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=POLL_SECONDS)
        except queue.Empty:
            yield None
            continue
        if not line:
            return
        yield line
