"""Deletion of a job and its files."""

from __future__ import annotations

from promptreel.api.parts import Services
from promptreel.jobs.job import TrainingJob, VideoJob
from promptreel.storage.local import LocalStorage
from promptreel.training.examples import delete_examples


def delete_job(services: Services, job: VideoJob) -> None:
    """Deletes the job's files, then its row. A job that is not done is stopped. Raises JobNotFound and StorageFailed.

    The row goes last, so that an interrupted deletion can be repeated. The deleted row is checked for files again, because a
    worker may have finished the job in between.
    """
    _delete_files(services.storage, job)
    _delete_files(services.storage, services.jobs.delete(job.id))


def delete_training(services: Services, job: TrainingJob) -> None:
    """The same for a training, with its examples and samples. The model that it made stays."""
    _delete_files_of_training(services.storage, job)
    _delete_files_of_training(services.storage, services.trainings.delete(job.id))


def _delete_files_of_training(storage: LocalStorage, job: TrainingJob) -> None:
    delete_examples(storage, job.params.examples)
    for sample in (job.report or {}).get("samples", ()):
        storage.delete(sample["key"])
    if job.result is not None:
        storage.delete(job.result.key)


def _delete_files(storage: LocalStorage, job: VideoJob) -> None:
    storage.delete(job.preview_key)
    if job.result is not None:
        storage.delete(job.result.key)
