from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.api.bodies import MAX_BODY_BYTES, MAX_INIT_BODY_BYTES
from promptreel.api.problems import GENERATIONS, STATUSES, status_of
from promptreel.errors import JobLost, PromptreelError, RemoteFailed
from promptreel.jobs.database import Database, open_database, write_transaction
from promptreel.jobs.store import JobStore
from tests.api.conftest import SUBMIT
from tests.jobs.factories import full_database, make_new_job
from tests.waiting import wait_for

FETCH = "/api/v4/dreambooth/fetch"
ERRORS_PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def all_errors(kind: type[PromptreelError] = PromptreelError) -> Iterator[type[PromptreelError]]:
    for child in kind.__subclasses__():
        yield child
        yield from all_errors(child)


@pytest.fixture
def strict_client(services: AppParts) -> TestClient:
    return TestClient(create_app(replace(services, real_status_codes=("v3", "v4"))))


@pytest.mark.parametrize(
    "body", [b"{", b'{"prompt": "cat",}', b"[1]", b'"cat"', b"5", b"null", b"\xff\xfe", b"cat", b"[" * 9999]
)
def test_malformed_body_is_an_invalid_api_request(client: TestClient, body: bytes) -> None:
    answer = client.post(SUBMIT, content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 200
    assert set(answer.json()) == {"status", "message", "messege", "tip"}
    assert (answer.json()["status"], answer.json()["message"]) == ("error", "Invalid API Request")
    assert answer.json()["tip"].startswith("1. Make sure you are passing Content-Type: application/json")


def test_malformed_multipart_is_an_invalid_api_request(client: TestClient) -> None:
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = client.post(SUBMIT, content=b"--y\r\nrubbish", headers={"Content-Type": content_type})

        assert answer.json()["message"] == "Invalid API Request"


@pytest.mark.parametrize("body", [b"", b"  \n", b"{}"])
def test_empty_body_lacks_the_prompt(client: TestClient, body: bytes) -> None:
    message = {"prompt": ["The prompt field is required."]}

    answer = client.post(SUBMIT, content=body).json()
    assert answer == {"status": "error", "message": message, "messege": message, "tip": "The prompt field is required."}


def test_body_that_is_too_large_is_refused_in_the_contracts_shape(client: TestClient) -> None:
    for path, limit, size in ((FETCH, MAX_BODY_BYTES, "256 kB"), (SUBMIT, MAX_INIT_BODY_BYTES, "36 MB")):
        fits = client.post(path, content=b'{"prompt": "a cat", "request_id": "9"}'.ljust(limit))
        too_large = client.post(path, content=b'{"prompt": "a cat", "request_id": "9"}'.ljust(limit + 1))

        assert fits.json()["status"] == ("processing" if path == SUBMIT else "failed")
        assert too_large.status_code == 200
        assert too_large.json()["status"] == "error"
        assert f"larger than {size}" in too_large.json()["message"]
        assert too_large.json()["message"] == too_large.json()["messege"]


@pytest.mark.parametrize(
    ("path", "unless_set", "generation"),
    [
        ("/api/v3/load_model", 200, "v3"),
        (SUBMIT, 200, "v4"),
        ("/api/v5/text2video", 200, "v5"),
        ("/api/v6/video/text2video", 200, "v6"),
        ("/api/v6/video/img2video", 200, "v6"),
        ("/api/v1/enterprise/text2video", 200, "enterprise"),
        ("/api/v1/enterprise/video/text2video", 200, "enterprise"),
        ("/api/v7/video-fusion/text-to-video", 400, None),
        ("/api/v7/video-fusion/image-to-video", 400, None),
    ],
)
def test_each_generation_has_its_own_statuses(services: AppParts, path: str, unless_set: int, generation: str | None) -> None:
    def ask(*real: str) -> int:
        return TestClient(create_app(replace(services, real_status_codes=real))).post(path, json={}).status_code

    others = [each for each in GENERATIONS if each != generation]
    assert (ask(), ask(*others), ask(*GENERATIONS)) == (unless_set, unless_set, 400)


def test_v7_answers_real_statuses(client: TestClient) -> None:
    path = "/api/v7/video-fusion/text-to-video"

    unknown_model = client.post(path, json={"prompt": "a", "model_id": "nowhere"})
    assert (unknown_model.status_code, unknown_model.json()["message"]) == (404, "Model not found")
    assert client.post(path, content=b"{").status_code == 400
    assert client.post(path, content=b"x" * (MAX_INIT_BODY_BYTES + 1)).status_code == 413
    assert client.post(path, json={"prompt": "a"}).status_code == 200


def test_setting_makes_status_codes_real_except_for_fetch(strict_client: TestClient) -> None:
    assert strict_client.post(SUBMIT, json={}).status_code == 400
    assert strict_client.post(SUBMIT, content=b"{").status_code == 400
    assert strict_client.post(SUBMIT, json={"prompt": "a", "model_id": "nowhere"}).status_code == 404
    assert strict_client.post(SUBMIT, content=b"x" * (MAX_INIT_BODY_BYTES + 1)).status_code == 413
    assert strict_client.post(SUBMIT, json={"prompt": "a"}).status_code == 200
    assert strict_client.post("/api/v3/dreambooth/fetch/999").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("POST", "/api/v4/nowhere", 404),
        ("POST", SUBMIT + "/x", 404),
        ("GET", SUBMIT, 405),
        ("DELETE", "/health", 405),
        ("POST", "/files/a.mp4", 405),
    ],
)
def test_unknown_path_and_wrong_method_answer_json(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path, follow_redirects=False)

    assert answer.status_code == status
    assert answer.json()["status"] == "error"
    assert answer.json()["message"] == answer.json()["messege"]


