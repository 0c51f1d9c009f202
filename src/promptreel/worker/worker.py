"""The worker: claims jobs and runs them. Jobs of loaded models run at the same time; those of one model share its calls."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from promptreel.errors import TEMPORARY, DeviceLost, DiskFull, GenerationFailed, JobCancelled, JobLost, PromptreelError
from promptreel.generation.engine import Engine
from promptreel.jobs.job import AnyJob, Claim, Result
from promptreel.jobs.kinds import Params
from promptreel.jobs.store import JobStore
from promptreel.jobs.worker_records import WorkerRecord
from promptreel.logs import Seldom
from promptreel.models.registry import DEFAULT_MODEL_ID
from promptreel.storage.local import LocalStorage
from promptreel.worker.pulse import GiveWay, Hold, Pulse, WorkerStopping
from promptreel.worker.recipes.recipe import Recipe
from promptreel.worker.room import Room, return_freed_memory
from promptreel.worker.timekeeping import SharedTime

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
RETRY_SECONDS = 1.0
"""The wait before another try, after an error of the job table."""
STALLED_CODE = 70
"""The exit status when a job has stalled (EX_SOFTWARE)."""


@dataclass(frozen=True)
class RunningJob:
    """A job, its memory as its recipe estimates it, and its thread's future."""

    job: AnyJob
    bytes: int
    done: Future[None]


