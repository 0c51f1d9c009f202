"""A running job's preview: a small file beside its results, which the api serves while the job runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptreel.encoding.preview import encode_preview
from promptreel.errors import StorageFailed
from promptreel.generation.preview import OnPreview
from promptreel.jobs.job import Claim, Job
from promptreel.media import Clip
from promptreel.storage.local import LocalStorage

log = logging.getLogger(__name__)


@contextmanager
def keep_preview(job: Job, claim: Claim, *, storage: LocalStorage, scratch: Path) -> Iterator[OnPreview]:
    """Yields what puts a clip into storage as the job's preview, in place of the last one; after the block there is none."""
    path = scratch / f"{job.file_prefix}.{claim.attempt}.preview.webp"

    def show(clip: Clip) -> None:
        try:
            preview = encode_preview(clip, path, width=job.params.width, height=job.params.height)
            storage.save(preview, job.preview_key)
        finally:
            path.unlink(missing_ok=True)

    try:
        yield show
    finally:
        _remove(job, storage)


def _remove(job: Job, storage: LocalStorage) -> None:
    try:
        storage.delete(job.preview_key)
    except StorageFailed as error:  # nobody is served it any more, so it ends no job
        log.warning("job %d: %s", job.id, error)
