"""`/v1/events`: all changes of a caller's jobs in one stream, which goes on from where its client was."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import insert

from promptreel.api.app import create_app
from promptreel.api.authentication import Authenticator
from promptreel.api.parts import AppParts, Services
from promptreel.api.shared_looks import SharedLooks
from promptreel.api.v1.feed import stream_changes
from promptreel.jobs.changes import ChangeLog
from promptreel.jobs.database import Database, write_transaction
from promptreel.jobs.job import JobStage
from promptreel.jobs.keys import Caller, KeyStore
from promptreel.jobs.store import JobStore
from promptreel.jobs.tables import DELETED_KEPT, changes
from promptreel.jobs.views import OwnChanges, OwnImports, OwnJobs, OwnTrainings
from promptreel.storage.local import LocalStorage
from tests.api.test_openai import VIDEOS, claim, create
from tests.counting import make_count
from tests.jobs.factories import make_new_training

EVENTS = "/v1/events"
Told = tuple[str, int | None, dict[str, Any]]


@pytest.fixture
def brief(services: AppParts) -> Iterator[TestClient]:
    """A service whose streams end after a few looks."""
    looks = iter(range(10_000))
    parts = replace(services, looks=SharedLooks(poll_seconds=0.005), is_stopping=lambda: next(looks) % 4 == 3)
    with TestClient(create_app(parts), base_url="http://video.test:8000") as client:
        yield client


def read(client: TestClient, last_id: object = None, **headers: str) -> list[Told]:
    """The events as (name, id, data)."""
    sent = headers if last_id is None else headers | {"Last-Event-ID": str(last_id)}
    return parse(client.get(EVENTS, headers=sent).raise_for_status().text)


def parse(text: str) -> list[Told]:
    told = []
    for block in filter(None, text.split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        told.append((fields["event"], int(fields["id"]) if "id" in fields else None, json.loads(fields["data"])))
    return told


def short(told: list[Told]) -> list[tuple[str, str]]:
    """Names of events with what they are about, without those about the queue."""
    return [(name, data.get("id") or str(data)) for name, _, data in told if name != "queue"]


def test_stream_starts_now_and_says_that_it_does_not_know_what_was_before(client: TestClient, brief: TestClient) -> None:
    create(client)

    told = read(brief)

    assert short(told) == [("ready", "{'resumed': False}")]
    assert told[0][1] == 1


def test_stream_goes_on_after_the_last_event(
    client: TestClient, brief: TestClient, jobs: JobStore, finish_next: Callable[[bytes], None]
) -> None:
    first, second = create(client)["id"], create(client)["id"]
    finish_next(b"video")
    told = read(brief, 0)
    assert short(told) == [("ready", "{'resumed': True}"), ("video", second), ("video", first)]
    assert [seq for name, seq, _ in told if name == "video"] == [2, 4]
    assert told[-2 if told[-1][0] == "queue" else -1][2] == client.get(f"{VIDEOS}/{first}").json()

    client.delete(f"{VIDEOS}/{first}")
    client.post(f"{VIDEOS}/{second}/cancel")
    after = read(brief, 4)
    assert short(after) == [("ready", "{'resumed': True}"), ("deleted", first), ("video", second)]
    assert after[1][2] == {"id": first, "object": "video.deleted", "deleted": True}
    assert short(read(brief, after[2][1])) == [("ready", "{'resumed': True}")]


def test_imports_are_told_and_kinds_without_words_are_not(client: TestClient, brief: TestClient, jobs: JobStore) -> None:
    sent = client.post("/v1/models", json={"source": "https://example.com/m.safetensors", "id": "m"})
    made = sent.raise_for_status().json()
    jobs.submit(make_count(3))

    told = read(brief, 0)

    assert short(told) == [("ready", "{'resumed': True}"), ("import", made["id"])]
    assert told[1][2] == made


def test_trainings_are_told_with_each_report(client: TestClient, brief: TestClient, jobs: JobStore) -> None:
    queued = jobs.submit(make_new_training())
    work, _ = claim(jobs)
    last = read(brief, 0)[1][1]
    jobs.report(work, stage=JobStage.TRAINING, progress=0.0, report={"step": 3, "loss": 0.5})

    told = read(brief, last)

    assert short(told) == [("ready", "{'resumed': True}"), ("training", f"training_{queued.id}")]
    assert (told[1][2]["step"], told[1][2]["loss"]) == (3, 0.5)


def test_running_video_has_stage_and_the_version_of_its_preview(
    client: TestClient, brief: TestClient, jobs: JobStore, storage: LocalStorage
) -> None:
    create(client)
    work, job = claim(jobs)
    jobs.report(work, stage=JobStage.DENOISING, progress=0.25)
    assert "preview_version" not in read(brief, 0)[1][2]

    storage.save_bytes(b"one", job.preview_key)
    video = read(brief, 0)[1][2]
    assert (video["status"], video["stage"], video["progress"]) == ("in_progress", "denoising", 25)
    assert video["preview_version"] == storage.version(job.preview_key)
    assert client.get(f"{VIDEOS}/video_1/content?variant=preview").content == b"one"

    jobs.fail(work, code="out_of_memory", message="Ask for fewer frames.")
    assert client.get(f"{VIDEOS}/video_1/content?variant=preview").status_code == 404
    assert "preview_version" not in read(brief, 0)[1][2]


def test_queue_tells_places_and_times_of_what_is_not_done(client: TestClient, brief: TestClient) -> None:
    create(client)
    create(client)

    (queue,) = [data["videos"] for name, _, data in read(brief) if name == "queue"]

    assert [(each["id"], each["queue_position"]) for each in queue] == [("video_1", 1), ("video_2", 2)]
    assert all(each["eta"] >= 1 for each in queue)


def test_each_caller_gets_its_own_jobs_only(client: TestClient, brief: TestClient, keys: KeyStore) -> None:
    one, other = (keys.create(name)[1] for name in ("one", "other"))
    mine = client.post(VIDEOS, json={"prompt": "a cat"}, headers={"key": one}).json()["id"]
    its = client.post(VIDEOS, json={"prompt": "a ball"}, headers={"key": other}).json()["id"]

    assert short(read(brief, 0, key=one))[1:] == [("video", mine)]
    assert short(read(brief, 0, key=other))[1:] == [("video", its)]
    client.delete(f"{VIDEOS}/{mine}", headers={"key": one})
    assert short(read(brief, 0, key=other))[1:] == [("video", its)]
    assert short(read(brief, 0, key=one))[1:] == [("deleted", mine)]


@pytest.mark.parametrize("unknown", ["7", "-1", "x", "", "٣", "9" * 30])
def test_id_that_is_not_known_starts_anew(client: TestClient, brief: TestClient, unknown: str) -> None:
    create(client)

    assert short(read(brief, unknown.encode())) == [("ready", "{'resumed': False}")]


def test_forgotten_deletions_are_admitted(database: Database, jobs: JobStore) -> None:
    log = ChangeLog(database)
    rows = [{"job_id": 10**6 + n, "kind": "video", "is_deleted": True} for n in range(DELETED_KEPT)]
    with write_transaction(database) as connection:
        connection.execute(insert(changes), rows)
    assert log.reaches_back_to(1)

    job = jobs.submit(make_count(3))
    jobs.delete(job.id)
    assert not log.reaches_back_to(1)
    assert log.reaches_back_to(2)
    assert len(log.since(0, of=Caller(api_key_id=None), limit=2 * DELETED_KEPT)) == DELETED_KEPT


def test_heartbeats_are_no_changes(client: TestClient, database: Database, jobs: JobStore) -> None:
    create(client)
    work, _ = claim(jobs)
    jobs.report(work, stage=JobStage.DENOISING, progress=0.5)
    before = ChangeLog(database).last()

    jobs.heartbeat(work)
    jobs.report(work, stage=JobStage.DENOISING, progress=0.5)

    assert ChangeLog(database).last() == ChangeLog(database).last_of(1) == before == 3


def own_services(services: AppParts, caller: Caller) -> Services:
    shared = {name: getattr(services, name) for name in Services.__dataclass_fields__ if hasattr(services, name)}
    own = {"imports": OwnImports(services.jobs, caller), "trainings": OwnTrainings(services.jobs, caller)}
    rest = {"jobs": OwnJobs(services.jobs, caller), "changes": OwnChanges(services.changes, caller), "caller": caller}
    return Services(**shared | own | rest)


def test_stream_ends_when_the_key_is_revoked(services: AppParts, keys: KeyStore) -> None:
    key, _ = keys.create("k")
    caller = Caller(api_key_id=key.id)
    parts = replace(services, looks=SharedLooks(poll_seconds=0.001))
    seconds = itertools.count()
    authenticator = Authenticator(keys, serves_local=True, now=lambda: float(next(seconds)))  # a key is cached for a second
    is_known = partial(authenticator.still_knows, caller)

    async def count_looks() -> int:
        looks = 0
        async for _ in stream_changes(
            own_services(parts, caller), last_event_id=None, is_known=is_known, keep_alive_seconds=0, check_seconds=0
        ):
            looks += 1
            if looks == 5:
                keys.revoke(str(key.id))
        return looks

    assert anyio.run(count_looks) in {5, 6}


def test_streams_at_the_same_place_share_a_look() -> None:
    looks: list[int] = []

    async def share_among(streams: int) -> list[int]:
        shared, values = SharedLooks(poll_seconds=60, now=lambda: 30.0), []

        async def ask() -> None:
            values.append(await shared.share("place", lambda: looks.append(1) or len(looks)))

        async with anyio.create_task_group() as group:
            for _ in range(streams):
                group.start_soon(ask)
        return values

    assert anyio.run(share_among, 50) == [1] * 50


def test_failed_look_is_tried_again_by_the_next() -> None:
    async def ask_twice() -> str:
        shared = SharedLooks(poll_seconds=60)
        with pytest.raises(ZeroDivisionError):
            await shared.share("place", lambda: 1 // 0)
        return await shared.share("place", lambda: "found")

    assert anyio.run(ask_twice) == "found"
