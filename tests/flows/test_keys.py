"""A service that needs a key: each client's error for an unknown key, and the jobs of a valid one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from modelslab_py.core.apis.video import Video
from modelslab_py.schemas.video import Text2Video

from promptreel.jobs.job import JobStatus
from promptreel.jobs.keys import ApiKey, KeyLimits
from tests.command_line import run_promptreel
from tests.flows.service import LONG, SHORT, Service
from tests.flows.test_generate_on_server import SMALL, start
from tests.flows.test_hosted_clients import BY_THE_SDK, PROMPT, make_command_line, make_sdk
from tests.flows.test_openai import make_client

ROUNDED = "promptreel: the video is 96x96, not 96x100: sides are multiples of 8\n"

WRONG = "pr_wrong"


@pytest.fixture(scope="module")
def only(service: Service) -> Iterator[ApiKey]:
    """The one key of the service, which runs one job at a time."""
    key = service.need_key(KeyLimits(max_running=1))
    yield key
    service.revoke_key(key)


def newest(service: Service) -> int:
    """The id of the newest job; 0 if there is none."""
    return next((job.id for job in service.jobs.list(limit=1)), 0)


def check_and_cancel(service: Service, only: ApiKey, job_id: str) -> None:
    """The newest job is this one, and the key's."""
    service.jobs.cancel(newest(service))
    assert (job_id, service.jobs.get(int(job_id)).api_key_id) == (str(newest(service)), only.id)


def cancel(service: Service, answer: dict[str, Any]) -> str:
    """What `promptreel jobs cancel` prints."""
    return run_promptreel("jobs", "cancel", answer["id"], "--data-dir", service.data_dir).stdout


def test_command_line_stops_on_an_unknown_key(service: Service, only: ApiKey, tmp_path: Path) -> None:
    before = newest(service)
    refused = make_command_line(service, WRONG, tmp_path)("video", "--prompt", PROMPT)
    assert (refused.returncode, refused.stdout, "Invalid API key" in refused.stderr) == (3, "", True)
    assert newest(service) == before

    queued = make_command_line(service, service.key, tmp_path)("video", "--prompt", PROMPT, "--no-wait")
    (job_id,) = [line.split()[2] for line in queued.stdout.splitlines() if line.startswith("Job queued: ")]
    check_and_cancel(service, only, job_id)


@pytest.mark.parametrize("enterprise", [False, True])
def test_sdk_returns_the_refusal_of_an_unknown_key(service: Service, only: ApiKey, enterprise: bool) -> None:
    before, asked = newest(service), Text2Video(**BY_THE_SDK)
    refused = Video(make_sdk(service, WRONG), enterprise=enterprise).text_to_video(asked)
    assert refused == {"status": "error", "message": "Invalid API key", "messege": "Invalid API key"}
    assert newest(service) == before

    video = Video(make_sdk(service, service.key), enterprise=enterprise)
    job_id = str(video.text_to_video(asked)["id"])
    assert video.fetch(job_id)["status"] == "success"
    check_and_cancel(service, only, job_id)


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_client_of_the_open_standard_raises_its_authentication_error(service: Service, only: ApiKey) -> None:
    before = newest(service)
    with make_client(service, WRONG) as client, pytest.raises(openai.AuthenticationError) as caught:
        client.videos.create(prompt=PROMPT)
    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
    assert caught.value.body["message"] == "Invalid API key"
    assert newest(service) == before

    with make_client(service, service.key) as client:
        video = client.videos.create(prompt=PROMPT)
        assert client.videos.retrieve(video.id).id == video.id
    check_and_cancel(service, only, video.id.removeprefix("video_"))


def test_generate_on_a_server_says_in_one_line_that_the_key_is_unknown(service: Service, only: ApiKey, tmp_path: Path) -> None:
    before, video = newest(service), tmp_path / "cat.mp4"
    asked = ["a cat", *SMALL, "--server", service.url, "--api-key"]
    refused, served = start(*asked, WRONG, "-o", tmp_path / "none.mp4"), start(*asked, service.key, "-o", video)
    told = [process.communicate(timeout=240) for process in (refused, served)]

    assert (refused.returncode, *told[0]) == (2, "", f"{ROUNDED}promptreel: Invalid API key\n")
    assert (served.returncode, list(tmp_path.iterdir())) == (0, [video]), told[1]
    (job,) = [job for job in service.jobs.list(limit=2) if job.id > before]
    assert (job.status, job.api_key_id) == (JobStatus.SUCCEEDED, only.id)


def test_running_and_waiting_jobs_of_a_key_can_be_cancelled(service: Service, only: ApiKey) -> None:
    run_promptreel("jobs", "list", "--data-dir", service.data_dir)  # the first one takes seconds, which may be the long job's
    running = service.ask(**LONG)
    service.wait_until_running(running)
    waiting = service.ask(**SHORT)

    assert "cancelled" in cancel(service, waiting)
    assert "cancel asked" in cancel(service, running)
    for answer in (waiting, running):
        ended = service.finish(answer)
        assert (ended["status"], ended["message"], ended["output"]) == ("failed", "Cancelled", [])
        job = service.job(answer)
        assert (job.status, job.api_key_id) == (JobStatus.CANCELLED, only.id)
        assert service.client.get(answer["future_links"][0]).status_code == 404
