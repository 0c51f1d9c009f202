"""Every endpoint: whether it needs a key, and what it answers about another caller's jobs and uploads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.api.authentication import Authenticator
from promptreel.api.bodies import read_fields, read_fields_with_files, read_fields_with_init
from promptreel.api.dependencies import find_caller
from promptreel.api.legacy.paths import FETCH_BY_FIELD_PATHS
from promptreel.api.problems import body_of, status_to_send
from promptreel.api.router import build_router
from promptreel.errors import InvalidApiKey
from promptreel.jobs.database import Database
from promptreel.jobs.keys import KeyStore
from promptreel.jobs.kinds import KINDS, Kinds
from promptreel.jobs.store import JobStore
from tests.api.conftest import SUBMIT
from tests.api.test_inits import PNG, data_uri
from tests.api.test_openai import VIDEOS
from tests.counting import KINDS_WITH_COUNT, make_count
from tests.jobs.factories import make_new_job

OPEN = {
    "/",
    "/web/{version}/{path:path}",
    "/docs",
    "/docs/",
    "/docs/{name}",
    "/health",
    "/health/ready",
    "/files/{file_prefix}.{output_type}",
    "/files/{file_prefix}/preview.webp",
    "/files/{file_prefix}/sample.webp",
    "/uploads/{name}.{ending}",
}
READERS = {read_fields, read_fields_with_init, read_fields_with_files}
HISTORY = "/api/v6/assets_generated"
DELETE = "/api/v3/delete_image"
# How a path spells a job's id, by the parameter's name.
SPELLINGS = {"job_id": "{}", "video_id": "video_{}", "import_id": "import_{}", "training_id": "training_{}"}
# Endpoints that take a job's id in the field `request_id`.
BY_FIELD = {*FETCH_BY_FIELD_PATHS, DELETE}
UNKNOWN_ID = 9999


def routes() -> list[APIRoute]:
    return [route for route in build_router().routes if isinstance(route, APIRoute)]


def requests(closed: bool) -> Iterator[tuple[str, str]]:
    return (
        (method, route.path) for route in routes() if (route.path not in OPEN) is closed for method in sorted(route.methods)
    )


def calls_of(dependant: Dependant) -> list[Callable[..., Any]]:
    """All dependencies, in the order of the parameters."""
    return [call for each in dependant.dependencies for call in (*calls_of(each), each.call) if call is not None]


def test_every_handler_authenticates_or_is_listed_as_open() -> None:
    asking = {route.path for route in routes() if find_caller in calls_of(route.dependant)}

    assert asking == {route.path for route in routes()} - OPEN
    assert {route.path for route in routes()} >= OPEN


def test_fields_are_read_before_the_caller_is_found() -> None:
    """The first reader sets the body limit, and the key may be in the body."""
    for route in routes():
        calls = calls_of(route.dependant)
        read = [calls.index(reader) for reader in READERS if reader in calls]
        assert not read or calls.index(find_caller) > max(read), route.path


def test_nothing_is_answered_without_a_key(client: TestClient, keys: KeyStore) -> None:
    keys.create("k")

    for method, path in requests(closed=True):
        for sent in ("", "pr_wrong"):
            answer = client.request(method, fill(path), params={"key": sent})
            status = status_to_send(path, 401, ())
            assert status in {200, 401}, path
            assert answer.status_code == status, path
            assert method == "HEAD" or answer.json() == body_of(InvalidApiKey("Invalid API key"), path, status), path
            assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_open_endpoints_need_no_key(client: TestClient, keys: KeyStore) -> None:
    keys.create("k")

    for method, path in [*requests(closed=False), ("GET", "/openapi.json")]:
        expected = 404 if "{" in path else 503 if path == "/health/ready" else 200  # there is no worker here
        assert client.request(method, fill(path)).status_code == expected, path


def fill(path: str) -> str:
    return path.replace(":path}", "}").format_map(Ones())


class Ones(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "1"


@dataclass(frozen=True)
class Company:
    """Two callers; the first has a finished job, a waiting one and an upload, the second one job of its own."""

    owner: dict[str, str]
    other: dict[str, str]
    finished: int
    waiting: int
    upload: dict[str, Any]


@pytest.fixture
def company(client: TestClient, keys: KeyStore, finish_next: Callable[[bytes], None]) -> Company:
    owner, other = ({"key": keys.create(name)[1]} for name in ("owner", "other"))

    def submit(headers: dict[str, str]) -> int:
        return client.post(SUBMIT, json={"prompt": "a red cat"}, headers=headers).json()["id"]

    finished = submit(owner)
    finish_next(b"video")
    uploaded = client.post("/api/v6/base64_to_url", json={"base64_string": data_uri("image/png", PNG)}, headers=owner)
    waiting = submit(owner)
    submit(other)
    return Company(owner, other, finished, waiting, uploaded.json())


def requests_for_a_job() -> Iterator[tuple[str, str]]:
    for method, path in requests(closed=True):
        if path in BY_FIELD or any(f"{{{name}}}" in path for name in SPELLINGS):
            yield method, path


def ask(client: TestClient, method: str, path: str, job_id: int, headers: dict[str, str]) -> tuple[object, ...]:
    """The answer about a job, without the request's own id."""
    spelled = {name: spelling.format(job_id) for name, spelling in SPELLINGS.items()}
    fields = {"request_id": str(job_id), "prompt": "a"}
    answer = client.request(method, path.format_map(Ones(spelled)), params=fields, headers=headers)
    told = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status_code, answer.content, told


