"""Step-level batching: between any two forwards of the network, requests join and leave.

Each request runs its sampler in its own thread and asks here for one forward at a time. One thread runs the forwards: when
every seated request waits for its next one, it picks those that go together, and each gets the bits it would get alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from promptreel.generation.compute import serial_arithmetic
from promptreel.generation.families.animatediff import LoadedCheckpoint
from promptreel.generation.row_plan import ROW_COUNTS, Forward, RowPlan, measure_row_plan

log = logging.getLogger(__name__)

Shape = tuple[object, ...]


@dataclass(frozen=True)
class Rows:
    """What one request needs computed next.

    `latents` [B, C, T, h, w], `timesteps` [B], `text` [B, tokens, width]; B is 2 for a guided call, 1 for an unguided one.
    `remaining` counts the forwards that the request still has to make, this one included.
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


class Seat:
    """One request's place in the batch. `device_seconds` is its share of the forwards' time so far."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._outcome: Tensor | BaseException | None = None
        self.pending: Rows | None = None
        self.waited = 0
        self.device_seconds = 0.0

    def forward(self, rows: Rows) -> Tensor:
        """The network's output for the rows, like `rows.latents`; waits for its turn. Raises what the network raised."""
        with self._changed:
            self._outcome, self.pending = None, rows
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._outcome is not None)
            outcome = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None
        return outcome

    def settle(self, outcome: Tensor | BaseException) -> None:
        """Called by the thread that runs the forwards."""
        with self._changed:
            self._outcome, self.pending = outcome, None
            self._changed.notify_all()

    @property
    def urgency(self) -> int:
        """The lower, the sooner: fewest calls left first, so that a short job passes a long one.

        Each forward that a request had to watch counts as one call less, so that no stream of short jobs holds a long one up
        for more than its own length.
        """
        assert self.pending is not None
        return self.pending.remaining - self.waited


class StepBatcher:
    """Runs the forwards of all seated requests; its thread lives while somebody is seated."""

    def __init__(self, plan_rows: Callable[[Forward], RowPlan] = measure_row_plan) -> None:
        self._plan_rows = plan_rows
        self._changed = threading.Condition()
        self._seats: list[Seat] = []
        self._thread: threading.Thread | None = None
        self._plans: dict[Shape, RowPlan] = {}

    @contextmanager
    def seat(self) -> Iterator[Seat]:
        """A place for one request while it denoises."""
        seat = Seat(self._changed)
        with self._changed:
            self._seats.append(seat)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="forwards", daemon=True)
                self._thread.start()
        try:
            yield seat
        finally:
            with self._changed:
                self._seats.remove(seat)
                self._changed.notify_all()

    def plan(self, rows: Rows) -> RowPlan:
        """How rows of this shape may share a forward; measured when it is first asked for."""
        if rows.shape not in self._plans:
            self._plans[rows.shape] = self._plan_rows(_probe(rows))
            size = "x".join(map(str, rows.latents.shape[2:]))
            log.info("%s at %s latents: %s", rows.checkpoint.card.model_id, size, self._plans[rows.shape])
        return self._plans[rows.shape]

    def _run(self) -> None:
        with serial_arithmetic():  # the networks themselves run in the compute thread
            while group := self._next_group():
                self._forward(group)

    def _next_group(self) -> list[tuple[Seat, Rows]]:
        """Waits until all requests have asked, and picks those of the next forward; none when nobody is seated any more."""
        with self._changed:
            self._changed.wait_for(lambda: all(seat.pending for seat in self._seats))
            if not self._seats:
                self._thread = None
                return []
            waiting = [(seat, seat.pending) for seat in sorted(self._seats, key=lambda seat: seat.urgency) if seat.pending]
        group = self._choose(waiting)
        chosen = {id(seat) for seat, _ in group}
        for seat, _ in waiting:
            seat.waited += id(seat) not in chosen
        return group

    def _choose(self, waiting: list[tuple[Seat, Rows]]) -> list[tuple[Seat, Rows]]:
        """The most urgent request, and those after it that may share its forward."""
        first = waiting[0]
        alike = [(seat, rows) for seat, rows in waiting if rows.shape == first[1].shape]
        if len(alike) == 1:
            return [first]
        plan = self.plan(first[1])
        if len(first[1].latents) == 1 and not plan.single_agrees:
            return [first]
        group: list[tuple[Seat, Rows]] = []
        free = plan.most
        for seat, rows in alike:
            needed = len(rows.latents)
            if needed <= free and (needed > 1 or plan.single_agrees):
                group.append((seat, rows))
                free -= needed
        return group

    def _forward(self, group: list[tuple[Seat, Rows]]) -> None:
        started = time.monotonic()
        try:
            outputs = self._compute([rows for _, rows in group])
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the requests, not to this thread
            if len(group) == 1:
                group[0][0].settle(error)
                return
            for member in group:  # so that only those fail that would fail alone
                self._forward([member])
            return
        seconds = (time.monotonic() - started) / sum(len(rows.latents) for _, rows in group)
        for (seat, rows), output in zip(group, outputs, strict=True):
            seat.device_seconds += seconds * len(rows.latents)
            seat.settle(output)

    def _compute(self, group: list[Rows]) -> list[Tensor]:
        """One forward over all rows of the group, filled up with copies of the first row to an allowed number of rows."""
        counts = [len(rows.latents) for rows in group]
        total = sum(counts)
        plan = self._plans.get(group[0].shape, RowPlan())
        extra = plan.row_count_for(total) - total
        latents, timesteps, text = (
            torch.cat([*parts, *[parts[0][:1]] * extra])
            for parts in zip(*((rows.latents, rows.timesteps, rows.text) for rows in group), strict=True)
        )
        output = group[0].checkpoint.denoise(latents, timesteps, text)
        return list(output[:total].split(counts))


def _probe(rows: Rows) -> Forward:
    """A forward over made-up rows of the same shape, each unlike the others."""
    count = ROW_COUNTS[-1]
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((count, *rows.latents.shape[1:]), generator=generator)
    text = torch.randn((count, *rows.text.shape[1:]), generator=generator)
    timesteps = torch.linspace(1, 900, count)

    def forward(chosen: list[int]) -> Tensor:
        return rows.checkpoint.denoise(latents[chosen], timesteps[chosen], text[chosen])

    return forward
