from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from promptreel.jobs.store import JobStore
from promptreel.storage.local import LocalStorage
from tests.api.conftest import SUBMIT

CONTENT = bytes(range(256)) * 10


@pytest.fixture
def path(client: TestClient) -> str:
    answer = client.post(SUBMIT, json={"prompt": "a red cat"}).json()
    return urlsplit(answer["future_links"][0]).path


def test_file_is_served_whole_after_success(client: TestClient, path: str, finish_next: Callable[[bytes], None]) -> None:
    finish_next(CONTENT)

    answer = client.get(path)

    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Type"] == "video/mp4"
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(("output_type", "media_type"), [("mp4", "video/mp4"), ("webm", "video/webm"), ("gif", "image/gif")])
def test_file_is_served_with_its_media_type(
    client: TestClient, finish_next: Callable[[bytes], None], output_type: str, media_type: str
) -> None:
    submitted = client.post(SUBMIT, json={"prompt": "a red cat", "output_type": output_type}).json()
    finish_next(CONTENT)
    success = client.post(submitted["fetch_result"]).json()

    answer = client.get(success["output"][0])

    assert success["output"] == success["proxy_links"] == submitted["future_links"]
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Type"] == media_type


@pytest.mark.parametrize("ending", ["gif", "webm", "mp3", "MP4", "mp4.mp4"])
def test_file_is_served_only_under_its_own_ending(
    client: TestClient, path: str, finish_next: Callable[[bytes], None], ending: str
) -> None:
    finish_next(CONTENT)

    answer = client.get(path.removesuffix("mp4") + ending)

    assert (answer.status_code, answer.json()["status"]) == (404, "error")


@pytest.mark.parametrize(
    ("asked", "sent", "part"),
    [("bytes=0-99", "bytes 0-99/2560", slice(0, 100)), ("bytes=2500-", "bytes 2500-2559/2560", slice(2500, None))],
)
def test_range_is_answered(
    client: TestClient, path: str, finish_next: Callable[[bytes], None], asked: str, sent: str, part: slice
) -> None:
    finish_next(CONTENT)

    answer = client.get(path, headers={"Range": asked})

    assert (answer.status_code, answer.content) == (206, CONTENT[part])
    assert answer.headers["Content-Range"] == sent


def test_range_outside_the_file_is_refused(client: TestClient, path: str, finish_next: Callable[[bytes], None]) -> None:
    finish_next(CONTENT)

    assert client.get(path, headers={"Range": "bytes=9999-"}).status_code == 416


def test_head_tells_the_length(client: TestClient, path: str, finish_next: Callable[[bytes], None]) -> None:
    finish_next(CONTENT)

    answer = client.head(path)

    assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"", "2560")


def test_file_is_404_before_success_and_no_cache_keeps_that(client: TestClient, jobs: JobStore, path: str) -> None:
    queued = client.get(path)
    jobs.claim("worker-1")
    running = client.get(path)

    assert (queued.status_code, running.status_code) == (404, 404)
    assert queued.json()["status"] == "error"
    assert queued.headers["Cache-Control"] == "no-store"


def test_deleted_file_is_404(
    client: TestClient, storage: LocalStorage, path: str, finish_next: Callable[[bytes], None]
) -> None:
    finish_next(CONTENT)
    storage.delete(path.removeprefix("/files/"))

    assert client.get(path).status_code == 404


@pytest.mark.parametrize("name", ["nobody.mp4", "..mp4", "%2e%2e%2fpromptreel.db.mp4", "a%00.mp4", "x.gif", ".mp4"])
def test_unknown_file_is_404_as_json(client: TestClient, name: str) -> None:
    answer = client.get(f"/files/{name}")

    assert answer.status_code == 404
    assert answer.json()["status"] == "error"
