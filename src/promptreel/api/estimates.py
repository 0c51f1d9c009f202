"""The ETA of a job, from the queue, the workers and the rates that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import median

from promptreel.api.services import Services
from promptreel.errors import CheckpointUnusable, ModelNotFound
from promptreel.jobs.eta import estimate_seconds, seconds_per_unit
from promptreel.jobs.job import Job
from promptreel.jobs.store import WorkerRecord
from promptreel.models.registry import DEFAULT_MODEL_ID


def estimate(services: Services, job: Job) -> int:
    """Whole seconds until the job is done."""

    @cache
    def rate(model_id: str) -> float:
        recent = services.jobs.recent_rates(model_id)
        return seconds_per_unit(recent, _rate_at_start(workers, model_id), _reference_rate(services, model_id))

    workers = services.jobs.live_workers()
    return estimate_seconds(job, ahead=services.jobs.queue_ahead(job), live_workers=len(workers), rate=rate)


def _rate_at_start(workers: Sequence[WorkerRecord], model_id: str) -> float | None:
    """Seconds per unit as the workers measured it when they started, which they do with the default model only."""
    measured = [worker.seconds_per_unit for worker in workers if worker.seconds_per_unit is not None]
    return median(measured) if measured and model_id == DEFAULT_MODEL_ID else None


def _reference_rate(services: Services, model_id: str) -> float | None:
    """Seconds per unit as the model's card says; None when it says nothing, or the model was taken away meanwhile."""
    try:
        return services.models.get(model_id).reference_seconds_per_unit
    except (ModelNotFound, CheckpointUnusable):
        return None
