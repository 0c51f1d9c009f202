"""Memory for the bodies of requests: a fixed amount, whoever sends them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from promptreel.errors import PromptreelError

MEGABYTE = 1024 * 1024

KNOWN_BYTES = 64 * MEGABYTE
UNKNOWN_BYTES = 36 * MEGABYTE
"""Limits for all bodies at once: of callers whose key is known before the body is read, and of all other callers.

What is made from a body (text, then the picture's own bytes) takes up to three times as much until the request is answered.
"""

GRACE_SECONDS = 30.0
"""How long a body may take in addition to what its bytes need at the slowest rate (bodies.py)."""

WAIT_SECONDS = 20.0
HURRIED_SECONDS = 15.0
"""How long a body from an unknown caller may take while others wait for its memory."""

_LOOK_SECONDS = 0.02


class NoRoom(PromptreelError):
    """The memory for large requests is in use."""

    code = "no_room"
    retry_after = 5


class Place:
    """One body's share of a budget. The budget calls `hurry` when the body is slow and others wait for its memory."""

    def __init__(self, budget: Budget, size: int, now: float) -> None:
        self._budget = budget
        self._size = size
        self._taken_at = now
        self.hurry: Callable[[], None] | None = None

    def leave(self) -> None:
        """Gives the bytes back. A second call does nothing."""
        self._budget.take_back(self, self._size)
        self._size = 0

    def is_slow(self, now: float) -> bool:
        return self.hurry is not None and now - self._taken_at > HURRIED_SECONDS


class Budget:
    """A number of bytes for bodies. When it is used up, newcomers wait in line for up to WAIT_SECONDS."""

    def __init__(self, size: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._free = size
        self._now = now
        self._line: deque[object] = deque()
        self._places: set[Place] = set()

    async def take(self, size: int) -> Place:
        """Raises NoRoom."""
        me, until = object(), self._now() + WAIT_SECONDS
        self._line.append(me)
        try:
            while self._line[0] is not me or size > self._free:
                if self._now() > until:
                    raise NoRoom(
                        "The service is receiving as many large requests as it has memory for. Try again in a few seconds, "
                        "with the API key in a header, which arrives before the body."
                    )
                if self._line[0] is me:
                    self._hurry_slowest()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._line.remove(me)
        self._free -= size
        place = Place(self, size, self._now())
        self._places.add(place)
        return place

    def take_back(self, place: Place, size: int) -> None:
        self._free += size
        self._places.discard(place)

    def _hurry_slowest(self) -> None:
        now = self._now()
        slow = next((place for place in self._places if place.is_slow(now)), None)
        if slow is not None and slow.hurry is not None:
            slow.hurry()


class BodyMemory:
    """The api process's two budgets for bodies, and the one thread that parses long bodies off the event loop."""

    def __init__(self, *, known: int = KNOWN_BYTES, unknown: int = UNKNOWN_BYTES, grace_seconds: float = GRACE_SECONDS) -> None:
        self.grace_seconds = grace_seconds
        self.of_known = Budget(known)
        self.of_unknown = Budget(unknown)
        self.reader = ThreadPoolExecutor(1, "body-reader")
