"""Deleting a job with its files."""

from __future__ import annotations

from promptreel.api.parts import Services
from promptreel.jobs.job import VideoJob
from promptreel.storage.local import LocalStorage


def delete_job(services: Services, job: VideoJob) -> None:
    """Removes the job's files, then its row; one that is not done is stopped. Raises JobNotFound and StorageFailed.

    The row goes last, so that a deletion that was cut off can be asked for again. Whatever a worker finished meanwhile is only
    known from the row as it last was.
    """
    _delete_files(services.storage, job)
    _delete_files(services.storage, services.jobs.delete(job.id))


def _delete_files(storage: LocalStorage, job: VideoJob) -> None:
    storage.delete(job.preview_key)
    if job.result is not None:
        storage.delete(job.result.key)
