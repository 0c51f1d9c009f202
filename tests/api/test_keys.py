"""API keys: where they may be sent, and how much each key may request."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.api.authentication import Authenticator
from promptreel.api.init_fields import read_file
from promptreel.jobs.keys import KeyLimits, KeyStore
from promptreel.jobs.store import JobStore
from promptreel.jobs.views import Idempotency
from promptreel.storage.local import LocalStorage
from tests.api.conftest import SUBMIT
from tests.api.test_inits import PNG, data_uri
from tests.api.test_openai import VIDEOS, error_of

INVALID = {"status": "error", "message": "Invalid API key", "messege": "Invalid API key"}
FETCH = "/api/v3/dreambooth/fetch/1"
PROMPT = {"prompt": "a red cat"}


class Stopwatch:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def watch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def parts(services: AppParts, keys: KeyStore, watch: Stopwatch) -> AppParts:
    return replace(services, authenticator=Authenticator(keys, serves_local=True, now=watch))


@pytest.fixture
def client(parts: AppParts) -> TestClient:
    return TestClient(create_app(parts))


@pytest.fixture
def make_key(keys: KeyStore) -> Callable[..., str]:
    return lambda **limits: keys.create("k", KeyLimits(**limits))[1]


@pytest.mark.parametrize("key", ["", "any", None])
def test_any_key_works_before_one_exists(client: TestClient, key: str | None) -> None:
    assert client.post(SUBMIT, json={"key": key, **PROMPT}).json()["status"] == "processing"
    assert client.get(VIDEOS, headers={"Authorization": f"Bearer {key}"}).status_code == 200


def send_everywhere(key: str) -> dict[str, dict[str, Any]]:
    """All the ways to send a key with a submission."""
    fields = {"key": key, **PROMPT}
    return {
        "body": {"json": fields},
        "form under a JSON content type": {"content": f"key={key}&prompt=a", "headers": {"Content-Type": "application/json"}},
        "multipart": {"files": {"prompt": (None, "a"), "key": (None, key)}},
        "query": {"params": fields},
        "query beside a body": {"params": {"key": key}, "json": PROMPT},
        "header": {"json": PROMPT, "headers": {"key": key}},
        "bearer": {"json": PROMPT, "headers": {"Authorization": f"bearer {key}"}},
        "header beside an empty field": {"json": {"key": "", **PROMPT}, "headers": {"key": key}},
        "field beside a proxy's token": {"json": fields, "headers": {"Authorization": "Bearer of the proxy"}},
        "large body": {"json": {**fields, "init_image": data_uri("image/png", PNG), "unknown": "x" * 10**6}},
    }


@pytest.mark.parametrize("way", send_everywhere(""))
@pytest.mark.parametrize("path", [SUBMIT, VIDEOS])
def test_key_is_accepted_wherever_it_is_sent(
    client: TestClient, make_key: Callable[..., str], jobs: JobStore, path: str, way: str
) -> None:
    key = make_key()

    answer = client.post(path, **send_everywhere(key)[way])
    wrong = client.post(path, **send_everywhere("pr_wrong")[way])

    assert answer.json()["status"] in {"processing", "queued"}
    assert [job.api_key_id for job in jobs.list()] == [1]
    if path == VIDEOS:
        assert error_of(wrong, 401)["code"] == "invalid_api_key"
        assert error_of(wrong, 401)["message"] == "Invalid API key"
    else:
        assert (wrong.status_code, wrong.json()) == (200, INVALID)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", b'{"key": 5}', b'{"key": ["k"]}', b"x" * 300_000])
def test_fetch_by_path_needs_a_key_and_no_good_body(client: TestClient, make_key: Callable[..., str], body: bytes) -> None:
    key = make_key()
    client.post(SUBMIT, json={"key": key, **PROMPT})

    assert client.post(FETCH, content=body).json() == INVALID
    headers = {"key": key, "Idempotency-Key": "of no use here"}
    assert client.post(FETCH, content=body, params={"key": key}, headers=headers).json()["id"] == 1


@pytest.mark.parametrize(("path", "status"), [(SUBMIT, 401), (FETCH, 200), ("/api/agents/v1/models", 401)])
def test_real_status_codes_are_those_of_their_generation(
    parts: AppParts, make_key: Callable[..., str], path: str, status: int
) -> None:
    make_key()
    client = TestClient(create_app(replace(parts, real_status_codes=("v3", "v4"))))

    answer = client.get(path) if "agents" in path else client.post(path)

    assert (answer.status_code, answer.json()) == (status, INVALID)


def test_new_and_revoked_keys_take_effect_within_a_second(client: TestClient, keys: KeyStore, watch: Stopwatch) -> None:
    def ask(key: str) -> int:
        return client.get(VIDEOS, headers={"key": key}).status_code

    assert ask("") == 200
    _, key = keys.create("first")
    keys.create("second")
    watch.seconds += 1
    assert (ask(""), ask(key)) == (401, 200)

    keys.revoke("1")
    watch.seconds += 1
    assert ask(key) == 401

    keys.revoke("2")
    watch.seconds += 1
    assert ask("") == 200  # one local caller again


def test_reachable_service_serves_nobody_without_a_key(services: AppParts, keys: KeyStore) -> None:
    client = TestClient(create_app(replace(services, authenticator=Authenticator(keys, serves_local=False))))
    _, key = keys.create("k")

    assert client.get(VIDEOS, headers={"key": key}).status_code == 200
    keys.revoke("1")
    other = TestClient(create_app(replace(services, authenticator=Authenticator(keys, serves_local=False))))

    for headers in ({}, {"key": ""}, {"key": key}):
        assert other.get(VIDEOS, headers=headers).status_code == 401
    assert other.get("/health").status_code == 200


def test_requests_a_minute_are_limited(client: TestClient, make_key: Callable[..., str], watch: Stopwatch) -> None:
    headers, other = {"key": make_key(requests_a_minute=2)}, {"key": make_key()}
    assert client.get(VIDEOS, headers=headers).status_code == 200
    watch.seconds += 20
    assert client.get(VIDEOS, headers=headers).status_code == 200

    refused = client.get(VIDEOS, headers=headers)
    old_client = client.post(FETCH, headers=headers)

    assert error_of(refused, 429)["code"] == "rate_limit_exceeded"
    assert refused.headers["Retry-After"] == old_client.headers["Retry-After"] == "40"
    message = "Rate limit exceeded. This API key may send 2 requests per minute. Try again later."
    assert old_client.json() == {"status": "error", "message": message, "messege": message, "retry_after": 40}
    assert old_client.status_code == 200
    assert client.get(VIDEOS, headers=other).status_code == 200
    watch.seconds += 40
    assert [client.get(VIDEOS, headers=headers).status_code for _ in range(2)] == [200, 429]


def test_request_beyond_the_waiting_jobs_is_refused(client: TestClient, make_key: Callable[..., str], jobs: JobStore) -> None:
    headers = {"key": make_key(max_queued=1)}
    client.post(SUBMIT, json=PROMPT, headers=headers)

    old_client = client.post(SUBMIT, json=PROMPT, headers=headers)
    refused = client.post(VIDEOS, json=PROMPT, headers=headers)

    assert (old_client.status_code, old_client.json()["status"]) == (200, "error")
    assert old_client.json()["retry_after"] == int(refused.headers["Retry-After"]) == 30
    assert "at most 1 queued jobs" in error_of(refused, 429)["message"]
    assert len(jobs.list()) == 1


def test_nothing_is_stored_for_a_request_beyond_the_limit(
    client: TestClient, make_key: Callable[..., str], storage: LocalStorage
) -> None:
    headers = {"key": make_key(max_queued=1)}
    with_init = PROMPT | {"init_image": data_uri("image/png", PNG)}
    key = read_file("init_image", with_init["init_image"], ["image"]).key

    client.post(SUBMIT, json=PROMPT, headers=headers)
    assert "retry_after" in client.post(SUBMIT, json=with_init, headers=headers).json()
    assert storage.path(key) is None
    client.post(SUBMIT, json=with_init, headers={"key": make_key()})
    assert storage.path(key) is not None


def test_repeated_request_is_answered_with_its_first_job(client: TestClient, jobs: JobStore) -> None:
    headers = {"Idempotency-Key": "a1"}
    fields = {"prompt": "a red cat", "init_image": data_uri("image/png", PNG)}

    first = client.post(SUBMIT, json=fields, headers=headers).json()
    again = client.post(SUBMIT, json={"key": "", **fields}, headers=headers).json()
    other = client.post(SUBMIT, json={**fields, "seed": 5}, headers=headers)
    elsewhere = client.post(VIDEOS, json=fields, headers=headers)

    assert again == first
    assert (other.status_code, other.json()["status"]) == (200, "error")
    assert "Another request" in other.json()["message"]
    assert error_of(elsewhere, 409)["code"] == "idempotency_conflict"
    assert client.post(SUBMIT, json=fields).json()["id"] == 2
    assert len(jobs.list()) == 2


def test_uploaded_file_is_a_part_of_the_request(client: TestClient) -> None:
    def create(file: bytes) -> Any:
        files = {"prompt": (None, "a"), "input_reference": ("picture.png", file, "image/png")}
        return client.post(VIDEOS, files=files, headers={"Idempotency-Key": "a1"})

    another = data_uri("image/png", PNG).encode()

    assert create(PNG).json()["id"] == create(PNG).json()["id"] == "video_1"
    assert create(another).status_code in {400, 409}
    assert client.post(f"{VIDEOS}/video_1/remix", json=PROMPT, headers={"Idempotency-Key": "a1"}).status_code == 409


def test_repeated_request_does_not_need_deleted_inputs(client: TestClient, keys: KeyStore, jobs: JobStore) -> None:
    """Even if its upload or its source was deleted, or the queue is full by now."""
    headers = {"key": keys.create("k", KeyLimits(max_queued=2))[1]}

    def delete(request_id: object) -> None:
        answer = client.post("/api/v3/delete_image", json={"request_id": request_id}, headers=headers)
        assert answer.json()["status"] == "success"

    upload = client.post("/api/v6/base64_to_url", json={"base64_string": data_uri("image/png", PNG)}, headers=headers).json()
    from_upload = PROMPT | {"init_image": upload["output"][0]}
    first = client.post(SUBMIT, json=from_upload, headers={**headers, "Idempotency-Key": "a"}).json()
    remix = f"{VIDEOS}/video_{first['id']}/remix"
    second = client.post(remix, json=PROMPT, headers={**headers, "Idempotency-Key": "b"}).json()
    delete(upload["id"])

    again = client.post(SUBMIT, json=from_upload, headers={**headers, "Idempotency-Key": "a"}).json()
    assert (again["id"], again["meta"]) == (first["id"], first["meta"])
    jobs.delete(first["id"])
    assert client.post(remix, json=PROMPT, headers={**headers, "Idempotency-Key": "b"}).json()["id"] == second["id"]
    assert client.post(remix, json=PROMPT, headers={**headers, "Idempotency-Key": "c"}).status_code == 404


def test_repr_of_an_idempotency_key_hides_the_fields() -> None:
    assert "pr_secret" not in repr(Idempotency("a", SUBMIT, {"key": "pr_secret"}))


def test_concurrent_repeats_of_a_request_get_one_job(client: TestClient, make_key: Callable[..., str]) -> None:
    headers = {"Idempotency-Key": "a1", "key": make_key()}
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: client.post(VIDEOS, json=PROMPT, headers=headers).json()["id"], range(8)))

    assert ids == ["video_1"] * 8


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_length_of_an_idempotency_key_is_limited(client: TestClient, key: str) -> None:
    answer = client.post(VIDEOS, json=PROMPT, headers={"Idempotency-Key": key})

    assert error_of(answer, 400)["param"] == "Idempotency-Key"


@pytest.mark.parametrize("is_set", [True, False])
def test_track_id_repeats_a_request_if_set(parts: AppParts, is_set: bool) -> None:
    client = TestClient(create_app(replace(parts, track_id_is_idempotent=is_set)))

    def submit(**fields: object) -> Any:
        return client.post(SUBMIT, json=PROMPT | fields).json().get("id")

    ids = [submit(track_id=5), submit(track_id=5), submit(track_id="5"), submit(track_id=None), submit(track_id="")]

    assert ids == ([1, 1, 2, 3, 4] if is_set else [1, 2, 3, 4, 5])
    assert (submit(track_id=5, seed=1) is None) is is_set
