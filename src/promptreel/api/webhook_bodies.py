"""The body of a job's webhook, in the dialect of the job's request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from promptreel.api.legacy.answers import to_webhook as to_legacy_webhook
from promptreel.api.legacy.model_operations import to_webhook as to_legacy_import_webhook
from promptreel.api.legacy.trainings import to_webhook as to_legacy_training_webhook
from promptreel.api.v1.answers import to_import_webhook as to_import_event
from promptreel.api.v1.answers import to_webhook as to_event
from promptreel.api.v1.requests import DIALECT
from promptreel.api.v1.training_answers import to_training_webhook as to_training_event
from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.job import AnyJob, ImportJob, TrainingJob, VideoJob
from promptreel.jobs.links import LinkMaker
from promptreel.jobs.params import VideoParams
from promptreel.jobs.training_params import TrainingParams


def to_webhook(job: AnyJob, delivery_id: str, links: LinkMaker) -> dict[str, Any]:
    """The body for a job that has ended. Its links have the same base URL as the answer to the job's request."""
    return _BODIES[job.kind](job, delivery_id, links)


def _tell_of_video(job: VideoJob, delivery_id: str, links: LinkMaker) -> dict[str, Any]:
    if job.request.get("dialect") == DIALECT:
        return to_event(job, delivery_id)
    return to_legacy_webhook(job, links.start(job.request.get("base_url", "")))


def _tell_of_import(job: ImportJob, delivery_id: str, _links: LinkMaker) -> dict[str, Any]:
    return to_import_event(job, delivery_id) if job.request.get("dialect") == DIALECT else to_legacy_import_webhook(job)


def _tell_of_training(job: TrainingJob, delivery_id: str, _links: LinkMaker) -> dict[str, Any]:
    if job.request.get("dialect") == DIALECT:
        return to_training_event(job, delivery_id)
    return to_legacy_training_webhook(job)


_BODIES: Mapping[str, Callable[[Any, str, LinkMaker], dict[str, Any]]] = MappingProxyType(
    {VideoParams.kind: _tell_of_video, ImportParams.kind: _tell_of_import, TrainingParams.kind: _tell_of_training}
)
"""What is told of each kind of job."""
