"""Runs the tests while one of their processes after the other stands still for up to three seconds.

    python -m tests.stalls tests/jobs

A busy machine does that too. What fails here, and not without it, has taken an order of events for granted. (One exception: a
process that a test stops on purpose while it stands still here already goes on too early.)
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import suppress

import psutil

LONGEST_SECONDS = 3.0


def main() -> int:
    suite = psutil.Popen([sys.executable, "-m", "pytest", *sys.argv[1:]])
    while suite.poll() is None:
        time.sleep(random.uniform(0.1, 1.0))
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            stall_one_of(suite.children(recursive=True))
    return suite.wait()


def stall_one_of(processes: list[psutil.Process]) -> None:
    moving = [process for process in processes if process.status() not in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}]
    if not moving:
        return
    process = random.choice(moving)
    process.suspend()
    try:
        time.sleep(random.uniform(0.2, LONGEST_SECONDS))
    finally:  # after Ctrl-C too
        process.resume()


if __name__ == "__main__":
    sys.exit(main())
