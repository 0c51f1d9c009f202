"""A running job's preview: a small file in storage, which the api serves while the job runs.

A separate thread writes the file, so that denoising never waits for an encoder or a disk.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from promptreel.encoding.preview_webp import encode_preview
from promptreel.errors import StorageFailed
from promptreel.generation.latent_previews import OnPreview
from promptreel.jobs.job import Claim, VideoJob
from promptreel.media import Clip
from promptreel.storage.local import LocalStorage

log = logging.getLogger(__name__)


@contextmanager
def keep_preview(job: VideoJob, claim: Claim, *, storage: LocalStorage, scratch: Path) -> Iterator[OnPreview]:
    """Yields a function that stores a clip as the job's preview, replacing the last one. Deletes the preview at the end."""
    path = scratch / f"{job.file_prefix}.{claim.attempt}.preview.webp"

    def store(clip: Clip) -> None:
        try:
            preview = encode_preview(clip, path, width=job.params.width, height=job.params.height)
            storage.save(preview, job.preview_key)
        finally:
            path.unlink(missing_ok=True)

    newest = _Newest(store)
    try:
        yield newest.give
    finally:
        newest.end()  # before the deletion, so that no preview is stored after it
        _remove(job, storage)


class _Newest:
    """A thread that stores the newest clip given to it, and drops clips that are replaced before it gets to them.

    `give` does not wait. The first error is logged and ends the thread: a job does not need its previews.
    """

    def __init__(self, store: Callable[[Clip], None]) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._clip: Clip | None = None
        self._has_ended = False
        self._thread: threading.Thread | None = None

    def give(self, clip: Clip) -> None:
        with self._changed:
            self._clip = clip
            self._changed.notify_all()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="preview", daemon=True)
                thread.start()
                self._thread = thread

    def end(self) -> None:
        """Ends the thread, after any clip that is being stored."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while (clip := self._take()) is not None:
                self._store(clip)
        except Exception:  # no error of a preview may end the job
            log.warning("a preview could not be made, and there are no more of this job", exc_info=True)

    def _take(self) -> Clip | None:
        """Waits for a clip; None after `end`."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or self._clip is not None)
            clip, self._clip = self._clip, None
            return None if self._has_ended else clip


def _remove(job: VideoJob, storage: LocalStorage) -> None:
    try:
        storage.delete(job.preview_key)
    except StorageFailed as error:  # harmless: the api no longer serves it
        log.warning("job %d: %s", job.id, error)
