"""SharedLooks: many streams of events look at the same moments, and each look at the database serves all who ask for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar, cast

import anyio
from starlette.concurrency import run_in_threadpool

POLL_SECONDS = 0.5  # workers report once a second
_MOST_KEPT = 64

T = TypeVar("T")


@dataclass
class _Look:
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    until: float = float("-inf")
    value: object = None


class SharedLooks:
    """What is looked up at a moment is looked up once for all who ask then. Moments are `poll_seconds` apart, for everybody.

    It is the process's own. It holds the results of the last moment only.
    """

    def __init__(self, *, poll_seconds: float = POLL_SECONDS, now: Callable[[], float] = time.monotonic) -> None:
        self.poll_seconds = poll_seconds
        self._now = now
        self._looks: dict[Hashable, _Look] = {}

    async def next_moment(self) -> None:
        await anyio.sleep(self.poll_seconds - self._now() % self.poll_seconds)

    async def share(self, key: Hashable, look: Callable[[], T], *, seconds: float = 0.0, times: float = 0.0) -> T:
        """The value of `look`, called in a thread unless its last value is recent.

        Recent is: of this moment, younger than `seconds`, or than `times` as long as the look took.
        """
        self._forget()
        shared = self._looks.setdefault(key, _Look())
        async with shared.lock:
            if shared.until <= self._now():
                started = self._now()
                shared.value = await run_in_threadpool(look)
                ended = self._now()
                of_moment = (ended // self.poll_seconds + 1) * self.poll_seconds
                shared.until = max(of_moment, started + seconds, ended + times * (ended - started))
        return cast("T", shared.value)

    def _forget(self) -> None:
        if len(self._looks) > _MOST_KEPT:
            self._looks = {key: look for key, look in self._looks.items() if look.until > self._now() or look.lock.locked()}
