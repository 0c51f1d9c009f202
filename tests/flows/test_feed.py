"""`/v1/events` of a real service: many open streams cost little, and the documented program reads one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx

from tests.flows.service import SHORT, Service
from tests.rules.documents import code_blocks, read
from tests.waiting import LONGEST_SECONDS

STREAMS = 50
MEGABYTE = 1 << 20


def lines_of(stream: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a stream as they come, as (name, data). Its id is added to the data."""
    event: dict[str, str] = {}
    for line in stream.iter_lines():
        name, _, value = line.partition(": ")
        event[name] = value
        if not line and "event" in event:
            yield event["event"], {"seq": event.get("id"), **json.loads(event["data"])}
            event = {}


def end_of(stream: httpx.Response, video_id: str) -> str:
    """Waits for the video to be completed; the id of that event."""
    for name, data in lines_of(stream):
        if name == "video" and data["id"] == video_id and data["status"] not in {"queued", "in_progress"}:
            assert data["status"] == "completed", data
            return data["seq"]
    raise AssertionError("the stream ended before the video")


def test_fifty_open_streams_take_little_memory_and_all_hear_of_the_end(service: Service) -> None:
    api = service.child("api")
    limits = httpx.Limits(max_connections=STREAMS + 2)
    with ExitStack() as open_ones, httpx.Client(trust_env=False, timeout=LONGEST_SECONDS, limits=limits) as client:
        service.make(**SHORT)
        before = api.memory_info().rss
        streams = [open_ones.enter_context(client.stream("GET", f"{service.url}/v1/events")) for _ in range(STREAMS)]
        answer = service.ask(**SHORT)
        seen = {end_of(stream, f"video_{answer['id']}") for stream in streams}
        grown = api.memory_info().rss - before

    assert len(seen) == 1
    assert grown < 50 * MEGABYTE


def test_documented_program_follows_a_video(service: Service) -> None:
    (program,) = code_blocks(read("docs/events.md"), "python")
    names: dict[str, Any] = {}
    exec(program.partition("\n\nfor event")[0], names)
    events = names["follow"](service.url)
    (ready, _, last_id), answer = next(events), service.ask(**SHORT)
    service.finish(answer)

    told = ((data, seen) for event, data, seen in names["follow"](service.url, last_id) if event == "video")
    data, seen = next((data, seen) for data, seen in told if data["status"] != "in_progress")

    assert ready == "ready"
    assert (data["id"], data["status"], int(seen) > int(last_id)) == (f"video_{answer['id']}", "completed", True)
