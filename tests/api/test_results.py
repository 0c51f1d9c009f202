"""Results can be listed and deleted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from promptreel.jobs.job import JobStatus
from promptreel.jobs.store import JobStore
from tests.api.conftest import SUBMIT
from tests.api.test_fetch import NOT_FOUND

LIST = "/api/v6/assets_generated"
DELETE = "/api/v3/delete_image"


@pytest.fixture
def make_video(client: TestClient, finish_next: Callable[[bytes], None]) -> Callable[[], dict[str, Any]]:
    """Submits a job, finishes it, and returns the answer of a fetch."""

    def make() -> dict[str, Any]:
        submitted = client.post(SUBMIT, json={"prompt": "a red cat"}).json()
        finish_next(b"video")
        return client.post(submitted["fetch_result"]).json()

    return make


def test_history_lists_finished_videos_newest_first_in_pages(
    client: TestClient, make_video: Callable[[], dict[str, Any]]
) -> None:
    made = [make_video() for _ in range(3)]
    client.post(SUBMIT, json={"prompt": "still in the queue"})

    first = client.post(LIST, json={"key": "k", "type": "video", "per_page": 2, "page": 1}).json()
    second = client.post(LIST, data={"per_page": "2", "page": "2"}).json()
    beyond = client.post(LIST, json={"page": 9}).json()

    newest, middle, oldest = ({"id": job["id"], "output": job["output"]} for job in reversed(made))
    assert first == {
        "status": "success",
        "type": "video",
        "data": [newest, middle],
        "pagination": {"current_page": 1, "per_page": 2, "total": 3, "last_page": 2, "from": 1, "to": 2},
    }
    assert (second["data"], second["pagination"]["from"], second["pagination"]["to"]) == ([oldest], 3, 3)
    assert beyond["data"] == []
    assert beyond["pagination"] == {
        "current_page": 9,
        "per_page": 10,
        "total": 3,
        "last_page": 1,
        "from": None,
        "to": None,
    }


def test_history_has_no_other_types_and_says_what_a_page_may_be(
    client: TestClient, make_video: Callable[[], dict[str, Any]]
) -> None:
    make_video()

    pictures = client.post(LIST, json={"type": "image"}).json()
    wrong = client.post(LIST, json={"type": "mp3", "per_page": 31, "page": 10**30}).json()

    assert (pictures["type"], pictures["data"], pictures["pagination"]["total"]) == ("image", [], 0)
    assert sorted(wrong["message"]) == ["page", "per_page", "type"]


@pytest.mark.parametrize("spell", [int, str])
def test_deleted_video_is_gone_with_its_file(
    client: TestClient, tmp_path: Path, make_video: Callable[[], dict[str, Any]], spell: type
) -> None:
    made, kept = make_video(), make_video()

    answer = client.post(DELETE, json={"key": "k", "request_id": spell(made["id"]), "type": "video"}).json()

    assert answer == {"status": "success", "message": "video deleted", "messege": "video deleted"}
    assert client.post(f"/api/v3/dreambooth/fetch/{made['id']}").json() == NOT_FOUND
    assert client.get(made["output"][0]).status_code == 404
    assert [entry["id"] for entry in client.post(LIST).json()["data"]] == [kept["id"]]
    assert len([path for path in (tmp_path / "videos").rglob("*.mp4") if path.is_file()]) == 1
    assert client.post(DELETE, json={"request_id": made["id"]}).json() == NOT_FOUND


def test_deleting_an_unfinished_job_cancels_it(client: TestClient, jobs: JobStore) -> None:
    ids = [client.post(SUBMIT, json={"prompt": "a red cat"}).json()["id"] for _ in range(2)]
    claimed = jobs.claim("worker-1")
    assert claimed is not None

    answers = [client.post(DELETE, json={"request_id": job_id}).json()["message"] for job_id in ids]

    assert answers == ["video cancelled"] * 2
    assert jobs.heartbeat(claimed[0])  # the worker learns of the cancel
    assert jobs.get(ids[1]).status is JobStatus.CANCELLED
    assert client.post(f"/api/v3/dreambooth/fetch/{ids[1]}").json()["message"] == "Cancelled"


def test_deleting_again_removes_the_cancelled_job(client: TestClient, jobs: JobStore) -> None:
    job_id = client.post(SUBMIT, json={"prompt": "a red cat"}).json()["id"]

    answers = [client.post(DELETE, json={"request_id": job_id}).json()["message"] for _ in range(2)]

    assert answers == ["video cancelled", "video deleted"]
    assert jobs.list() == []


@pytest.mark.parametrize("unknown", [99, "abc", 1.5, True, [1], 2**53 - 1, 10**30])
def test_unknown_id_cannot_be_deleted(client: TestClient, unknown: object) -> None:
    answer = client.post(DELETE, json={"request_id": unknown})

    assert (answer.status_code, answer.json()) == (200, NOT_FOUND)


def test_delete_without_an_id_says_so(client: TestClient) -> None:
    assert client.post(DELETE, json={"key": "k"}).json()["message"] == {"request_id": ["The request id field is required."]}
