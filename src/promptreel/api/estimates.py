"""The ETA of a job, from the queue, the workers and the rates that were measured."""

from __future__ import annotations

from functools import cache

from promptreel.api.services import Services
from promptreel.errors import CheckpointUnusable, ModelNotFound
from promptreel.jobs.eta import estimate_seconds, seconds_per_unit
from promptreel.jobs.job import Job


def estimate(services: Services, job: Job) -> int:
    """Whole seconds until the job is done."""

    @cache
    def rate(model_id: str) -> float:
        return seconds_per_unit(services.jobs.recent_rates(model_id), _reference_rate(services, model_id))

    ahead = services.jobs.queue_ahead(job)
    return estimate_seconds(job, ahead=ahead, live_workers=len(services.jobs.live_workers()), rate=rate)


def _reference_rate(services: Services, model_id: str) -> float | None:
    """Seconds per unit as the model's card says; None when it says nothing, or the model was taken away meanwhile."""
    try:
        return services.models.get(model_id).reference_seconds_per_unit
    except (ModelNotFound, CheckpointUnusable):
        return None
