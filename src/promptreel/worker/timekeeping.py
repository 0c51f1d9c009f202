"""Divides a worker's time among its running jobs, and a job's time among its stages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from promptreel.jobs.job import JobStage, OnProgress


class SharedTime:
    """A worker's time, divided equally among the jobs running at each moment.

    So the jobs' times add up to the worker's time, and running jobs together makes none of them look slower. Estimates rely on
    this: they learn from these times, and add jobs up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changing = threading.Lock()
        self._jobs = 0
        self._read_at = clock()
        self._passed = 0.0

    @contextmanager
    def divide(self) -> Iterator[None]:
        """Counts one more running job inside the block."""
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def now(self) -> float:
        """The shared clock in seconds: a job is charged with the difference between two readings."""
        return self._change(0)

    def _change(self, jobs: int) -> float:
        with self._changing:
            now = self._clock()
            self._passed += (now - self._read_at) / max(1, self._jobs)
            self._read_at = now
            self._jobs += jobs
            return self._passed


class StageClock:
    """Passes progress on, and measures the seconds of each stage."""

    def __init__(self, on_progress: OnProgress, clock: Callable[[], float] = time.monotonic) -> None:
        self._pass_on = on_progress
        self._clock = clock
        self._entered: list[tuple[JobStage, float]] = []

    def on_progress(self, stage: JobStage, share: float) -> None:
        if not self._entered or self._entered[-1][0] != stage:
            self._entered.append((stage, self._clock()))
        self._pass_on(stage, share)

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, up to now."""
        ends = [entered for _, entered in self._entered[1:]] + [self._clock()]
        return {str(stage): round(end - start, 3) for (stage, start), end in zip(self._entered, ends, strict=True)}