def test_job_of_another_key_is_answered_like_an_unknown_id(client: TestClient, company: Company, jobs: JobStore) -> None:
    before = jobs.list()
    for method, path in requests_for_a_job():
        unknown = ask(client, method, path, UNKNOWN_ID, company.other)
        assert ask(client, method, path, company.finished, company.other) == unknown, path
        assert ask(client, method, path, company.waiting, company.other) == unknown, path
        assert jobs.list() == before, path  # nothing was cancelled, deleted or made
        if (method == "GET" or "fetch" in path) and "import_id" not in path and "training_id" not in path:
            assert ask(client, method, path, company.finished, company.owner) != unknown, path


@pytest.mark.parametrize("kinds", [KINDS, KINDS_WITH_COUNT], ids=["unknown to this version", "known"])
def test_job_of_another_kind_is_answered_like_an_unknown_id(
    services: AppParts, company: Company, keys: KeyStore, database: Database, kinds: Kinds
) -> None:
    """By every endpoint about videos. Lists, counts and estimates work beside it."""
    owner = keys.find(company.owner["key"])
    assert owner is not None
    newer = JobStore(database, kinds=KINDS_WITH_COUNT)
    count = newer.submit(make_count(api_key_id=owner.id))
    before = newer.list()
    with TestClient(create_app(replace(services, jobs=JobStore(database, kinds=kinds)))) as client:
        for method, path in requests_for_a_job():
            unknown = ask(client, method, path, UNKNOWN_ID, company.owner)
            assert ask(client, method, path, count.id, company.owner) == unknown, path
        assert client.get(f"/files/{count.file_prefix}.txt").status_code == 404
        assert client.get(f"/files/{count.file_prefix}/preview.webp").status_code == 404
        listed = client.get(VIDEOS, headers=company.owner).json()["data"]
        assert client.get("/health").json()["queued"] == 3
        assert client.post("/api/v3/system_load", headers=company.owner).status_code == 200
        assert newer.list() == before
        assert client.post(SUBMIT, json={"prompt": "a red cat"}, headers=company.owner).json()["eta"] > 0

    assert [video["id"] for video in listed] == [f"video_{company.waiting}", f"video_{company.finished}"]


def test_this_file_knows_the_id_parameters_of_all_endpoints() -> None:
    names = {name for route in routes() for name in route.param_convertors}

    of_the_page = {"version", "path"}
    assert names == {*SPELLINGS, "model_id", "number", "file_prefix", "output_type", "name", "ending", *of_the_page}
    assert len(list(requests_for_a_job())) >= 10


def test_lists_and_counts_contain_only_the_callers_jobs(client: TestClient, company: Company) -> None:
    own = client.post(HISTORY, headers=company.owner).json()
    others = client.post(HISTORY, headers=company.other).json()

    assert ([entry["id"] for entry in own["data"]], own["pagination"]["total"]) == ([company.finished], 1)
    assert (others["data"], others["pagination"]["total"]) == ([], 0)

    def ids(headers: dict[str, str], **query: str) -> list[str]:
        return [video["id"] for video in client.get(VIDEOS, params=query, headers=headers).json()["data"]]

    assert ids(company.owner) == ["video_2", "video_1"]
    assert ids(company.other) == ids(company.other, order="asc", after="video_1") == ["video_3"]
    assert ids(company.other, after="video_3") == []


def test_upload_is_deleted_only_by_its_own_key(client: TestClient, company: Company) -> None:
    (link,) = company.upload["output"]

    def delete(upload_id: int, headers: dict[str, str]) -> bytes:
        return client.post(DELETE, json={"request_id": upload_id}, headers=headers).content

    assert delete(company.upload["id"], company.other) == delete(2**53 - 1, company.other)
    assert client.get(link).content == PNG
    assert b"image deleted" in delete(company.upload["id"], company.owner)
    assert client.get(link).status_code == 404


def test_queue_of_all_callers_counts_for_estimates_but_shows_only_numbers(
    client: TestClient, company: Company, jobs: JobStore
) -> None:
    video = client.get(f"{VIDEOS}/video_3", headers=company.other).json()
    load = client.post("/api/v3/system_load", headers=company.other).json()

    assert (video["queue_position"], load["queue_num"]) == (2, 2)


def test_local_callers_jobs_are_not_those_of_the_first_key(services: AppParts, keys: KeyStore, jobs: JobStore) -> None:
    jobs.submit(make_new_job())
    headers = {"key": keys.create("first")[1]}
    client = TestClient(create_app(services))

    assert client.get(f"{VIDEOS}/video_1", headers=headers).status_code == 404
    keys.revoke("1")
    afterwards = TestClient(create_app(replace(services, authenticator=Authenticator(keys, serves_local=True))))
    assert afterwards.get(f"{VIDEOS}/video_1").status_code == 200
