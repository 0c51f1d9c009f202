"""A running job's preview: a small file beside its results, which the api serves while the job runs.

A thread of its own makes the file, so that no step waits for an encoder or a disk.
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
    """Yields what has a clip put into storage as the job's preview, in place of the last one; after the block there is none."""
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
        newest.end()  # first: what is stored later would stay
        _remove(job, storage)


class _Newest:
    """A thread that stores the newest of the clips that it is given, one after the other; those that come between are dropped.

    Whoever gives one does not wait. A first error is logged, and ends it: a job does not need its previews.
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
        """Nothing is stored any more once this returns; at most it waits for one clip that is being stored."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while (clip := self._take()) is not None:
                self._store(clip)
        except Exception:  # whatever it is
            log.warning("a preview could not be made, and there are no more of this job", exc_info=True)

    def _take(self) -> Clip | None:
        """Waits for a clip; None once it has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or self._clip is not None)
            clip, self._clip = self._clip, None
            return None if self._has_ended else clip


def _remove(job: VideoJob, storage: LocalStorage) -> None:
    try:
        storage.delete(job.preview_key)
    except StorageFailed as error:  # nobody is served it any more, so it ends no job
        log.warning("job %d: %s", job.id, error)
