"""`promptreel train` on this machine: queues the training in the data directory, and does it unless a service does."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from promptreel.bootstrap import (
    build_database_of_service,
    build_jobs,
    build_models,
    build_storage,
    build_worker,
    check_worker_extra,
    is_served,
    new_owner,
)
from promptreel.commands.terminal import progress_bar, tell
from promptreel.commands.trainings import POLL_SECONDS, FoundExample, Look, follow
from promptreel.encoding.decoder import Decoder
from promptreel.errors import InitUnusable, JobFailed, StorageFailed
from promptreel.jobs.job import Job, JobStatus, NewJob, TrainingJob
from promptreel.jobs.store import JobStore
from promptreel.jobs.training_params import TrainingParams, training_units
from promptreel.settings import Settings
from promptreel.storage.local import LocalStorage
from promptreel.supervisor import Stop
from promptreel.training.examples import Gatherer, SentExample, delete_examples
from promptreel.training.plan import Plan, Wanted, check_number, plan_training

PATIENCE_SECONDS = 120.0
"""How long the worker may take to stop."""


def train_here(
    wanted: Mapping[str, Any], examples: Sequence[FoundExample], settings: Settings, *, field: str, output: Path | None
) -> str:
    """Returns the id of the model."""
    served = is_served(settings)
    if not served:
        check_worker_extra(instead="Or have a server train it: --server URL.")
    database = build_database_of_service(settings)
    jobs, storage = build_jobs(settings, database), build_storage(settings)
    plan = plan_training(
        Wanted(**wanted),
        build_models(settings, database),
        captions=[example.caption for example in examples],
        is_making=partial(jobs.is_making, kind=TrainingParams.kind),
    )
    check_number(len(examples), plan.preset, field=field)
    tell(*plan.notes)
    job = _queue(plan, examples, jobs, storage, field=field)
    here = Here(job.params.model_id, job.id, jobs, storage)
    target = output or Path(f"{here.model_id}-samples")
    with progress_bar() as show:
        if served:
            follow(here, target, show)
        else:
            with _own_worker(settings, here) as own:
                follow(here, target, show, watch=own.check)
    return here.model_id


def _queue(plan: Plan, examples: Sequence[FoundExample], jobs: JobStore, storage: LocalStorage, *, field: str) -> TrainingJob:
    file_prefix, decoder = str(uuid.uuid4()), Decoder()
    gatherer = Gatherer(
        kind=plan.preset.examples,
        shape=plan.shape,
        decoder=decoder,
        storage=storage,
        folder=file_prefix,
        most_seconds=float("inf"),
    )
    sent = [SentExample(each.path.name, each.caption, partial(_read, each.path)) for each in examples]
    try:
        kept = gatherer.gather(sent, field=field, instance_prompt=plan.params.instance_prompt)
    finally:
        decoder.close()
    params = replace(plan.params, examples=kept)
    new = NewJob(params=params, request={"notes": list(plan.notes)}, cost=training_units(params), file_prefix=file_prefix)
    try:
        return jobs.submit(new)  # type: ignore[return-value] # its params are those of a training
    except BaseException:
        delete_examples(storage, kept)
        raise


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InitUnusable(f"it cannot be read: {error.strerror}.") from error


class Here:
    """A training in this machine's data directory."""

    def __init__(self, model_id: str, job_id: int, jobs: JobStore, storage: LocalStorage) -> None:
        self.model_id = model_id
        self.job_id = job_id
        self._jobs = jobs
        self._storage = storage

    def look(self) -> Look:
        job: Job[Any] = self._jobs.get(self.job_id)
        report = job.report or {}
        step, steps, pace = report.get("step") or 0, job.params.steps, report.get("seconds_per_step")
        return Look(
            label=str(job.stage or job.status),
            percent=100 * job.progress,
            step=step,
            steps=steps,
            loss=report.get("loss"),
            eta=round((steps - step) * pace) if pace else None,
            queue_position=None,
            samples=[sample["step"] for sample in report.get("samples", ())],
            is_done=job.is_final,
            error=_why(job),
        )

    def save_sample(self, number: int, path: Path) -> None:
        data = self._storage.read((self._jobs.get(self.job_id).report or {})["samples"][number]["key"])
        if data is None:
            raise StorageFailed("A sample is gone from the data directory.")
        path.write_bytes(data)

    def cancel(self) -> None:
        self._jobs.cancel(self.job_id)
        tell(f"training {self.job_id} was cancelled")

    def wait_for_end(self) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while not self.look().is_done and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


def _why(job: Job[Any]) -> JobFailed | None:
    if job.status is JobStatus.CANCELLED:
        return JobFailed("The training was cancelled.")
    if job.status is not JobStatus.FAILED:
        return None
    error = JobFailed(job.error_message or "The training failed, and its worker could not say why.")
    error.code = job.error_code or error.code
    return error


class _OwnWorker:
    """A worker in a thread of this process, which does trainings alone."""

    def __init__(self, settings: Settings) -> None:
        self.stop = Stop()
        self.error: BaseException | None = None
        # It makes no videos, so it need not give way to those that wait in the queue.
        self._settings = settings.model_copy(update={"training_slice_seconds": float("inf")})
        self.thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def _run(self) -> None:
        try:
            build_worker(self._settings, owner=new_owner(), stop=self.stop, kinds=(TrainingParams.kind,)).run()
        except BaseException as error:  # noqa: BLE001 - raised where the training is watched
            self.error = error

    def check(self) -> None:
        """Raises what ended the worker."""
        if self.error is not None:
            raise self.error


@contextmanager
def _own_worker(settings: Settings, training: Here) -> Iterator[_OwnWorker]:
    """Ends the worker with the block; what it has not done is given back, or cancelled if that was asked for."""
    own = _OwnWorker(settings)
    own.thread.start()
    try:
        yield own
    except KeyboardInterrupt:
        training.wait_for_end()  # what was trained so far is kept
        raise
    finally:
        own.stop.because("the training has ended")
        own.thread.join(PATIENCE_SECONDS)
