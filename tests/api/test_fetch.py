from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from promptreel.jobs.job import JobStage
from promptreel.jobs.store import JobStore
from tests.api.conftest import SUBMIT

NOT_FOUND = {"status": "failed", "id": "", "message": "Request not found", "messege": "Request not found", "output": []}
BY_PATH = [
    "/api/v3/dreambooth/fetch",
    "/api/v3/fetch",
    "/api/v4/dreambooth/fetch",
    "/api/v6/video/fetch",
    "/api/v7/video-fusion/fetch",
    "/api/v7/images/fetch",
    "/api/v1/enterprise/video/fetch",
]
BY_FIELD = ["/api/v4/dreambooth/fetch", "/api/v6/video/fetch", "/api/v6/images/fetch", "/api/v1/enterprise/fetch"]


@pytest.fixture
def job_id(client: TestClient) -> int:
    return client.post(SUBMIT, json={"prompt": "a red cat", "seed": 5}).json()["id"]


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_fetch_by_path_answers_like_the_submit(client: TestClient, method: str) -> None:
    submitted = client.post(SUBMIT, json={"prompt": "a red cat"}).json()

    for path in BY_PATH:
        assert client.request(method, f"{path}/{submitted['id']}").json() == submitted, path


def test_body_of_a_fetch_by_path_does_not_matter(client: TestClient, job_id: int) -> None:
    for body in (b'{"key": "k"}', b"{", b"\xff", b"key=k"):
        assert client.post(f"/api/v3/dreambooth/fetch/{job_id}", content=body).json()["id"] == job_id


@pytest.mark.parametrize("path", BY_FIELD)
def test_fetch_by_field_takes_the_id_as_string_or_number(client: TestClient, job_id: int, path: str) -> None:
    answers = [
        client.post(path, json={"key": "k", "request_id": job_id}),
        client.post(path, json={"request_id": str(job_id)}),
        client.post(path, data={"request_id": job_id}),
        client.post(path, params={"request_id": job_id}),
        client.get(path, params={"request_id": job_id}),
    ]

    assert [answer.json()["id"] for answer in answers] == [job_id] * 5


def test_fetch_by_field_without_the_field_says_so(client: TestClient) -> None:
    answer = client.post("/api/v4/dreambooth/fetch", json={"key": "k"})

    message = {"request_id": ["The request id field is required."]}
    told = {"status": "error", "message": message, "messege": message, "tip": "The request id field is required."}
    assert (answer.status_code, answer.json()) == (200, told)


@pytest.mark.parametrize("path", BY_PATH)
def test_fetch_answers_200_in_every_generation(client: TestClient, path: str) -> None:
    unknown = client.post(f"{path}/999")
    empty = client.post(f"{path}/")
    empty_by_get = client.get(f"{path}/")

    assert (unknown.status_code, unknown.json()) == (200, NOT_FOUND)
    assert [empty.status_code, empty_by_get.status_code] == [200, 200]
    assert empty.json() == empty_by_get.json()
    assert (empty.json()["status"], empty.json()["message"]) == ("error", empty.json()["messege"])
    assert empty.json()["message"].startswith("The id is missing.")


@pytest.mark.parametrize("path", BY_FIELD)
def test_unknown_id_in_a_field_answers_200_in_every_generation(client: TestClient, path: str) -> None:
    answer = client.post(path, json={"request_id": "999"})

    assert (answer.status_code, answer.json()) == (200, NOT_FOUND)


@pytest.mark.parametrize("unknown", ["999", "0", "-1", "abc", "1.5", "1e3", "\uff19", "9" * 18, "9" * 40, "%00", "1%0A2"])
def test_unknown_id_is_not_found_and_answers_200(client: TestClient, job_id: int, unknown: str) -> None:
    answer = client.post(f"/api/v3/dreambooth/fetch/{unknown}", json={"key": "k"})

    assert (answer.status_code, answer.json()) == (200, NOT_FOUND)


@pytest.mark.parametrize("unknown", [999, -1, 1.5, True, [1], {"a": 1}, "abc", 10**30])
def test_unknown_id_in_the_body_is_not_found(client: TestClient, job_id: int, unknown: object) -> None:
    answer = client.post("/api/v4/dreambooth/fetch", json={"request_id": unknown})

    assert (answer.status_code, answer.json()) == (200, NOT_FOUND)


def test_success_has_the_documented_shape(
    client: TestClient, jobs: JobStore, job_id: int, finish_next: Callable[[bytes], None]
) -> None:
    meta = client.get(f"/api/v3/dreambooth/fetch/{job_id}").json()["meta"]
    finish_next(b"video")

    answer = client.post(f"/api/v3/dreambooth/fetch/{job_id}").json()

    url = f"http://video.test:8000/files/{jobs.get(job_id).file_prefix}.mp4"
    assert type(answer.pop("generationTime")) is float
    assert answer == {"status": "success", "id": job_id, "output": [url], "proxy_links": [url], "meta": meta}


def test_failed_job_says_why(client: TestClient, jobs: JobStore, job_id: int) -> None:
    claimed = jobs.claim("worker-1")
    assert claimed is not None
    jobs.fail(claimed[0], code="out_of_memory", message="Too little memory: ask for fewer frames.")

    answer = client.post(f"/api/v3/dreambooth/fetch/{job_id}")

    why = "Too little memory: ask for fewer frames."
    assert answer.status_code == 200
    assert answer.json() == {"status": "failed", "id": job_id, "message": why, "messege": why, "output": []}


def test_cancelled_job_is_failed_with_that_reason(client: TestClient, jobs: JobStore, job_id: int) -> None:
    jobs.cancel(job_id)

    answer = client.post(f"/api/v3/dreambooth/fetch/{job_id}").json()

    assert answer == {"status": "failed", "id": job_id, "message": "Cancelled", "messege": "Cancelled", "output": []}


def test_eta_falls_with_progress_and_stays_a_positive_integer(client: TestClient, jobs: JobStore, job_id: int) -> None:
    claimed = jobs.claim("worker-1")
    assert claimed is not None
    etas = []
    for progress in (0.0, 0.5, 1.0):
        jobs.report(claimed[0], stage=JobStage.DENOISING, progress=progress)
        etas.append(client.get(f"/api/v3/dreambooth/fetch/{job_id}").json()["eta"])

    assert (etas[0], etas[2]) == (16, 1)
    assert 1 <= etas[1] <= 8  # less than half, if the first half was faster than estimated


def test_job_whose_model_was_removed_can_still_be_fetched(client: TestClient, job_id: int, tmp_path: object) -> None:
    (tmp_path / "models" / "cutout" / "promptreel.json").unlink()  # type: ignore[operator]

    assert client.get(f"/api/v3/dreambooth/fetch/{job_id}").json()["status"] == "processing"
