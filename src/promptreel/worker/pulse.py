"""The worker's pulse: a thread that proves it alive, reports progress and hears of cancellation while the device is busy.

It also notices a job that stands still while the thread itself beats on: a call that never returns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from promptreel.errors import PASSING, JobCancelled, JobLost
from promptreel.jobs.job import Claim, JobStage
from promptreel.jobs.store import JobStore
from promptreel.logs import Seldom

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
PRESENCE_SECONDS = 10.0
LONGEST_BEAT_SECONDS = 5.0
"""A longer pause between two beats was no silence of a job: the whole process stood still."""
PATIENCE = 10.0
"""A job may be silent this many times as long as any was so far, if that is longer than the setting says."""


class WorkerStopping(Exception):
    """Raised inside a running job when the worker was asked to stop: the job goes back to the queue."""


class Hold:
    """A job in hand. Written by the pulse thread and by the job's own, each field by one of them only."""

    def __init__(self, claim: Claim, *, silence_seconds: float, stop: threading.Event) -> None:
        self.claim = claim
        self.proven_at = time.monotonic()
        self.stage = JobStage.LOADING
        self.progress = 0.0
        self.reported: tuple[JobStage, float] | None = None
        self.cancel_requested = False
        self.lost = False
        self.silent_seconds = 0.0
        self.signed_at = time.monotonic()
        self._silence_seconds = silence_seconds
        self._stop = stop
        self._is_watched = False
        self._signs = self._signs_seen = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside the block the job must make progress now and then."""
        self._is_watched = True
        try:
            yield
        finally:
            self._is_watched = False

    def grow_silent(self, seconds: float) -> float:
        """Called at each beat with the time since the last one. Returns the length of a silence that has ended, else 0."""
        ended = 0.0
        if not self._is_watched or self._signs != self._signs_seen:
            ended, self.silent_seconds = self.silent_seconds, 0.0
        else:
            self.silent_seconds += seconds
        self._signs_seen = self._signs
        return ended

    def on_progress(self, stage: JobStage, share: float) -> None:
        """Notes where the job is; raises JobCancelled, JobLost or WorkerStopping when it must not go on.

        Called between any two calls to the model, and now and then while the job waits for others. A worker that could not
        prove itself alive for two thirds of its lease so stops its job by itself, before another worker may start it.
        """
        # The later stages count their own share from 0, but a job never goes back: its ETA would rise at the very end.
        self.stage, self.progress = stage, max(self.progress, share)
        self._signs += 1
        self.signed_at = time.monotonic()
        if self.lost or time.monotonic() - self.proven_at > self._silence_seconds:
            raise JobLost(f"job {self.claim.job_id} is no longer this worker's")
        if self.cancel_requested:
            raise JobCancelled(f"job {self.claim.job_id} was cancelled")
        if self._stop.is_set():
            raise WorkerStopping


class Pulse:
    """Beats once a second for every job in hand."""

    def __init__(
        self,
        jobs: JobStore,
        *,
        lease_seconds: float,
        stop: threading.Event,
        announce: Callable[[], None],
        beat_seconds: float = BEAT_SECONDS,
        stall_seconds: float = float("inf"),
        on_stall: Callable[[Hold], None] = lambda _hold: None,
    ) -> None:
        """`on_stall` is called, once, with a job that was silent for `stall_seconds`, or longer where others took longer."""
        self._jobs = jobs
        self._stall_seconds = stall_seconds
        self._on_stall = on_stall
        self._silence_seconds = lease_seconds * 2 / 3
        self._beat_seconds = min(beat_seconds, lease_seconds / 6)
        self._stop = stop
        self._announce = announce
        self._seldom = Seldom(log)
        self._holds: frozenset[Hold] = frozenset()
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def hold(self, claim: Claim) -> Iterator[Hold]:
        """Keeps the claim alive inside the block."""
        hold = Hold(claim, silence_seconds=self._silence_seconds, stop=self._stop)
        with self._changing:
            self._holds |= {hold}
        try:
            yield hold
        finally:
            with self._changing:
                self._holds -= {hold}

    def _run(self) -> None:
        announced = -PRESENCE_SECONDS
        beat = time.monotonic()
        while not self._ended.wait(self._beat_seconds):
            beat, passed = time.monotonic(), time.monotonic() - beat
            try:
                self.watch(min(passed, LONGEST_BEAT_SECONDS))
                if time.monotonic() - announced >= PRESENCE_SECONDS:
                    self._announce()
                    announced = time.monotonic()
                for hold in self._holds:
                    self._beat(hold)
            except PASSING as passing:
                self._seldom.warning("the worker cannot renew its leases: %s", passing)
            except Exception:  # the database may be away for a while: the thread must outlive that
                log.exception("the worker could not reach the job table")

    def watch(self, passed: float) -> None:
        """Called at each beat: notices a job that is silent for too long, counted in beats."""
        for hold in self._holds:
            self._stall_seconds = max(self._stall_seconds, PATIENCE * hold.grow_silent(passed))
        silent = [hold for hold in self._holds if hold.silent_seconds > self._stall_seconds]
        if silent:  # others wait for the one that fell silent first
            self._stall_seconds = float("inf")
            self._on_stall(min(silent, key=lambda hold: hold.signed_at))

    def _beat(self, hold: Hold) -> None:
        try:
            asked_at = time.monotonic()  # the lease counts from before the flush
            hold.cancel_requested = self._jobs.heartbeat(hold.claim)
            hold.proven_at = asked_at
            now = (hold.stage, round(hold.progress, 3))
            if now != hold.reported:
                self._jobs.report(hold.claim, stage=now[0], progress=now[1])
                hold.reported = now
        except JobLost:
            # The job may just have been finished by the worker itself: then nobody looks at this any more.
            hold.lost = True
