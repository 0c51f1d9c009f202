"""`/v1/videos/{id}/events`: each change, and an end."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from fastapi.testclient import TestClient

from promptreel.api.parts import AppParts
from promptreel.api.v1.events import KEEP_ALIVE, Event, VideoWatcher, stream_events
from promptreel.jobs.job import JobStage
from promptreel.jobs.store import JobStore
from promptreel.storage.local import LocalStorage
from tests.api.test_openai import VIDEOS, claim, create, error_of


def collect(look: Callable[[], list[Event]], **options: Any) -> list[bytes]:
    async def gather() -> list[bytes]:
        return [chunk async for chunk in stream_events(look, **options)]

    return anyio.run(gather)


def read_events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Parses events like a browser. Each has an id."""
    blocks = [block.split("\n") for block in text.removesuffix("\n\n").split("\n\n") if block]
    assert all(seq.removeprefix("id: ").isdigit() for seq, _, _ in blocks)
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for _, name, data in blocks]


def test_events_of_a_finished_video_are_its_end(client: TestClient, finish_next: Callable[[bytes], None]) -> None:
    video_id = create(client)["id"]
    finish_next(b"video")

    answer = client.get(f"{VIDEOS}/{video_id}/events")

    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["Cache-Control"] == "no-store"
    assert read_events(answer.text) == [
        ("stage", {"status": "completed", "stage": None}),
        ("progress", {"progress": 100}),
        ("end", client.get(f"{VIDEOS}/{video_id}").json()),
    ]


def test_client_that_knows_the_state_is_not_told_again(client: TestClient, services: AppParts, jobs: JobStore) -> None:
    create(client)
    told = VideoWatcher(services, 1, links=partial(services.link_maker.start, "")).look()
    back = VideoWatcher(services, 1, links=partial(services.link_maker.start, ""), seq=told[-1].seq)

    assert [event.name for event in back.look() if event.name != "progress"] == []
    work, _ = claim(jobs)
    jobs.report(work, stage=JobStage.DENOISING, progress=0.5)
    late = VideoWatcher(services, 1, links=partial(services.link_maker.start, ""), seq=told[-1].seq)

    assert [event.name for event in back.look()] == [event.name for event in late.look()] == ["stage", "progress"]


def test_each_look_reports_what_has_changed(
    client: TestClient, services: AppParts, jobs: JobStore, storage: LocalStorage
) -> None:
    create(client)
    create(client)
    watcher = VideoWatcher(services, 2, links=partial(services.link_maker.start, "http://host"))

    def looked() -> list[tuple[str, Any]]:
        return [(event.name, event.data) for event in watcher.look()]

    def progress(found: list[tuple[str, Any]]) -> dict[str, Any]:
        (told,) = [data for name, data in found if name == "progress"]
        assert told.pop("eta") >= 1
        return told

    waiting = looked()
    assert waiting[0] == ("stage", {"status": "queued", "stage": None})
    assert progress(waiting) == {"progress": 0, "queue_position": 2}
    assert looked() == []

    jobs.cancel(1)
    work, job = claim(jobs)
    jobs.report(work, stage=JobStage.DENOISING, progress=0.25)
    storage.save_bytes(b"one", job.preview_key)
    running = looked()
    assert running[0] == ("stage", {"status": "in_progress", "stage": "denoising"})
    assert progress(running) == {"progress": 25, "queue_position": 0}
    assert running[2] == ("preview", {"url": f"http://host/files/{job.file_prefix}/preview.webp"})
    assert looked() == []

    storage.save_bytes(b"two", job.preview_key)
    assert [name for name, _ in looked()] == ["preview"]
    jobs.fail(work, code="out_of_memory", message="Ask for fewer frames.")
    assert [name for name, _ in looked()] == ["stage", "progress", "end"]


def test_queue_position_is_refreshed_regularly(client: TestClient, services: AppParts, jobs: JobStore) -> None:
    create(client)
    create(client)
    watcher = VideoWatcher(services, 2, links=partial(services.link_maker.start, ""))
    watcher.look()
    jobs.cancel(1)

    told = [event.data["queue_position"] for _ in range(10) for event in watcher.look()]

    assert told == [1]


def test_deleted_video_ends_its_events(client: TestClient, services: AppParts, jobs: JobStore) -> None:
    create(client)
    watcher = VideoWatcher(services, 1, links=partial(services.link_maker.start, ""))
    watcher.look()
    jobs.delete(1)

    assert watcher.look() == [Event("end", {"id": "video_1", "object": "video.deleted", "deleted": True}, 2)]


def test_silence_is_broken_by_comments_until_the_end() -> None:
    looks = iter([[], [], [], [Event("progress", {})], [], [], [Event("end", {"a": "é"})]])

    chunks = collect(lambda: next(looks), is_stopping=lambda: False, poll_seconds=0.001, keep_alive_seconds=0.002)

    assert chunks == [KEEP_ALIVE, b"event: progress\ndata: {}\n\n", KEEP_ALIVE, b'event: end\ndata: {"a": "\\u00e9"}\n\n']


def test_stream_ends_when_the_process_shuts_down() -> None:
    looks: list[int] = []

    def look() -> list[Event]:
        looks.append(1)
        return []

    assert collect(look, is_stopping=lambda: len(looks) == 3, poll_seconds=0.001) == []


def test_events_of_an_unknown_video_are_not_found(client: TestClient) -> None:
    assert error_of(client.get(f"{VIDEOS}/video_9/events"), 404)["code"] == "job_not_found"
