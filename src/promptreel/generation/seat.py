"""A request's place in the batch: what it asks to be computed next, and what became of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from promptreel.generation.families.animatediff import LoadedCheckpoint

WAIT_SECONDS = 0.2
"""How often a job that waits for others looks whether it was cancelled."""

Shape = tuple[object, ...]

OnWait = Callable[[], None]
"""Called now and then while a request waits for others that move on; it may raise to stop the request there."""


def keep_waiting() -> None:
    """An OnWait that never stops a request."""


@contextmanager
def in_turn(places: threading.Semaphore, on_wait: OnWait) -> Iterator[None]:
    """Takes one of the places while the block runs; waits for it as long as there is none."""
    while not places.acquire(timeout=WAIT_SECONDS):
        on_wait()
    try:
        yield
    finally:
        places.release()


@dataclass(frozen=True)
class Rows:
    """What one request needs computed next.

    `latents` [B, C, T, h, w], `timesteps` [B], `text` [B, tokens, width]; B is 2 for a guided call, 1 for an unguided one.
    `remaining` counts the calls that the request still has to make, this one included.
    """

    checkpoint: LoadedCheckpoint
    latents: Tensor
    timesteps: Tensor
    text: Tensor
    remaining: int

    @property
    def shape(self) -> Shape:
        """What must be equal for two requests to share a forward."""
        return (self.checkpoint.model_hash, self.latents.shape[1:], self.text.shape[1:])

    def split(self) -> list[Rows]:
        """Each row by itself."""
        rows = zip(self.latents.split(1), self.timesteps.split(1), self.text.split(1), strict=True)
        return [replace(self, latents=latents, timesteps=timesteps, text=text) for latents, timesteps, text in rows]


@dataclass(eq=False)
class Part:
    """What of a call is computed in one forward: one row, or all of them. `outcome` is None until it was."""

    seat: Seat
    rows: Rows
    begins_call: bool
    outcome: Tensor | BaseException | None = None


class Seat:
    """Made and led by a StepBatcher, whose lock `changed` is; its fields are read and written under that.

    `left`: the parts of its call that nobody has taken yet. `device_seconds`: its share of the time that forwards took so far.
    `expected_until`: when it should have asked for its next call, in seconds of the monotonic clock.
    """

    def __init__(self, changed: threading.Condition, on_wait: OnWait, *, apart: bool) -> None:
        """`apart`: whether each row is a part of its own."""
        self._changed = changed
        self._on_wait = on_wait
        self._apart = apart
        self._under_way = 0
        self.has_begun = False
        self.left: list[Part] = []
        self.shape: Shape | None = None
        self.remaining = 0
        self.waited = 0
        self.device_seconds = 0.0
        self.expected_until = 0.0

    def forward(self, rows: Rows) -> Tensor:
        """The network's output for the rows, like `rows.latents`; waits for its turn.

        Raises what the network raised, or `on_wait`.
        """
        split = rows.split() if self._apart else [rows]
        parts = [Part(self, part, begins_call=part is split[0]) for part in split]
        with self._changed:
            self.shape, self.remaining, self.has_begun = rows.shape, rows.remaining, False
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
        """Nothing of the request is computed any more afterwards, however its call ended."""
        with self._changed:
            self.left = []
            self._changed.wait_for(lambda: not self._under_way)

    def take(self) -> Part:
        """The next part, which must then be settled."""
        self.has_begun = True
        self.expected_until = 0.0
        self._under_way += 1
        return self.left.pop(0)

    def settle(self, part: Part, outcome: Tensor | BaseException, *, grace: float = 0.0) -> None:
        """Says what became of a part, once; the next call is expected within `grace` seconds."""
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
        """Whether it waits for its turn, or is about to."""
        if self.left:
            return not self.has_begun
        return not self._under_way and time.monotonic() < self.expected_until

    @property
    def urgency(self) -> int:
        """The lower, the sooner: fewest calls left first, so that a short job passes a long one.

        Each call that a request had to watch counts as one of its own less, so that no stream of short jobs holds a long one
        up for more than its own length.
        """
        return self.remaining - self.waited

    @property
    def next_urgency(self) -> float:
        """That of the call after this one; a request that has just been seated may be of any."""
        return float("-inf") if self.shape is None else self.urgency - 1
