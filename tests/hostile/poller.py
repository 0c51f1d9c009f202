"""`python -m tests.hostile.poller URL`: asks for /health again and again, in a process that nothing else holds up.

One line of JSON for each answer: when it was asked for (`time.monotonic`, which all processes share), after how many seconds it
was there, its status, and for how many of these seconds this process itself stood still, though it had nothing to do.
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
    """Counts the seconds by which a thread that only sleeps wakes up too late: what the machine did, and no service."""

    def __init__(self) -> None:
        self.seconds = 0.0
        threading.Thread(target=self._sleep, daemon=True).start()

    def _sleep(self) -> None:
        while True:
            began = time.monotonic()
            time.sleep(TICK_SECONDS)
            self.seconds += time.monotonic() - began - TICK_SECONDS


def ask(address: str) -> int:
    """The status; 0 when there is no answer."""
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
        time.sleep(EVERY_SECONDS)  # by then the sleeper has counted what it lost meanwhile
        print(json.dumps([began, seconds, status, standstill.seconds - lost]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
