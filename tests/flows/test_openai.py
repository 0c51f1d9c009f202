"""The open standard through the front door: OpenAI's own client, unmodified, and server-sent events."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from promptreel.jobs.job import JobStatus
from tests.encoding.files import encode_image, encode_video
from tests.flows.service import LENGTHS_OF_PREVIEWED, LONG, SHORT, STEPS_OF_PREVIEWED, Service, decode
from tests.waiting import wait_for

PROMPT = SHORT["prompt"]
MORE = {name: SHORT[name] for name in ("num_frames", "num_inference_steps", "seed")}

# The client says that the hosted service has shut down; the standard lives on.
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with make_client(service, "any") as client:
        yield client


def make_client(service: Service, key: str) -> openai.OpenAI:
    http_client = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, http_client=http_client)


def finish(client: openai.OpenAI, video: Any) -> Any:
    return wait_for(lambda: now if (now := client.videos.retrieve(video.id)).status in {"completed", "failed"} else None)


def test_sdk_creates_polls_downloads_lists_and_deletes(service: Service, client: openai.OpenAI) -> None:
    (model,) = [model.id for model in client.models.list()]
    video = client.videos.create(model=model, prompt=PROMPT, size="96x96", extra_body=MORE)
    assert (video.status, video.progress, video.size) == ("queued", 0, "96x96")
    done = finish(client, video)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert 0 < done.inference_time_s == pytest.approx(sum(done.stage_durations.values()), abs=0.01)

    content = client.videos.download_content(video.id).read()
    thumbnail = client.videos.download_content(video.id, variant="thumbnail").read()
    frames, _ = decode(content)
    with Image.open(io.BytesIO(thumbnail)) as picture:
        assert np.abs(np.asarray(picture.convert("RGB"), float) - frames[0]).mean() < 12
    by_v4 = service.make(**SHORT, enhance_prompt="no")
    assert service.download(by_v4) == content

    remix = finish(client, client.videos.remix(video.id, prompt="a blue star at night"))
    assert (remix.remixed_from_video_id, remix.seed) == (video.id, video.seed)
    assert client.videos.download_content(remix.id).read() != content
    listed = [each.id for each in itertools.islice(client.videos.list(limit=1), 3)]
    assert listed == [remix.id, f"video_{by_v4['id']}", video.id]

    job = service.jobs.get(int(video.id.removeprefix("video_")))
    assert client.videos.delete(video.id).deleted
    assert service.files_of(job) == []
    with pytest.raises(openai.NotFoundError, match="There is no such video"):
        client.videos.retrieve(video.id)


def test_sdk_uploads_what_a_video_starts_from_and_hears_what_is_wrong(service: Service, client: openai.OpenAI) -> None:
    picture = encode_image(np.full((96, 96, 3), (200, 40, 40), np.uint8))
    options = {**MORE, "strength": 0.2, "guidance_scale": 1, "num_inference_steps": 8}
    video = client.videos.create(prompt=PROMPT, size="96x96", input_reference=("a.png", picture), extra_body=options)
    assert finish(client, video).status == "completed"
    frames, _ = decode(client.videos.download_content(video.id).read())
    assert np.abs(frames[0].astype(float).mean((0, 1)) - (200, 40, 40)).max() < 60

    with pytest.raises(openai.BadRequestError) as caught:
        client.videos.create(prompt=PROMPT, size="9x9")
    assert (caught.value.param, caught.value.code) == ("size", "invalid_params")


def test_sdk_edits_a_video_of_its_own_or_another_and_hears_that_none_is_made_longer(client: openai.OpenAI) -> None:
    red = np.full((4, 96, 96, 3), (200, 40, 40), np.uint8)
    options = {**MORE, "strength": 0.2, "guidance_scale": 0, "num_inference_steps": 8}
    sent = client.videos.edit(prompt=PROMPT, video=("a.mp4", encode_video(red)), extra_body={**options, "size": "96x96"})
    first = finish(client, sent)
    # Its `edit` allows an object with an id by its types, and then refuses to send one.
    body = {"prompt": PROMPT, "video": {"id": first.id}, "strength": 0.2}
    second = finish(client, client.post("/videos/edits", body=body, cast_to=openai.types.Video))

    assert (first.status, second.status, second.remixed_from_video_id) == ("completed", "completed", first.id)
    assert (second.size, second.seed, second.num_inference_steps) == ("96x96", first.seed, 8)
    for video in (first, second):
        frames, _ = decode(client.videos.download_content(video.id).read())
        assert np.abs(frames[0].astype(float).mean((0, 1)) - (200, 40, 40)).max() < 60
    with pytest.raises(openai.APIStatusError, match="Videos are not extended here") as caught:
        client.videos.extend(prompt=PROMPT, seconds="4", video=("a.mp4", encode_video(red)))
    assert (caught.value.status_code, caught.value.code) == (501, "not_available")


def test_times_of_jobs_that_shared_the_device_add_up(service: Service, client: openai.OpenAI) -> None:
    with service.no_job_begins():
        asked = [client.videos.create(prompt=PROMPT, size="96x96", extra_body=MORE) for _ in range(3)]
    done = [finish(client, video) for video in asked]
    jobs = [service.jobs.get(int(video.id.removeprefix("video_"))) for video in asked]

    for video in done:
        assert video.inference_time_s == pytest.approx(sum(video.stage_durations.values()), abs=0.01)
    began = min(job.started_at for job in jobs if job.started_at)
    ended = max(job.finished_at for job in jobs if job.finished_at)
    assert sum(video.inference_time_s for video in done) <= (ended - began).total_seconds() + 0.05


def test_events_tell_of_a_job_until_its_end(service: Service) -> None:
    for num_frames in LENGTHS_OF_PREVIEWED:
        asked = {"prompt": PROMPT, "size": "96x96", **MORE, **STEPS_OF_PREVIEWED, "num_frames": num_frames}
        video = service.client.post(f"{service.url}/v1/videos", json=asked).raise_for_status().json()
        events = read_events(service, video)
        if [name for name, _ in events].count("progress") > 2 and "preview" in dict(events):
            break

    statuses = [data["status"] for name, data in events if name == "stage"]
    shares = [data["progress"] for name, data in events if name == "progress"]
    previews = {data["url"] for name, data in events if name == "preview"}
    assert list(dict.fromkeys(statuses))[-2:] == ["in_progress", "completed"]
    assert shares == sorted(shares)
    assert len(shares) > 2
    assert [url.startswith(service.url) for url in previews] == [True]
    assert [name for name, _ in events].index("end") == len(events) - 1
    assert events[-1][1] == service.client.get(f"{service.url}/v1/videos/{video['id']}").json()


def read_events(service: Service, video: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All until the video's end: their names and what they say."""
    with service.client.stream("GET", f"{service.url}/v1/videos/{video['id']}/events") as answer:
        lines = [line for line in answer.iter_lines() if line.startswith(("event: ", "data: "))]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in zip(lines[::2], lines[1::2], strict=True)
    ]


def test_stream_of_a_client_that_leaves_ends(service: Service) -> None:
    answer = service.ask(**LONG)
    path = f"/v1/videos/video_{answer['id']}/events"
    with service.client.stream("GET", service.url + path) as events:
        lines = events.iter_lines()
        assert next(lines).startswith("id: ")
        assert next(lines) == "event: stage"

    wait_for(lambda: f"GET {path} 200" in service.log.read_text())
    assert not service.job(answer).is_final
    service.jobs.cancel(answer["id"])
    service.finish(answer)


def test_deleting_a_running_video_stops_it(service: Service) -> None:
    answer = service.ask(**LONG)
    job = service.wait_until_running(answer)

    url = f"{service.url}/v1/videos/video_{job.id}"
    assert service.client.delete(url).json()["deleted"]

    assert service.client.get(url).status_code == 404
    wait_for(lambda: is_let_go(service, job.id), seconds=60)
    assert service.files_of(job) == []
    assert service.jobs.count(JobStatus.RUNNING) == 0


def is_let_go(service: Service, job_id: int) -> bool:
    """Whether the worker has said that it let go of the job."""
    return f"job {job_id} is no longer this worker's" in service.log.read_text()