class Worker:
    """Runs jobs on one device until `stop` is set. Then running jobs return to the queue, before their next call to the model.

    Each job runs in its own thread, by the recipe of its kind. The engine batches the jobs' calls to the model.

    If the device fails, the worker ends with DeviceLost. A job that met the error stays claimed, as if the worker had died: the
    supervisor or the lease frees it, and it loses a life.

    One job that uses no device may run beside the others, whatever their model.
    """

    def __init__(  # noqa: PLR0913 - one parameter per part
        self,
        *,
        owner: str,
        jobs: JobStore,
        engine: Engine,
        recipes: Mapping[str, Recipe[Any]],
        storage: LocalStorage,
        lease_seconds: float,
        room: Room,
        stop: threading.Event,
        stall_seconds: float = float("inf"),
    ) -> None:
        """`recipes` maps each job kind to its recipe. The worker claims only jobs of these kinds.

        If a job makes no progress for `stall_seconds`, the whole process ends, because a thread cannot be killed.
        """
        self.owner = owner
        self.jobs = jobs
        self.engine = engine
        self.recipes = recipes
        self.storage = storage
        self.room = room
        self.stop = stop
        self.running: list[RunningJob] = []
        self.device_lost: DeviceLost | None = None
        self.seconds_per_unit: float | None = None
        self.time = SharedTime()
        self.seldom = Seldom(log)
        self.end_process: Callable[[int], object] = os._exit
        self.pulse = Pulse(
            jobs,
            lease_seconds=lease_seconds,
            stop=stop,
            announce=self.announce,
            news=self.list_loaded,
            stall_seconds=stall_seconds,
            on_stall=self.give_up,
        )

    @property
    def aside(self) -> frozenset[str]:
        """The kinds of job that use no device."""
        return frozenset(kind for kind, recipe in self.recipes.items() if not recipe.uses_device)

    def run(self, *, on_warm: Callable[[], object] = lambda: None) -> None:
        """Calls `on_warm` before the first claim. Until then the worker has no jobs, so killing it does no harm."""
        self.warm_up()
        on_warm()
        self.startup()
        try:
            self.main_loop()
        finally:
            self.shutdown()
        if self.device_lost is not None:
            raise self.device_lost

    def warm_up(self) -> None:
        """Loads the built-in model and times one call. So the first job need not wait, and has a measured ETA."""
        started = time.perf_counter()
        log.info("worker %s is loading %s on %s", self.owner, DEFAULT_MODEL_ID, self.engine.device)
        self.engine.load(DEFAULT_MODEL_ID)
        log.info("worker %s loaded the model in %.1f s, and is timing a call", self.owner, time.perf_counter() - started)
        self.seconds_per_unit = self.engine.measure(DEFAULT_MODEL_ID)
        log.info("worker %s is warm after %.1f s", self.owner, time.perf_counter() - started)

    def startup(self) -> None:
        try:
            self.announce()
        except TEMPORARY as temporary:  # the pulse tries again
            log.warning("worker %s cannot register yet: %s", self.owner, temporary)
        self.pulse.start()
        log.info("worker %s is ready on %s", self.owner, self.engine.device)

    def main_loop(self) -> None:
        with ThreadPoolExecutor(self.room.jobs + 1, thread_name_prefix="job") as threads:
            while not self.stop.is_set():
                self.running = [each for each in self.running if not each.done.done()]
                claimed = self._claim_next()
                if claimed is None:
                    self.stop.wait(POLL_SECONDS)
                else:
                    job = claimed[1]
                    self.running.append(RunningJob(job, self._estimate_bytes(job.params), threads.submit(self.work, *claimed)))

    def _claim_next(self) -> tuple[Claim, AnyJob] | None:
        """Claims a job that can run beside the running ones, if there is one.

        A job that has crashed a worker runs alone afterwards. If it crashes this worker too, no other job loses a life.
        """
        on_device = [each.job for each in self.running if each.job.kind not in self.aside]
        if any(each.job.crashes for each in self.running):
            return None
        kinds = set(self.recipes) if len(on_device) < self.room.jobs else set(self.aside)
        if len(on_device) < len(self.running):
            kinds -= self.aside
        if not kinds:
            return None
        beside = on_device[0].params if on_device else None
        is_busy = bool(self.running)
        try:
            return self.jobs.claim(
                self.owner,
                kinds=kinds,
                beside=beside,
                aside=self.aside,
                is_busy=is_busy,
                loaded=[models.name for models in self.engine.residency.list_loaded()],
                fits=self._has_room,
            )
        except TEMPORARY as temporary:  # the running jobs go on
            self.seldom.warning("no job could be claimed: %s", temporary)
            self.stop.wait(RETRY_SECONDS)
            return None

    def _has_room(self, params: Params) -> bool:
        """Whether a job fits into memory beside the running ones. It always does if no other uses the device, or if it does
        not use the device itself.
        """
        on_device = [each for each in self.running if each.job.kind not in self.aside]
        if not on_device or params.kind in self.aside:
            return True
        return sum(each.bytes for each in self.running) + self._estimate_bytes(params) <= self.room.memory

    def _estimate_bytes(self, params: Params) -> int:
        return self.recipes[params.kind].estimate_bytes(params)

    def give_up(self, stalled: Hold) -> None:
        """Ends the process because a job has stalled. That job loses a life; the others lose none."""
        log.error(
            "job %d made no progress for %.0f s (%s): this worker ends, and the job is retried if it has lives left",
            stalled.claim.job_id,
            stalled.silent_seconds,
            stalled.stage,
        )
        self.stop.set()  # claims no more jobs
        try:
            self.jobs.end_stalled(stalled.claim)
        except Exception:  # the supervisor frees the jobs, or their leases run out
            log.exception("the end of this worker could not be written to the job table")
        finally:
            self.end_process(STALLED_CODE)

    def shutdown(self) -> None:
        self.pulse.end()
        log.info("worker %s stopped", self.owner)

    def list_loaded(self) -> tuple[str, ...]:
        """The ids of all loaded models, sorted."""
        return tuple(sorted({model_id for models in self.engine.residency.list_loaded() for model_id in models.ids}))

    def announce(self) -> None:
        record = WorkerRecord(
            id=self.owner,
            device=str(self.engine.device),
            seconds_per_unit=self.seconds_per_unit,
            loaded=self.list_loaded(),
        )
        self.jobs.record_worker(record)

    def work(self, claim: Claim, job: AnyJob) -> None:
        """Runs one job, and records how it ended. Raises nothing, so no job can end the worker's main loop."""
        log.info("job %d started, attempt %d", job.id, claim.attempt)
        try:
            shares_time = self.time.divide() if self.recipes[job.kind].uses_device else nullcontext()
            with self.pulse.hold(claim) as hold, shares_time:
                self._run(hold, job)
        except JobLost as lost:
            log.warning("job %d: %s", job.id, lost)
        except Exception:  # its lease runs out, and another worker claims it
            log.exception("the end of job %d could not be written to the job table", job.id)
        finally:
            return_freed_memory()

    def _run(self, hold: Hold, job: AnyJob) -> None:
        claim = hold.claim
        try:
            with hold.watched():
                recipe = self.recipes[job.kind]
                time_shared = self.time.now if recipe.uses_device else time.monotonic
                result = recipe.run(job, claim, on_progress=hold.on_progress, time_shared=time_shared)
        except JobCancelled as cancelled:
            self._cancel(claim, cancelled)
        except GiveWay as turn:
            wait_seconds = turn.seconds
            self._record(claim, lambda: self.jobs.give_back(claim, wait_seconds=wait_seconds))
            log.info("job %d gives way to others for %.0f s", job.id, wait_seconds)
        except WorkerStopping:
            self._record(claim, lambda: self.jobs.give_back(claim))
            log.info("job %d given back to the queue", job.id)
        except DeviceLost as lost:
            log.error("job %d: %s", job.id, lost, exc_info=lost)  # noqa: TRY400 - the traceback is passed
            self.device_lost = lost
            self.stop.set()  # the other jobs return to the queue
        except DiskFull as full:
            self._put_off(claim, full.code, full.message)
            log.warning("job %d is put off: %s", job.id, full)
        except PromptreelError as error:
            self._fail(claim, error.code, error.message)
            log.warning("job %d failed: %s", job.id, error)
        except JobLost:
            raise
        except Exception:  # a bug that one job meets must not end the worker
            log.exception("job %d failed unexpectedly", job.id)
            self._fail(claim, GenerationFailed.code, "Something went wrong inside the worker. Its log has the details.")
        else:
            self._publish(claim, job, result)

    def _publish(self, claim: Claim, job: AnyJob, result: Result) -> None:
        """Marks the job as succeeded. If another attempt has taken over, deletes this attempt's file and raises JobLost."""
        try:
            self._record(claim, lambda: self.jobs.finish(claim, result, busy_seconds=result.facts["busy_seconds"]))
        except JobLost:
            self.storage.delete(result.key)
            raise
        except PromptreelError as error:  # of what the result writes, such as a model whose id was taken meanwhile
            self.storage.delete(result.key)
            self._fail(claim, error.code, error.message)
            log.warning("job %d failed: %s", job.id, error)
            return
        log.info("job %d succeeded: %s", job.id, result.facts)

    def _cancel(self, claim: Claim, cancelled: JobCancelled) -> None:
        try:
            self._record(claim, lambda: self.jobs.acknowledge_cancel(claim, write=cancelled.write))
        except PromptreelError as error:
            log.warning("job %d: what it had made could not be kept: %s", claim.job_id, error)
            self._record(claim, lambda: self.jobs.acknowledge_cancel(claim))
        log.info("job %d cancelled", claim.job_id)

    def _fail(self, claim: Claim, code: str, message: str) -> None:
        self._record(claim, lambda: self.jobs.fail(claim, code=code, message=message))

    def _put_off(self, claim: Claim, code: str, message: str) -> None:
        self._record(claim, lambda: self.jobs.put_off(claim, code=code, message=message))

    def _record(self, claim: Claim, write: Callable[[], object]) -> None:
        """Calls `write` until the job table accepts it. Raises JobLost if another worker has the job by then."""
        while True:
            try:
                write()
            except TEMPORARY as temporary:
                self.seldom.warning("the end of job %d cannot be written to the job table yet: %s", claim.job_id, temporary)
                time.sleep(RETRY_SECONDS)
            else:
                return
