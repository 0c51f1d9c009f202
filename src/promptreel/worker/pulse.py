"""The worker's pulse: a thread that proves it alive, reports progress and hears of cancellation while the device is busy."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from promptreel.errors import JobCancelled, JobLost
from promptreel.jobs.job import Claim, JobStage
from promptreel.jobs.store import JobStore

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
PRESENCE_SECONDS = 10.0


class WorkerStopping(Exception):
    """Raised inside a running job when the worker was asked to stop: the job goes back to the queue."""


@dataclass
class _Held:
    """The job in hand. Written by the pulse thread and the worker, each field by one of them only."""

    claim: Claim
    proven_at: float
    stage: JobStage = JobStage.LOADING
    progress: float = 0.0
    reported: tuple[JobStage, float] | None = None
    cancel_requested: bool = False
    lost: bool = False


class Pulse:
    """Beats once a second. The worker asks `check` between any two calls to the model.

    A worker that could not prove itself alive for two thirds of its lease stops its job by itself, before another worker may
    start it.
    """

    def __init__(self, jobs: JobStore, *, lease_seconds: float, stop: threading.Event, announce: Callable[[], None]) -> None:
        self._jobs = jobs
        self._silence_seconds = lease_seconds * 2 / 3
        self._beat_seconds = min(BEAT_SECONDS, lease_seconds / 6)
        self._stop = stop
        self._announce = announce
        self._held: _Held | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def hold(self, claim: Claim) -> None:
        self._held = _Held(claim, time.monotonic())

    def release(self) -> None:
        self._held = None

    def on_progress(self, stage: JobStage, share: float) -> None:
        """Notes where the job is; raises JobCancelled, JobLost or WorkerStopping when it must not go on."""
        held = self._held
        assert held is not None
        # The later stages count their own share from 0, but a job never goes back: its ETA would rise at the very end.
        held.stage, held.progress = stage, max(held.progress, share)
        if held.lost or time.monotonic() - held.proven_at > self._silence_seconds:
            raise JobLost(f"job {held.claim.job_id} is no longer this worker's")
        if held.cancel_requested:
            raise JobCancelled(f"job {held.claim.job_id} was cancelled")
        if self._stop.is_set():
            raise WorkerStopping

    def _run(self) -> None:
        announced = -PRESENCE_SECONDS
        while not self._ended.wait(self._beat_seconds):
            try:
                if time.monotonic() - announced >= PRESENCE_SECONDS:
                    self._announce()
                    announced = time.monotonic()
                if (held := self._held) is not None:  # read once: the worker may release it meanwhile
                    self._beat(held)
            except Exception:  # the database may be away for a while: the thread must outlive that
                log.exception("the worker could not reach the job table")

    def _beat(self, held: _Held) -> None:
        try:
            held.cancel_requested = self._jobs.heartbeat(held.claim)
            held.proven_at = time.monotonic()
            now = (held.stage, round(held.progress, 3))
            if now != held.reported:
                self._jobs.report(held.claim, stage=now[0], progress=now[1])
                held.reported = now
        except JobLost:
            # The job may just have been finished by the worker itself: then nobody looks at this any more.
            held.lost = True
