"""What jobs took: how a worker's time is divided among the jobs that it has in hand, and a job's among its stages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from promptreel.jobs.job import JobStage, OnProgress


class SharedTime:
    """A worker's time as its jobs are charged with it: a second in which several were in hand is divided among them.

    So what all jobs took adds up to what the worker took, and a job is no dearer for having had company: estimates, which
    add jobs up, learn from it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changing = threading.Lock()
        self._jobs = 0
        self._read_at = clock()
        self._passed = 0.0

    @contextmanager
    def divide(self) -> Iterator[None]:
        """Inside the block, one job more is in hand."""
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def now(self) -> float:
        """Seconds that each job in hand was charged with so far."""
        return self._change(0)

    def _change(self, jobs: int) -> float:
        with self._changing:
            now = self._clock()
            self._passed += (now - self._read_at) / max(1, self._jobs)
            self._read_at = now
            self._jobs += jobs
            return self._passed


class StageClock:
    """Passes progress on and adds up the seconds that each stage took."""

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
