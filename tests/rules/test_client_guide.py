"""The examples of docs/client.md work, one after the other, as they stand there."""

# ruff: noqa: F811 - the fixtures of the api's tests are used here too

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from promptreel.jobs.job import JobStatus
from promptreel.jobs.store import JobStore
from tests.api.conftest import database, empty_database, finish_next, jobs, keys, services, storage  # noqa: F401
from tests.rules.documents import code_blocks, read
from tests.rules.test_examples import ADDRESS
from tests.test_client import Server, server  # noqa: F401


@pytest.fixture
def worker(jobs: JobStore, finish_next: Callable[[bytes], None]) -> Iterator[None]:
    """Does a worker's part for every job but those that the examples cancel."""
    ended = threading.Event()

    def work() -> None:
        try:
            while not ended.wait(0.05):
                waiting = [job.params.prompt for job in jobs.list() if job.status is JobStatus.QUEUED]
                if any(prompt.startswith(("a red", "a blue")) for prompt in waiting):
                    finish_next(b"video")
        finally:  # should the worker fail, nobody waits for it for ever
            for job in jobs.list():
                jobs.cancel(job.id)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_examples_of_the_guide_work(
    server: Server, worker: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = code_blocks(read("docs/client.md"), "python")
    names: dict[str, Any] = {}

    for block in blocks:
        assert server.url not in block
        exec(block.replace(ADDRESS, server.url), names)

    assert len(blocks) == 5
    assert [Path(name).read_bytes() for name in ("cat.mp4", "rocket.gif")] == [b"video"] * 2
    shown = capsys.readouterr().out
    for words in (
        "['cutout', 'midjourney', 'plain']",
        "video_2 queued ",
        "completed None 100 % None None",
        "cancelled Cancelled",
    ):
        assert words in shown