def test_unknown_error_shows_no_details_and_is_logged_with_the_request_id(
    services: AppParts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without_tables = JobStore(open_database(f"sqlite:///{tmp_path / 'empty.db'}"))
    client = TestClient(create_app(replace(services, jobs=without_tables)))

    answer = client.get("/health")
    in_the_contracts_way = client.post("/api/v3/dreambooth/fetch/1")

    request_id = answer.headers["X-Request-Id"]
    assert (answer.status_code, in_the_contracts_way.status_code) == (500, 200)
    assert in_the_contracts_way.json()["status"] == "error"
    assert answer.json()["status"] == "error"
    assert request_id in answer.json()["message"]
    assert "Traceback" not in answer.text
    event, _ = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert request_id in event.getMessage()
    assert event.exc_info is not None


def test_locked_database_is_answered_with_retry_after(services: AppParts, database: Database) -> None:
    impatient = open_database(database.url.render_as_string(), busy_seconds=0.02)
    client = TestClient(create_app(replace(services, jobs=JobStore(impatient))))
    with write_transaction(database):
        hosted = client.post(SUBMIT, json={"prompt": "a"})
        standard = client.post("/v1/videos", json={"prompt": "a"})
    impatient.dispose()

    assert (hosted.status_code, hosted.json()["status"], hosted.json()["retry_after"]) == (200, "error", 5)
    assert (standard.status_code, standard.json()["error"]["code"]) == (503, "database_busy")
    assert hosted.headers["Retry-After"] == standard.headers["Retry-After"] == "5"
    assert services.jobs.list(limit=9) == []
    assert client.post("/v1/videos", json={"prompt": "a"}).status_code == 200


def test_full_disk_is_answered_with_retry_after(services: AppParts, database: Database, jobs: JobStore) -> None:
    waiting = jobs.submit(make_new_job())
    full = full_database(database.url.render_as_string())
    client = TestClient(create_app(replace(services, jobs=JobStore(full))))
    asked = {"prompt": "a" * 2000}  # a page of the file has 4096 bytes
    wait_for(lambda: client.post("/v1/videos", json=asked).status_code != 200)
    kept = len(jobs.list(limit=99))
    hosted = client.post(SUBMIT, json=asked)
    standard = client.post("/v1/videos", json=asked)
    seen = client.get(f"/v1/videos/video_{waiting.id}")
    full.dispose()

    assert (hosted.status_code, hosted.json()["status"], hosted.json()["retry_after"]) == (200, "error", 30)
    assert (standard.status_code, standard.json()["error"]["code"]) == (503, "disk_full")
    assert hosted.headers["Retry-After"] == standard.headers["Retry-After"] == "30"
    assert "Make room" in standard.json()["error"]["message"]
    assert (seen.status_code, seen.json()["status"]) == (200, "queued")
    assert len(jobs.list(limit=99)) == kept


def test_client_that_hangs_up_while_sending_is_not_logged_as_an_error(
    services: AppParts, jobs: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    parts = iter([{"type": "http.request", "body": b'{"prompt": "a', "more_body": True}, {"type": "http.disconnect"}])
    scope = {"type": "http", "method": "POST", "path": SUBMIT, "query_string": b"", "headers": [], "scheme": "http"}
    sent = []

    async def receive() -> dict[str, object]:
        return next(parts)

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    anyio.run(create_app(services), scope, receive, send)

    assert sent[0]["status"] == 400
    assert jobs.list() == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_unusable_model_says_what_is_wrong_with_it(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "models" / "plain" / "promptreel.json").write_text("{}")

    answer = client.post(SUBMIT, json={"prompt": "a cat", "model_id": "plain"})

    assert answer.status_code == 200
    assert answer.json()["status"] == "error"
    assert "plain/promptreel.json cannot be used" in answer.json()["message"]


def test_every_answer_carries_a_request_id_and_nosniff(client: TestClient) -> None:
    answers = [client.get(path) for path in ("/health", "/nowhere", "/docs", "/openapi.json")]

    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 4
    assert {answer.headers["X-Content-Type-Options"] for answer in answers} == {"nosniff"}


@pytest.mark.parametrize(
    ("method", "path", "sent", "code"),
    [
        ("POST", SUBMIT, {"json": {}}, "invalid_params"),
        ("POST", SUBMIT, {"content": b"{"}, "malformed_request"),
        ("POST", SUBMIT, {"json": {"prompt": "a", "model_id": "other"}}, "model_not_found"),
        ("GET", "/api/v4/dreambooth/fetch/99", {}, "job_not_found"),
        ("GET", "/v1/videos/video_99", {}, "job_not_found"),
        ("POST", "/v1/videos/extensions", {}, "not_available"),
        ("GET", "/v1/videos", {"headers": {"Origin": "https://example.com"}}, "foreign_page"),
    ],
)
def test_access_log_names_the_error_of_a_refused_request(
    client: TestClient, caplog: pytest.LogCaptureFixture, method: str, path: str, sent: dict[str, Any], code: str
) -> None:
    """Whatever the status, because most generations answer 200."""
    caplog.set_level(logging.INFO, logger="promptreel")

    client.request(method, path, **sent)

    assert re.search(rf"{method} {path} \d+ .* error={code}$", caplog.records[-1].message)
    client.get("/health")
    assert "error=" not in caplog.records[-1].message


def test_only_the_docs_page_can_run_scripts(client: TestClient) -> None:
    for path in ("/health", "/nowhere", "/files/a.mp4", "/uploads/a.png"):
        policy = client.get(path).headers["Content-Security-Policy"]
        assert policy.split("; ")[0::4] == ["default-src 'none'", "sandbox"], path


def test_access_log_names_request_and_job_but_no_key_and_no_prompt(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="promptreel")

    answer = client.post(SUBMIT, params={"key": "SECRET1"}, json={"prompt": "SECRET2"}, headers={"key": "SECRET3"})

    assert f"POST {SUBMIT} 200" in caplog.text
    assert f"request={answer.headers['X-Request-Id']} job={answer.json()['id']}" in caplog.text
    assert "SECRET" not in caplog.text


def test_every_error_has_a_status_and_is_documented() -> None:
    page = ERRORS_PAGE.read_text()

    for kind in all_errors():
        assert set(kind.__mro__) & set(STATUSES) or issubclass(kind, RemoteFailed), kind  # only clients raise these
        assert f"`{kind.code}`" in page, kind
    assert status_of(PromptreelError("unforeseen")) == 500
    assert not issubclass(JobLost, PromptreelError)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/videos", "GET, POST"),
        ("/v1/videos/video_1", "DELETE, GET"),
        ("/v1/videos/edits", "POST"),
        ("/api/v3/dreambooth/fetch/1", "GET, POST"),
    ],
)
def test_wrong_method_is_answered_with_all_allowed_methods(client: TestClient, path: str, allowed: str) -> None:
    answer = client.put(path)

    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
