from __future__ import annotations

import io
import logging
import threading
from pathlib import Path

import pytest
from PIL import Image

from promptreel.errors import JobCancelled
from promptreel.jobs.job import Claim, Job
from promptreel.jobs.store import JobStore
from promptreel.media import Video
from promptreel.storage.local import LocalStorage
from promptreel.worker.preview_file import keep_preview
from tests.encoding.clips import make_flat, make_scene
from tests.jobs.factories import make_new_job
from tests.waiting import wait_for


@pytest.fixture
def claimed(jobs: JobStore) -> tuple[Job, Claim]:
    jobs.submit(make_new_job(width=64, height=64))
    claim, job = jobs.claim("w") or pytest.fail("nothing to claim")
    return job, claim


def test_newest_preview_is_stored_while_the_job_runs_and_none_afterwards(claimed: tuple[Job, Claim], tmp_path: Path) -> None:
    storage, key = LocalStorage(tmp_path / "results"), claimed[0].preview_key
    stored: list[bytes | None] = [None]

    def work() -> None:
        with keep_preview(*claimed, storage=storage, scratch=tmp_path) as show:
            for clip in (make_flat((200, 0, 0)), make_scene()):
                show(clip)
                stored.append(wait_for(lambda: now if (now := storage.read(key)) != stored[-1] else None))
            raise JobCancelled

    with pytest.raises(JobCancelled):
        work()
    assert all(content and content.startswith(b"RIFF") for content in stored[1:])
    assert storage.read(key) is None
    assert list(tmp_path.glob("*.webp")) == []


class GatedStorage(LocalStorage):
    """A disk that takes its time: stores nothing before `gate` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.gate, self.saved = threading.Event(), threading.Event(), 0

    def save(self, video: Video, key: str) -> None:
        self.asked.set()
        assert self.gate.wait(60)
        super().save(video, key)
        self.saved += 1


def test_no_step_waits_for_a_slow_disk_and_only_the_newest_preview_is_stored_after_it(
    claimed: tuple[Job, Claim], tmp_path: Path
) -> None:
    storage, key = GatedStorage(tmp_path / "results"), claimed[0].preview_key

    with keep_preview(*claimed, storage=storage, scratch=tmp_path) as show:
        show(make_scene())
        assert storage.asked.wait(60)
        for shade in range(10):
            show(make_flat((shade * 20, 0, 0)))
        storage.gate.set()
        wait_for(lambda: storage.saved == 2)
        with Image.open(io.BytesIO(storage.read(key) or b"")) as stored:
            assert abs(stored.convert("RGB").getpixel((0, 0))[0] - 180) < 10


def test_preview_that_is_still_being_stored_when_the_job_ends_is_removed(claimed: tuple[Job, Claim], tmp_path: Path) -> None:
    storage, key = GatedStorage(tmp_path / "results"), claimed[0].preview_key
    before = threading.active_count()

    with keep_preview(*claimed, storage=storage, scratch=tmp_path) as show:
        show(make_scene())
        assert storage.asked.wait(60)
        show(make_flat((200, 0, 0)))
        threading.Timer(0.1, storage.gate.set).start()

    assert storage.saved == 1  # the second one came too late
    assert storage.read(key) is None
    wait_for(lambda: threading.active_count() == before)


def test_error_of_a_preview_is_logged_once_and_ends_previews_alone(
    claimed: tuple[Job, Claim], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = LocalStorage(tmp_path / "results")

    with keep_preview(*claimed, storage=storage, scratch=tmp_path / "no such folder") as show:
        for _ in range(5):
            show(make_scene())
            wait_for(lambda: caplog.records)

    assert [record.message for record in caplog.records] == ["a preview could not be made, and there are no more of this job"]


def test_preview_that_cannot_be_removed_ends_no_job(
    claimed: tuple[Job, Claim], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "results").write_text("in the way")

    with keep_preview(*claimed, storage=LocalStorage(tmp_path / "results"), scratch=tmp_path):
        pass

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
