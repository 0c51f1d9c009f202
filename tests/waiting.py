"""Bounded waiting for what other processes and threads do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LONGEST_SECONDS = 240.0  # many times what a machine with two idle cores needs


def wait_for(what: Callable[[], T | None], *, seconds: float = LONGEST_SECONDS, every: float = 0.02) -> T:
    """The first value of `what` that is true; fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(every)
    raise AssertionError(f"waited {seconds:.0f} s in vain")
