"""Whatever is killed, a job that was accepted ends in exactly one success, its webhook hears of it, and nothing is left.

The service needs an API key. All jobs are that key's, and one of them runs at a time.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import update

from promptreel.jobs.database import write_transaction
from promptreel.jobs.deliveries import LOST, Delivery, DeliveryState, DeliveryStore
from promptreel.jobs.job import Job, JobStatus
from promptreel.jobs.keys import ApiKey, KeyLimits
from promptreel.jobs.store import utc_now
from promptreel.jobs.tables import deliveries, jobs
from tests.flows.service import SHORT, Service, decode
from tests.flows.test_feed import end_of, lines_of
from tests.notify.receiver import Receiver
from tests.waiting import LONGEST_SECONDS, wait_for

# Long enough to be caught half-way here; on a fast machine, with twice as many frames or more.
CAUGHT = SHORT | {"num_frames": 8, "num_inference_steps": 50, "guidance_scale": 1}


@pytest.fixture(scope="module")
def key(calling_service: Service) -> Iterator[ApiKey]:
    key = calling_service.need_key(KeyLimits(max_running=1))
    yield key
    calling_service.revoke_key(key)


@pytest.fixture
def service(calling_service: Service, key: ApiKey) -> Service:
    """The service, restarted if the last test stopped it."""
    if calling_service.process.poll() is not None:
        calling_service.start()
    return calling_service


def check_one_success(service: Service, answer: dict[str, object]) -> Job:
    """The job has succeeded once, in its second attempt, with one whole file."""
    success = service.finish(answer)
    assert success["status"] == "success"
    job = service.job(answer)
    assert job.attempt == 2
    assert service.files_of(job) == ["2.mp4"]
    frames, _ = decode(httpx.get(f"{service.url}/files/{job.file_prefix}.mp4", trust_env=False, timeout=60).content)
    assert len(frames) == job.params.num_frames
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
    answer = service.catch(**CAUGHT)[-1]
    lost = service.job(answer)
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
    answer = service.catch(**CAUGHT)[-1]
    children, worker = service.children(), service.child("worker")
    with service.client.stream("GET", f"{service.url}/v1/videos/video_{answer['id']}/events") as events:
        lines = events.iter_lines()
        next(lines)
        service.process.terminate()
        list(lines)  # they end once the api is to stop, and the worker is told so before it
        worker.resume()
    code = service.stop()

    assert code == 0
    assert "api did not stop" not in service.log.read_text()
    job = service.job(answer)
    assert (job.status, job.owner) == (JobStatus.QUEUED, None)
    assert not any(is_running(child) for child in children)
    service.start()
    check_one_success(service, answer)


def test_no_child_survives_a_killed_supervisor(service: Service) -> None:
    answer = service.catch(**CAUGHT)[-1]
    children, worker = service.children(), service.child("worker")
    assert len(children) == 3  # api, courier and worker
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    worker.resume()

    wait_until_gone(children)
    assert service.job(answer).status is JobStatus.QUEUED  # the worker gave it back before it ended
    service.start()
    check_one_success(service, answer)


def kill_everything(service: Service) -> None:
    children = service.children()
    service.process.send_signal(signal.SIGSTOP)  # so that it restarts no child, and no child sees it die
    for child in children:
        child.kill()
    service.process.kill()
    service.process.wait()
    wait_until_gone(children)


def deliveries_of(service: Service, answers: Sequence[dict[str, Any]]) -> list[Delivery]:
    store = DeliveryStore(service.database)
    return [delivery for answer in answers for delivery, _ in store.list(answer["id"])]


def make_hanging_deliveries(service: Service, receiver: Receiver) -> list[dict[str, Any]]:
    """Jobs that have ended, two of whose webhooks wait for the receiver's answer, so that the third is due and waits too.

    The courier that sends them stands still.
    """
    receiver.behaviours["/hook"] = threading.Event()
    courier = service.child("courier")
    service.freeze(courier)
    told = [service.ask(**SHORT, webhook=receiver.url()) for _ in range(3)]
    assert [service.finish(answer)["status"] for answer in told] == ["success"] * 3
    courier.resume()
    wait_for(lambda: len(receiver.messages()) == 2)
    service.freeze(courier)  # it would wait for ten seconds only
    return told


def end_leases(service: Service) -> None:
    """Ends all leases at once, instead of waiting 30 s for jobs and 90 s for deliveries."""
    with write_transaction(service.database) as connection:
        running, sending = jobs.c.status == JobStatus.RUNNING, deliveries.c.state == DeliveryState.SENDING
        for table, held in ((jobs, running), (deliveries, sending)):
            connection.execute(update(table).where(held).values(lease_until=utc_now()))


def test_jobs_and_webhooks_of_a_key_survive_the_death_of_every_process_at_once(
    service: Service, key: ApiKey, receiver: Receiver
) -> None:
    told = make_hanging_deliveries(service, receiver)
    *ended, running = service.catch(**CAUGHT, webhook=receiver.url())
    waiting = service.ask(**SHORT, webhook=receiver.url())
    kill_everything(service)

    before = deliveries_of(service, told)
    assert sorted(delivery.state for delivery in before) == ["pending", "sending", "sending"]
    assert (service.job(running).status, service.job(waiting).status) == (JobStatus.RUNNING, JobStatus.QUEUED)

    end_leases(service)
    del receiver.behaviours["/hook"]
    service.start()
    check_one_success(service, running)
    assert service.finish(waiting)["status"] == "success"
    every = [*told, *ended, running, waiting]
    wait_for(lambda: all(delivery.state is DeliveryState.DELIVERED for delivery in deliveries_of(service, every)))
    check_each_told_once(service, key, receiver, every, again={each.job_id for each in before if each.attempt == 1})
    assert not re.search("Traceback", service.log.read_text())


def check_each_told_once(
    service: Service, key: ApiKey, receiver: Receiver, answers: Sequence[dict[str, Any]], *, again: set[int]
) -> None:
    """Each job has one delivery; its message came once, or twice for those in `again`, the same each time and signed."""
    messages = receiver.messages()
    made = deliveries_of(service, answers)
    assert [delivery.job_id for delivery in made] == [answer["id"] for answer in answers]
    for delivery in made:
        bodies = [message.verify(key.webhook_secret) for message in messages if message.id == delivery.id]
        assert [(body["status"], body["id"]) for body in bodies] == [("success", delivery.job_id)] * len(bodies)
        assert len(bodies) == (2 if delivery.job_id in again else 1)
    assert {message.id for message in messages} == {delivery.id for delivery in made}
    store = DeliveryStore(service.database)
    for job_id in again:
        ((_, attempts),) = store.list(job_id)
        assert [(attempt.status, attempt.error) for attempt in attempts] == [(None, LOST), (200, None)]


def test_stream_of_events_goes_on_after_a_restart(service: Service) -> None:
    with service.client.stream("GET", f"{service.url}/v1/events", timeout=LONGEST_SECONDS) as stream:
        first = service.ask(**SHORT)
        seen = end_of(stream, f"video_{first['id']}")
    service.stop()
    service.start()
    second = service.ask(**SHORT)
    service.finish(second)

    with service.client.stream(
        "GET", f"{service.url}/v1/events", timeout=LONGEST_SECONDS, headers={"Last-Event-ID": seen}
    ) as stream:
        told = lines_of(stream)
        assert next(told) == ("ready", {"seq": seen, "resumed": True})
        name, data = next(told)
    assert (name, data["id"], data["status"]) == ("video", f"video_{second['id']}", "completed")
