"""The worker: claims jobs one at a time and runs them. One process for each device."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

from promptreel.errors import GenerationFailed, JobCancelled, JobLost, PromptreelError
from promptreel.generation.engine import Engine
from promptreel.jobs.job import Claim, Job, Result
from promptreel.jobs.store import JobStore, WorkerRecord
from promptreel.models.registry import DEFAULT_MODEL_ID
from promptreel.storage.local import LocalStorage
from promptreel.worker.pulse import Pulse, WorkerStopping
from promptreel.worker.video_job import run_video_job

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05


class Worker:
    """Runs until `stop` is set; a job that is running then goes back to the queue, between two calls to the model."""

    def __init__(
        self,
        *,
        owner: str,
        jobs: JobStore,
        engine: Engine,
        storage: LocalStorage,
        scratch: Path,
        lease_seconds: float,
        stop: threading.Event,
    ) -> None:
        self.owner = owner
        self.jobs = jobs
        self.engine = engine
        self.storage = storage
        self.scratch = scratch
        self.stop = stop
        self.seconds_per_unit: float | None = None
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
        while not self.stop.is_set():
            taken = self.jobs.claim(self.owner)
            if taken is None:
                self.stop.wait(POLL_SECONDS)
            else:
                self.work(*taken)

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
        self.pulse.hold(claim)
        try:
            self._run(claim, job)
        except JobLost as lost:
            log.warning("job %d: %s", job.id, lost)
        finally:
            self.pulse.release()

    def _run(self, claim: Claim, job: Job) -> None:
        try:
            result = run_video_job(
                job,
                claim,
                engine=self.engine,
                storage=self.storage,
                scratch=self.scratch,
                on_progress=self.pulse.on_progress,
            )
        except JobCancelled:
            self.jobs.acknowledge_cancel(claim)
            log.info("job %d cancelled", job.id)
        except WorkerStopping:
            self.jobs.give_back(claim)
            log.info("job %d given back to the queue", job.id)
        except PromptreelError as error:
            self.jobs.fail(claim, code=error.code, message=error.message)
            log.warning("job %d failed: %s", job.id, error)
        except JobLost:
            raise
        except Exception:  # one job's bug must not end the worker
            log.exception("job %d failed for a reason nobody expected", job.id)
            self.jobs.fail(
                claim, code=GenerationFailed.code, message="Something went wrong inside the worker; its log says what."
            )
        else:
            self._publish(claim, job, result)

    def _publish(self, claim: Claim, job: Job, result: Result) -> None:
        """Makes the result visible; when another attempt has taken over, this one's file is removed again."""
        try:
            self.jobs.finish(claim, result)
        except JobLost:
            self.storage.delete(result.key)
            raise
        log.info("job %d succeeded: %s", job.id, result.facts)
