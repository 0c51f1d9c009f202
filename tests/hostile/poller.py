"""`python -m tests.hostile.poller URL`: polls /health in a process of its own, so that nothing else delays it.

Prints a line of JSON for each answer: the time of the request (`time.monotonic`, which all processes share), the seconds until
the answer, its status, and the seconds of these during which this idle process itself stood still.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

EVERY_SECONDS = 0.1
TICK_SECONDS = 0.02
PATIENCE_SECONDS = 60.0


class Standstill:
    """Counts the seconds by which a sleeping thread wakes up late. The machine causes these, not the service."""

    def __init__(self) -> None:
        self.seconds = 0.0
        threading.Thread(target=self._sleep, daemon=True).start()

    def _sleep(self) -> None:
        while True:
            began = time.monotonic()
            time.sleep(TICK_SECONDS)
            self.seconds += time.monotonic() - began - TICK_SECONDS


def ask(address: str) -> int:
    """The HTTP status; 0 without an answer."""
    connection = HTTPConnection(address, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def main() -> None:
    address, standstill = urlsplit(sys.argv[1]).netloc, Standstill()
    while True:
        began, lost = time.monotonic(), standstill.seconds
        status = ask(address)
        seconds = time.monotonic() - began
        time.sleep(EVERY_SECONDS)  # by then the sleeper has counted its delay
        print(json.dumps([began, seconds, status, standstill.seconds - lost]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
