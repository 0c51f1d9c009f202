"""The ETA of a job, from the queue, the workers and the times of earlier jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from statistics import median

from promptreel.api.parts import Services
from promptreel.errors import CheckpointUnusable, JobNotFound, ModelNotFound
from promptreel.jobs.eta import (
    FIRST_GUESS_SECONDS_PER_UNIT,
    Ahead,
    Rate,
    Timing,
    VideoShape,
    Work,
    estimate_queue_seconds,
    estimate_seconds,
    estimate_training_seconds,
    learn_rate,
)
from promptreel.jobs.job import JobStatus, NewJob, TrainingJob, VideoJob
from promptreel.jobs.params import VideoParams
from promptreel.jobs.worker_records import WorkerRecord
from promptreel.models.registry import DEFAULT_MODEL_ID


@dataclass(frozen=True)
class Outlook:
    """Whole seconds until a job is done, and its place in the queue: 1 is next, 0 is no longer waiting."""

    eta: int
    queue_position: int


def estimate(services: Services, job: VideoJob) -> int:
    """Whole seconds until the job is done."""
    return look_ahead(services, job).eta


def look_ahead(services: Services, job: VideoJob) -> Outlook:
    """The job's ETA and place in the queue. Raises JobNotFound when the job has been deleted."""
    if job.is_final:
        return Outlook(eta=0, queue_position=0)
    workers = services.jobs.live_workers()
    return _look_ahead(services, job, workers, _rates(services, workers))


def look_ahead_of(services: Services, jobs: Sequence[VideoJob]) -> dict[int, Outlook]:
    """`look_ahead` of many jobs, by their ids. Leaves out those that have been deleted."""
    workers = services.jobs.live_workers()
    rates, outlooks = _rates(services, workers), {}
    for job in jobs:
        with suppress(JobNotFound):
            outlooks[job.id] = _look_ahead(services, job, workers, rates)
    return outlooks


def _look_ahead(services: Services, job: VideoJob, workers: Sequence[WorkerRecord], rates: Callable[[Work], Rate]) -> Outlook:
    ahead = services.jobs.queue_ahead(job)
    return Outlook(
        eta=estimate_seconds(
            job,
            ahead=ahead,
            live_workers=len(workers),
            rate=rates,
            now=datetime.now(UTC),
            slice_seconds=services.slice_seconds,
        ),
        queue_position=ahead.waiting + 1 if job.status is JobStatus.QUEUED else 0,
    )


def look_ahead_of_new(services: Services, new: NewJob, params: VideoParams) -> Outlook:
    """What would be the outlook of a job if it was queued now, behind all others."""
    workers = services.jobs.live_workers()
    rates, now = _rates(services, workers), datetime.now(UTC)
    own = Work(model_id=params.model_id, shape=VideoShape.of(params), owner=None, units=new.cost, fixed_times=1.0)
    wait = estimate_queue_seconds(services.jobs.unfinished_work(), live_workers=len(workers), rate=rates, now=now)
    eta = wait + max(1, estimate_queue_seconds([own], live_workers=1, rate=rates, now=now))
    return Outlook(eta=eta, queue_position=services.jobs.count_of_all(JobStatus.QUEUED) + 1)


def look_ahead_of_training(services: Services, job: TrainingJob) -> Outlook:
    """The same for a training. One that runs is as fast as it says; before that, a guess is made from its base's videos."""
    if job.is_final:
        return Outlook(eta=0, queue_position=0)
    workers, params, report = services.jobs.live_workers(), job.params, job.report or {}
    rates = _rates(services, workers)
    shape = VideoShape(params.num_frames, params.width, params.height)
    work = Work(model_id=params.base, shape=shape, owner=None, units=job.cost, fixed_times=0)
    seconds_per_step, share_done = report.get("seconds_per_step"), min(1.0, (report.get("step") or 0) / params.steps)
    seconds_per_unit = seconds_per_step * params.steps / job.cost if seconds_per_step else rates(work).seconds_per_unit
    ahead = services.trainings.queue_ahead(job) if job.status is JobStatus.QUEUED else Ahead()
    eta = estimate_training_seconds(
        units=job.cost * (1 - share_done),
        seconds_per_unit=seconds_per_unit,
        ahead=ahead,
        live_workers=len(workers),
        rate=rates,
    )
    return Outlook(eta=eta, queue_position=ahead.waiting + 1 if job.status is JobStatus.QUEUED else 0)


def estimate_queue(services: Services) -> int:
    """Whole seconds until all unfinished jobs are done."""
    workers = services.jobs.live_workers()
    unfinished = services.jobs.unfinished_work()
    return estimate_queue_seconds(unfinished, live_workers=len(workers), rate=_rates(services, workers), now=datetime.now(UTC))


def _rates(services: Services, workers: Sequence[WorkerRecord]) -> Callable[[Work], Rate]:
    """A function from work to its expected rate: for its worker's device if it has a worker, else for all devices."""

    @cache
    def timings(model_id: str) -> Sequence[Timing]:
        return services.jobs.recent_timings(model_id)

    @cache
    def rate_of(model_id: str, shape: VideoShape, owner: str | None) -> Rate:
        able = [worker for worker in workers if worker.id == owner] or workers
        learned = learn_rate(timings(model_id), shape, {worker.device for worker in able})
        return learned or Rate(_measured_once(services, able, model_id))

    return lambda work: rate_of(work.model_id, work.shape, work.owner)


def _measured_once(services: Services, workers: Sequence[WorkerRecord], model_id: str) -> float:
    """Seconds per unit before any job has finished: as measured by the workers at start, else from the card, else a guess."""
    return _rate_at_start(workers, model_id) or _reference_rate(services, model_id) or FIRST_GUESS_SECONDS_PER_UNIT


def _rate_at_start(workers: Sequence[WorkerRecord], model_id: str) -> float | None:
    """None for models other than the default: workers measure only that one."""
    measured = [worker.seconds_per_unit for worker in workers if worker.seconds_per_unit is not None]
    return median(measured) if measured and model_id == DEFAULT_MODEL_ID else None


def _reference_rate(services: Services, model_id: str) -> float | None:
    """None if the card has no rate, or if the model is gone or unusable."""
    try:
        return services.models.get(model_id).reference_seconds_per_unit
    except (ModelNotFound, CheckpointUnusable):
        return None
