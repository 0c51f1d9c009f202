from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from promptreel.jobs.store import JobStore
from promptreel.storage.local import LocalStorage
from tests.api.conftest import SUBMIT
from tests.storage.test_local import make_video

CONTENT = b"RIFF a moving picture"


@pytest.fixture
def url(client: TestClient, jobs: JobStore, storage: LocalStorage, tmp_path: Path) -> str:
    """The URL of a preview. The preview is stored, but its job still waits."""
    answer = client.post(SUBMIT, json={"prompt": "a red cat"}).json()
    storage.save(make_video(tmp_path / "preview", CONTENT), jobs.get(answer["id"]).preview_key)
    return answer["preview"]


def test_preview_of_a_running_job_is_served_uncached(client: TestClient, jobs: JobStore, url: str) -> None:
    jobs.claim("worker-1")

    answer = client.get(url)

    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Type"] == "image/webp"
    assert answer.headers["Cache-Control"] == "no-store"
    assert client.head(url).headers["Content-Length"] == str(len(CONTENT))


def test_preview_is_404_before_there_is_one(client: TestClient, jobs: JobStore, storage: LocalStorage, url: str) -> None:
    waiting = client.get(url)
    _, job = jobs.claim("worker-1") or pytest.fail("nothing to claim")
    storage.delete(job.preview_key)
    just_begun = client.get(url)

    for answer in (waiting, just_begun):
        assert (answer.status_code, answer.json()["status"]) == (404, "error")
        assert answer.headers["Cache-Control"] == "no-store"


def test_preview_that_a_killed_worker_left_is_not_served(
    client: TestClient, url: str, finish_next: Callable[[bytes], None]
) -> None:
    finish_next(b"video")

    assert client.get(url).status_code == 404


@pytest.mark.parametrize("name", ["nobody/preview.webp", "../preview.webp", "%2e%2e/preview.webp", "a%00/preview.webp"])
def test_unknown_preview_is_404_as_json(client: TestClient, name: str) -> None:
    answer = client.get(f"/files/{name}")

    assert (answer.status_code, answer.json()["status"]) == (404, "error")


def test_ended_job_has_no_preview(client: TestClient, jobs: JobStore) -> None:
    answer = client.post(SUBMIT, json={"prompt": "a red cat"}).json()
    jobs.cancel(answer["id"])

    assert "preview" not in client.post(answer["fetch_result"]).json()


def test_preview_is_documented(document: dict[str, Any]) -> None:
    answers = document["paths"]["/files/{file_prefix}/preview.webp"]["get"]["responses"]

    assert list(answers["200"]["content"]) == ["image/webp"]
    assert "404" in answers
