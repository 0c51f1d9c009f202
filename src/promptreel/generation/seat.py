"""A request's place in the batch: what it wants computed next, and the outcome."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from promptreel.generation.families.family import GroupKey, Rows

WAIT_SECONDS = 0.2
"""How often a waiting job checks whether it was cancelled."""

OnWait = Callable[[], None]
"""Called from time to time while a request waits for others that make progress. It may raise, to stop the request."""


def keep_waiting() -> None:
    """An OnWait that never stops a request."""


@contextmanager
def in_turn(places: threading.Semaphore, on_wait: OnWait) -> Iterator[None]:
    """Waits for one of the places, and holds it while the block runs."""
    while not places.acquire(timeout=WAIT_SECONDS):
        on_wait()
    try:
        yield
    finally:
        places.release()


@dataclass(eq=False)
class Part:
    """The rows of a call that one forward computes: one of them, or all. `outcome` is None until then."""

    seat: Seat
    rows: Rows
    begins_call: bool
    outcome: Tensor | BaseException | None = None


class Seat:
    """Made by a StepBatcher. All fields are read and written under its lock `changed`.

    `left`: the parts of its call that no thread has taken yet. `device_seconds`: its share of the forwards' time so far.
    `expected_until`: until when the batcher waits for its next call (monotonic clock, seconds).
    """

    def __init__(self, changed: threading.Condition, on_wait: OnWait, *, apart: bool) -> None:
        """`apart`: whether each row is a separate part."""
        self._changed = changed
        self._on_wait = on_wait
        self._apart = apart
        self._under_way = 0
        self.has_begun = False
        self.left: list[Part] = []
        self.group_key: GroupKey | None = None
        self.remaining = 0
        self.waited = 0
        self.device_seconds = 0.0
        self.expected_until = 0.0

    def forward(self, rows: Rows) -> Tensor:
        """Waits for its turn, and returns the model's output for the rows, of the shape of `rows.latents`.

        Raises what the model or `on_wait` raises.
        """
        split = rows.split() if self._apart else [rows]
        parts = [Part(self, part, begins_call=part is split[0]) for part in split]
        with self._changed:
            self.group_key, self.remaining, self.has_begun = rows.group_key, rows.remaining, False
            self.left = list(parts)
            seen = self.waited
            self._changed.notify_all()
        try:
            while not self._is_answered():
                if self.waited != seen and not self.has_begun:
                    seen = self.waited
                    self._on_wait()
        finally:
            self._withdraw()
        for part in parts:
            if isinstance(part.outcome, BaseException):
                raise part.outcome
        return torch.cat([part.outcome for part in parts if isinstance(part.outcome, Tensor)])

    def _is_answered(self) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self.left and not self._under_way, WAIT_SECONDS)

    def _withdraw(self) -> None:
        """Drops the parts that nobody took, and waits for those that run. Then nothing of the request is computed any more."""
        with self._changed:
            self.left = []
            self._changed.wait_for(lambda: not self._under_way)

    def take(self) -> Part:
        """The next part. Whoever takes it must settle it."""
        self.has_begun = True
        self.expected_until = 0.0
        self._under_way += 1
        return self.left.pop(0)

    def settle(self, part: Part, outcome: Tensor | BaseException, *, grace: float = 0.0) -> None:
        """Records a part's outcome, once. The next call is expected within `grace` seconds."""
        with self._changed:
            if part.outcome is not None:
                return
            part.outcome = outcome
            self._under_way -= 1
            if isinstance(outcome, BaseException):
                self.left = []
            self.expected_until = time.monotonic() + grace
            self._changed.notify_all()

    @property
    def is_watching(self) -> bool:
        """Whether it waits for its turn, or will within the grace time."""
        if self.left:
            return not self.has_begun
        return not self._under_way and time.monotonic() < self.expected_until

    @property
    def urgency(self) -> int:
        """Lower goes first: the fewest calls left, so that a short job passes a long one.

        Each call of others that a request waited for counts as one of its own less. So a stream of short jobs delays a long
        one by at most its own length.
        """
        return self.remaining - self.waited

    @property
    def next_urgency(self) -> float:
        """The urgency of its next call. A request that has just been seated may have any, so the lowest is assumed."""
        return float("-inf") if self.group_key is None else self.urgency - 1
