from __future__ import annotations

import logging
from pathlib import Path

import pytest

from promptreel.errors import JobCancelled
from promptreel.jobs.job import Claim, Job
from promptreel.jobs.store import JobStore
from promptreel.storage.local import LocalStorage
from promptreel.worker.preview import keep_preview
from tests.encoding.clips import make_flat, make_scene
from tests.jobs.factories import make_new_job


@pytest.fixture
def claimed(jobs: JobStore) -> tuple[Job, Claim]:
    jobs.submit(make_new_job(width=64, height=64))
    claim, job = jobs.claim("w") or pytest.fail("nothing to claim")
    return job, claim


def test_newest_preview_is_stored_while_the_job_runs_and_none_afterwards(claimed: tuple[Job, Claim], tmp_path: Path) -> None:
    storage, key = LocalStorage(tmp_path / "results"), claimed[0].preview_key
    stored = []

    def work() -> None:
        with keep_preview(*claimed, storage=storage, scratch=tmp_path) as show:
            for clip in (make_flat((200, 0, 0)), make_scene()):
                show(clip)
                stored.append(storage.read(key))
            raise JobCancelled

    with pytest.raises(JobCancelled):
        work()
    assert stored[0] != stored[1]
    assert all(content and content.startswith(b"RIFF") for content in stored)
    assert storage.read(key) is None
    assert list(tmp_path.glob("*.webp")) == []


def test_preview_that_cannot_be_removed_ends_no_job(
    claimed: tuple[Job, Claim], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "results").write_text("in the way")

    with keep_preview(*claimed, storage=LocalStorage(tmp_path / "results"), scratch=tmp_path):
        pass

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
