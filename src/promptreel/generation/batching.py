"""Step-level batching: between any two forwards of the model, requests join and leave.

Each request runs its sampler in its own thread, and asks here for one call at a time. Other threads, one for each row thread
(compute.py), run the forwards. Each request gets the bits that it would get alone: on a CPU because each row is always a
separate forward, on a GPU because rows share a forward only if that changes no bit (row_plan.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from promptreel.generation.compute import serial_arithmetic
from promptreel.generation.families.family import GroupKey, Rows, join
from promptreel.generation.row_plan import ROW_COUNTS, Forward, RowPlan
from promptreel.generation.seat import OnWait, Part, Seat, keep_waiting

log = logging.getLogger(__name__)

GRACE_SECONDS = 0.02
GRACE_SHARE = 0.1
"""How long the batcher waits for a request between two of its calls before less urgent ones go first: GRACE_SECONDS, or this
share of a forward's time if that is longer."""


class StepBatcher:
    """Runs the forwards of all seated requests. Its threads end when no request is seated."""

    def __init__(
        self,
        plan_rows: Callable[[Forward], RowPlan] | None = None,
        *,
        row_threads: int = 1,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """`plan_rows` finds how many rows may share a forward. None: each row is a separate forward."""
        self._plan_rows = plan_rows
        self._row_threads = row_threads
        self._grace_seconds = grace_seconds
        self._changed = threading.Condition()
        self._seats: list[Seat] = []
        self._threads = 0
        self._plans: dict[GroupKey, RowPlan] = {}
        self._running: list[Sequence[Part]] = []
        self._counted_until = 0.0

    @contextmanager
    def seat(self, on_wait: OnWait = keep_waiting) -> Iterator[Seat]:
        """A place for one request while it denoises. `on_wait` is called repeatedly while others go first; it may raise."""
        seat = Seat(self._changed, on_wait, apart=self._plan_rows is None)
        with self._changed:
            seat.expected_until = time.monotonic() + self._grace_seconds
            self._seats.append(seat)
        try:
            self._start_threads()
            yield seat
        finally:
            with self._changed:
                self._seats.remove(seat)
                self._changed.notify_all()

    def plan(self, rows: Rows) -> RowPlan | None:
        """How many rows of this group may share a forward, measured on first use. None: they may not share."""
        if self._plan_rows is not None and rows.group_key not in self._plans:
            self._plans[rows.group_key] = self._plan_rows(_probe(rows))
            size = "x".join(map(str, rows.latents.shape[2:]))
            log.info("%s at %s latents: %s", rows.model.card.model_id, size, self._plans[rows.group_key])
        return self._plans.get(rows.group_key)

    def _start_threads(self) -> None:
        with self._changed:
            while self._threads < self._row_threads:
                threading.Thread(target=self._run, name="forwards", daemon=True).start()
                self._threads += 1

    def _run(self) -> None:
        with serial_arithmetic():  # the model runs in the row threads
            while (first := self._next()) is not None:
                group = [first]
                try:
                    self._fill(group)
                    self._count_watchers(group)
                    self._forward(group)
                except BaseException as error:  # noqa: BLE001 - raised in the requests; this thread must go on
                    for part in group:
                        part.seat.settle(part, error)

    def _next(self) -> Part | None:
        """Waits for a part to run and takes it. None: no request is seated."""
        with self._changed:
            while self._seats:
                ready = [seat for seat in self._seats if seat.left]
                if not ready:
                    self._changed.wait()
                    continue
                first = min(ready, key=lambda seat: (not seat.has_begun, seat.urgency))
                if (patience := self._patience(first)) > 0:
                    self._changed.wait(patience)
                    continue
                return first.take()
            self._threads -= 1
            return None

    def _patience(self, first: Seat) -> float:
        """Seconds to wait for requests that are between two calls and would go before this one, or share its forward."""
        if first.has_begun:
            return 0.0
        between = [seat for seat in self._seats if not seat.left]
        worth_it = [seat for seat in between if seat.next_urgency < first.urgency or self._may_share(seat, first)]
        return max((seat.expected_until for seat in worth_it), default=0.0) - time.monotonic()

    def _may_share(self, seat: Seat, first: Seat) -> bool:
        """Whether the next calls of the two might share a forward."""
        if self._plan_rows is None or first.group_key is None or seat.group_key not in {None, first.group_key}:
            return False
        plan = self._plans.get(first.group_key)
        return plan is None or plan.most > len(first.left[0].rows.latents)

    def _fill(self, group: list[Part]) -> None:
        """Adds to the first part those that may share its forward."""
        rows = group[0].rows
        if self._plan_rows is None or not self._find_alike(rows):
            return
        plan = self.plan(rows)
        if plan is None or (len(rows.latents) == 1 and not plan.single_agrees):
            return
        free = plan.most - len(rows.latents)
        with self._changed:
            for seat in self._find_alike(rows):
                needed = len(seat.left[0].rows.latents)
                if needed <= free and (needed > 1 or plan.single_agrees):
                    group.append(seat.take())
                    free -= needed

    def _find_alike(self, rows: Rows) -> list[Seat]:
        """The requests that ask for rows of the same shape, most urgent first."""
        with self._changed:
            alike = [seat for seat in self._seats if seat.left and seat.group_key == rows.group_key]
        return sorted(alike, key=lambda seat: seat.urgency)

    def _count_watchers(self, group: Sequence[Part]) -> None:
        """Counts a call for those that wait. Only its first part counts, so that a call counts once."""
        with self._changed:
            for seat in self._seats:
                seat.waited += group[0].begins_call and seat.is_watching

    def _forward(self, group: Sequence[Part]) -> None:
        """Runs one forward. If it fails, each of its parts is run alone, so that only those fail that would fail anyway."""
        started = time.monotonic()
        outcomes: Sequence[Tensor | Exception]
        try:
            with self._counted(group):
                outcomes = self._compute([part.rows for part in group])
        except Exception as error:  # noqa: BLE001 - raised in the requests
            if len(group) > 1:
                for part in group:
                    self._forward([part])
                return
            outcomes = [error]
        grace = max(self._grace_seconds, GRACE_SHARE * (time.monotonic() - started))
        for part, outcome in zip(group, outcomes, strict=True):
            part.seat.settle(part, outcome, grace=grace)

    @contextmanager
    def _counted(self, group: Sequence[Part]) -> Iterator[None]:
        """Charges the forward's time to its requests.

        A second is divided equally among the forwards that run at once, and then among the rows of each. So all charges
        together are the seconds in which any forward ran.
        """
        with self._changed:
            self._share_out()
            self._running.append(group)
        try:
            yield
        finally:
            with self._changed:
                self._share_out()
                self._running.remove(group)

    def _share_out(self) -> None:
        since, self._counted_until = self._counted_until, time.monotonic()
        for group in self._running:
            seconds = (self._counted_until - since) / len(self._running) / sum(len(part.rows.latents) for part in group)
            for part in group:
                part.seat.device_seconds += seconds * len(part.rows.latents)

    def _compute(self, group: Sequence[Rows]) -> list[Tensor]:
        """One forward over all rows of the group, padded to an allowed row count with copies of the first row."""
        counts = [len(rows.latents) for rows in group]
        total = sum(counts)
        plan = self._plans.get(group[0].group_key, RowPlan())
        extra = plan.row_count_for(total) - total
        padded = [*group, *[group[0].split()[0]] * extra]
        together = replace(
            group[0],
            latents=torch.cat([rows.latents for rows in padded]),
            timesteps=torch.cat([rows.timesteps for rows in padded]),
            conditioning=join([rows.conditioning for rows in padded]),
        )
        output = together.model.forward(together)
        return list(output[:total].split(counts))


def _probe(rows: Rows) -> Forward:
    """A forward over random rows of the same shape, all different."""
    count = ROW_COUNTS[-1]
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((count, *rows.latents.shape[1:]), generator=generator)
    conditioning = rows.conditioning.draw_like(count, generator)
    timesteps = torch.stack([torch.full(rows.timesteps.shape[1:], float(at)) for at in torch.linspace(1, 900, count)])

    def forward(chosen: list[int]) -> Tensor:
        return rows.model.forward(
            replace(rows, latents=latents[chosen], timesteps=timesteps[chosen], conditioning=conditioning.select(chosen))
        )

    return forward
