"""The worker's pulse: a thread that sends heartbeats, reports progress and learns of cancellation while the device is busy.

It also notices a stalled job, such as one in a call that never returns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from promptreel.errors import TEMPORARY, JobCancelled, JobLost
from promptreel.jobs.job import Claim, JobStage
from promptreel.jobs.store import JobStore
from promptreel.logs import Seldom

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
PRESENCE_SECONDS = 10.0
LONGEST_BEAT_SECONDS = 5.0
"""The most that one beat adds to a job's silence: after a longer pause, the whole process was suspended, not the job."""
PATIENCE = 10.0
"""A job may be silent for this multiple of the longest silence so far, if that exceeds the setting."""


class WorkerStopping(Exception):
    """Raised inside a running job when the worker must stop: the job goes back to the queue."""


class GiveWay(Exception):
    """Raised inside a long job so that others get their turn: it goes back to the queue, and waits there as long as is said."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Hold:
    """A claimed job. The pulse thread and the job's thread both write it, but never the same field."""

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
        """Inside the block, the job must report progress regularly, or it counts as stalled."""
        self._is_watched = True
        try:
            yield
        finally:
            self._is_watched = False

    def grow_silent(self, seconds: float) -> float:
        """Called at each beat with the seconds since the last. Returns the length of a silence that has just ended, else 0."""
        ended = 0.0
        if not self._is_watched or self._signs != self._signs_seen:
            ended, self.silent_seconds = self.silent_seconds, 0.0
        else:
            self.silent_seconds += seconds
        self._signs_seen = self._signs
        return ended

    def on_progress(self, stage: JobStage, share: float) -> None:
        """Notes the job's progress. Raises JobCancelled, JobLost or WorkerStopping when the job must stop.

        Called between any two calls to the model, and regularly while the job waits for others. If heartbeats have failed for
        two thirds of the lease, raises JobLost, so that this worker stops before another one may claim the job.
        """
        # Each later stage counts its share from 0. Progress must not fall, or the ETA would rise near the end.
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
    """Sends a heartbeat once a second for every claimed job."""

    def __init__(
        self,
        jobs: JobStore,
        *,
        lease_seconds: float,
        stop: threading.Event,
        announce: Callable[[], None],
        news: Callable[[], object] = lambda: None,
        beat_seconds: float = BEAT_SECONDS,
        stall_seconds: float = float("inf"),
        on_stall: Callable[[Hold], None] = lambda _hold: None,
    ) -> None:
        """`news`: what `announce` tells; a change of it is announced at the next beat.

        `on_stall` is called once, with a job that was silent for `stall_seconds`, or for longer if PATIENCE allows it.
        """
        self._jobs = jobs
        self._stall_seconds = stall_seconds
        self._on_stall = on_stall
        self._silence_seconds = lease_seconds * 2 / 3
        self._beat_seconds = min(beat_seconds, lease_seconds / 6)
        self._stop = stop
        self._announce = announce
        self._news = news
        self._presented: tuple[float, object] = (float("-inf"), None)
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
        """Renews the claim's lease while the block runs."""
        hold = Hold(claim, silence_seconds=self._silence_seconds, stop=self._stop)
        with self._changing:
            self._holds |= {hold}
        try:
            yield hold
        finally:
            with self._changing:
                self._holds -= {hold}

    def _run(self) -> None:
        beat = time.monotonic()
        while not self._ended.wait(self._beat_seconds):
            beat, passed = time.monotonic(), time.monotonic() - beat
            try:
                self.watch(min(passed, LONGEST_BEAT_SECONDS))
                self.present(time.monotonic())
                for hold in self._holds:
                    self._beat(hold)
            except TEMPORARY as temporary:
                self._seldom.warning("the worker cannot renew its leases: %s", temporary)
            except Exception:  # the thread must survive a database outage
                log.exception("the worker could not reach the job table")

    def present(self, now: float) -> None:
        """Called at each beat with the time in seconds. Announces the worker, unless it was lately and has no news."""
        announced, told = self._presented
        news = self._news()
        if now - announced >= PRESENCE_SECONDS or news != told:
            self._announce()
            self._presented = (now, news)

    def watch(self, passed: float) -> None:
        """Called at each beat. Calls `on_stall` for a job that was silent for too long, as the beats count it."""
        for hold in self._holds:
            self._stall_seconds = max(self._stall_seconds, PATIENCE * hold.grow_silent(passed))
        silent = [hold for hold in self._holds if hold.silent_seconds > self._stall_seconds]
        if silent:  # the other silent jobs wait for the first
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
            # If the worker itself has just finished the job, nothing reads this any more.
            hold.lost = True
