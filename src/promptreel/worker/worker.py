"""The worker: claims jobs and runs them, several at once where they can share the device. One process for each device."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from promptreel.errors import DatabaseBusy, GenerationFailed, JobCancelled, JobLost, PromptreelError
from promptreel.generation.engine import Engine
from promptreel.jobs.job import Claim, Job, Result
from promptreel.jobs.store import JobStore, WorkerRecord
from promptreel.models.registry import DEFAULT_MODEL_ID
from promptreel.storage.local import LocalStorage
from promptreel.worker.pulse import Hold, Pulse, WorkerStopping
from promptreel.worker.video_job import SharedTime, run_video_job

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05


class Worker:
    """Runs until `stop` is set; jobs that are running then go back to the queue, between two calls to the model.

    Each job runs in its own thread, from its parameters to its file; the engine shares the model's calls between them.
    """

    def __init__(
        self,
        *,
        owner: str,
        jobs: JobStore,
        engine: Engine,
        storage: LocalStorage,
        scratch: Path,
        lease_seconds: float,
        jobs_at_once: int,
        stop: threading.Event,
    ) -> None:
        self.owner = owner
        self.jobs = jobs
        self.engine = engine
        self.storage = storage
        self.scratch = scratch
        self.jobs_at_once = jobs_at_once
        self.stop = stop
        self.live: list[tuple[Job, Future[None]]] = []
        self.seconds_per_unit: float | None = None
        self.time = SharedTime()
        self.pulse = Pulse(jobs, lease_seconds=lease_seconds, stop=stop, announce=self.announce)

    def run(self) -> None:
        self.startup()
        try:
            self.main_loop()
        finally:
            self.shutdown()

    def startup(self) -> None:
        """Loads the built-in model and times one call, so that the first request finds it warm and its ETA measured."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.seconds_per_unit = self.engine.measure(DEFAULT_MODEL_ID)
        self.announce()
        self.pulse.start()
        log.info("worker %s is ready on %s", self.owner, self.engine.device)

    def main_loop(self) -> None:
        with ThreadPoolExecutor(self.jobs_at_once, thread_name_prefix="job") as threads:
            while not self.stop.is_set():
                self.live = [(job, future) for job, future in self.live if not future.done()]
                taken = self._take_next()
                if taken is None:
                    self.stop.wait(POLL_SECONDS)
                else:
                    self.live.append((taken[1], threads.submit(self.work, *taken)))

    def _take_next(self) -> tuple[Claim, Job] | None:
        """A job that can run beside those that are live, if there is one.

        A job that took a worker down with it before runs alone from then on, so that it cannot do so to others again.
        """
        beside = None
        if self.live:
            job = self.live[0][0]
            if len(self.live) == self.jobs_at_once or job.crashes:
                return None
            beside = job.params.model_id
        try:
            return self.jobs.claim(self.owner, beside=beside)
        except DatabaseBusy as busy:  # the jobs in hand go on
            log.warning("no job could be claimed: %s", busy)
            return None

    def shutdown(self) -> None:
        self.pulse.end()
        log.info("worker %s stopped", self.owner)

    def announce(self) -> None:
        record = WorkerRecord(
            id=self.owner,
            device=str(self.engine.device),
            seconds_per_unit=self.seconds_per_unit,
            last_seen=datetime.now(UTC),
        )
        self.jobs.record_worker(record)

    def work(self, claim: Claim, job: Job) -> None:
        """Runs one job to its end, whatever that is; no error of a job ends the worker."""
        log.info("job %d started, attempt %d", job.id, claim.attempt)
        try:
            with self.pulse.hold(claim) as hold, self.time.divide():
                self._run(hold, job)
        except JobLost as lost:
            log.warning("job %d: %s", job.id, lost)
        except Exception:  # its lease runs out, and another worker takes it
            log.exception("job %d: the job table could not be told how it ended", job.id)

    def _run(self, hold: Hold, job: Job) -> None:
        claim = hold.claim
        try:
            result = run_video_job(
                job,
                claim,
                engine=self.engine,
                storage=self.storage,
                scratch=self.scratch,
                on_progress=hold.on_progress,
                time_shared=self.time.now,
            )
        except JobCancelled:
            self._tell(claim, lambda: self.jobs.acknowledge_cancel(claim))
            log.info("job %d cancelled", job.id)
        except WorkerStopping:
            self._tell(claim, lambda: self.jobs.give_back(claim))
            log.info("job %d given back to the queue", job.id)
        except PromptreelError as error:
            self._fail(claim, error.code, error.message)
            log.warning("job %d failed: %s", job.id, error)
        except JobLost:
            raise
        except Exception:  # one job's bug must not end the worker
            log.exception("job %d failed for a reason nobody expected", job.id)
            self._fail(claim, GenerationFailed.code, "Something went wrong inside the worker; its log says what.")
        else:
            self._publish(claim, job, result)

    def _publish(self, claim: Claim, job: Job, result: Result) -> None:
        """Makes the result visible; when another attempt has taken over, this one's file is removed again."""
        try:
            self._tell(claim, lambda: self.jobs.finish(claim, result, busy_seconds=result.facts["busy_seconds"]))
        except JobLost:
            self.storage.delete(result.key)
            raise
        log.info("job %d succeeded: %s", job.id, result.facts)

    def _fail(self, claim: Claim, code: str, message: str) -> None:
        self._tell(claim, lambda: self.jobs.fail(claim, code=code, message=message))

    def _tell(self, claim: Claim, how_it_ended: Callable[[], object]) -> None:
        """Writes a job's end down, however long the job table is locked. Raises JobLost once another worker has the job."""
        while True:
            try:
                how_it_ended()
            except DatabaseBusy as busy:
                log.warning("job %d has ended, and the job table cannot be told yet: %s", claim.job_id, busy)
            else:
                return
