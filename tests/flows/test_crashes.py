"""Whatever is killed, a job that was accepted ends in exactly one success, and nothing is left running."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import httpx
import psutil
import pytest

from promptreel.jobs.job import Job, JobStatus
from tests.flows.service import SHORT, Service, decode
from tests.waiting import wait_for

# Long enough to be caught half-way on a fast machine: 200 frames and calls a worker's thread.
CAUGHT = SHORT | {"num_frames": 20, "num_inference_steps": 50, "guidance_scale": 1}


@pytest.fixture(scope="module")
def crashing_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of this file alone. Its tests leave it running or ended, as it happens."""
    service = Service(tmp_path_factory.mktemp("crashes"), lease_seconds=5)
    service.start()
    yield service
    service.stop()


@pytest.fixture
def service(crashing_service: Service) -> Service:
    if crashing_service.process.poll() is not None:
        crashing_service.start()
    return crashing_service


def check_one_success(service: Service, answer: dict[str, object]) -> Job:
    """The job has succeeded once, in its second attempt, with one whole file."""
    success = service.finish(answer)
    assert success["status"] == "success"
    job = service.job(answer)
    assert job.attempt == 2
    assert service.files_of(job) == ["2.mp4"]
    frames, _ = decode(httpx.get(f"{service.url}/files/{job.file_prefix}.mp4", trust_env=False).content)
    assert len(frames) == CAUGHT["num_frames"]
    return job


def wait_until_gone(processes: list[psutil.Process]) -> None:
    wait_for(lambda: not any(is_running(process) for process in processes))


def is_running(process: psutil.Process) -> bool:
    """A zombie has ended: only its parent, which may be gone in a container, has not looked."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_job_of_a_killed_worker_is_made_by_the_next_one(service: Service) -> None:
    answer = service.ask(**CAUGHT)
    lost = service.wait_until_running(answer)
    worker = service.child("worker")
    worker.kill()

    job = check_one_success(service, answer)
    assert service.child("worker").pid != worker.pid
    assert job.started_at is not None
    assert lost.started_at is not None
    assert job.started_at > lost.started_at


def test_killed_api_comes_back_on_its_port_and_no_job_is_lost(service: Service) -> None:
    answers = [service.ask(**SHORT | {"seed": seed}) for seed in range(3)]
    api = service.child("api")
    api.kill()

    # New connections wait in the supervisor's socket; none is refused.
    with httpx.Client(trust_env=False, timeout=120) as client:
        assert client.get(f"{service.url}/health").json()["status"] == "ok"
    for answer in answers:
        assert service.finish(answer)["status"] == "success"
        assert service.job(answer).attempt == 1
    assert service.child("api").pid != api.pid


def test_stopped_service_gives_its_job_back_and_finishes_it_after_a_restart(service: Service) -> None:
    answer = service.ask(**CAUGHT)
    service.wait_until_running(answer)
    children = service.children()
    with service.client.stream("GET", f"{service.url}/v1/videos/video_{answer['id']}/events") as events:
        next(events.iter_lines())
        code = service.stop()

    assert code == 0
    assert "api did not stop" not in service.log.read_text()
    job = service.job(answer)
    assert (job.status, job.owner) == (JobStatus.QUEUED, None)
    assert not any(is_running(child) for child in children)
    service.start()
    check_one_success(service, answer)


def test_no_child_survives_a_killed_supervisor(service: Service) -> None:
    answer = service.ask(**CAUGHT)
    service.wait_until_running(answer)
    children = service.children()
    assert len(children) == 3  # api, courier and worker
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()

    wait_until_gone(children)
    assert service.job(answer).status is JobStatus.QUEUED  # the worker gave it back before it ended
    service.start()
    check_one_success(service, answer)


def test_job_survives_the_death_of_every_process_at_once(service: Service) -> None:
    answer = service.ask(**CAUGHT)
    waiting = service.ask(**SHORT)
    service.wait_until_running(answer)
    children = service.children()
    for process in (service.process.pid, *(child.pid for child in children)):
        os.kill(process, signal.SIGKILL)
    service.process.wait()
    wait_until_gone(children)
    assert service.job(answer).status is JobStatus.RUNNING  # nobody was left to say otherwise

    service.start()
    check_one_success(service, answer)
    assert service.finish(waiting)["status"] == "success"
    assert not re.search("Traceback", service.log.read_text())
