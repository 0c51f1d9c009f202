"""The courier with a real receiver that fails, hangs, redirects and recovers; only the clock is simulated."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest
from httpcore2 import NetworkStream, SyncBackend
from standardwebhooks import Webhook

from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.database import Database, open_database, write_transaction
from promptreel.jobs.deliveries import Delivery, DeliveryAttempt, DeliveryState, DeliveryStore
from promptreel.jobs.job import JobStatus
from promptreel.jobs.keys import KeyStore
from promptreel.jobs.store import JobStore
from promptreel.notify.courier import AT_ONCE_A_RECEIVER, Courier
from tests.jobs.factories import START, Clock, make_new_job, make_result
from tests.notify.receiver import Message, Receiver, receiving
from tests.waiting import wait_for

EndJob = Callable[[str], int]


def deliver_due(courier: Courier) -> None:
    """Makes all attempts that are due now, one after the other."""
    while taken := courier.deliveries.claim(courier.owner):
        courier.deliver(*taken)


def log_of(courier: Courier, job_id: int) -> tuple[Delivery, list[DeliveryAttempt]]:
    ((delivery, attempts),) = courier.deliveries.list(job_id)
    return delivery, list(attempts)


def check_signature(message: Message, secret: str, sent_at: datetime) -> None:
    """Compares with the signature by `standardwebhooks` at that time; its `verify` accepts only the present."""
    expected = Webhook(secret).sign(message.id, sent_at, message.body.decode())
    assert message.headers["webhook-timestamp"] == str(int(sent_at.timestamp()))
    assert message.headers["webhook-signature"] == expected


@contextmanager
def running(courier: Courier) -> Iterator[None]:
    thread = threading.Thread(target=courier.run)
    thread.start()
    try:
        yield
    finally:
        courier.stop.set()
        thread.join()


def test_end_of_a_job_is_told_once_and_signed(
    courier: Courier, jobs: JobStore, receiver: Receiver, secret: str, clock: Clock
) -> None:
    clock.time = datetime.now(UTC)  # `verify` compares with the real time
    job = jobs.submit(make_new_job(webhook_url=receiver.url()))
    deliver_due(courier)
    assert receiver.received == []

    claim, _ = jobs.claim("w")
    clock.advance(2)
    jobs.finish(claim, make_result())
    deliver_due(courier)
    deliver_due(courier)

    (message,) = receiver.received
    told = message.verify(secret)
    assert (told["status"], told["id"], told["generationTime"]) == ("success", job.id, 2.0)
    assert message.headers["content-type"] == "application/json"
    delivery, (attempt,) = log_of(courier, job.id)
    assert (delivery.id, delivery.state, attempt.status) == (message.id, DeliveryState.DELIVERED, 200)


class WaitingNetwork(SyncBackend):
    """Waits `seconds` for each read, whatever the fetcher says; writing the request is not cut short."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def connect_tcp(self, *where: object) -> NetworkStream:
        stream = super().connect_tcp(*where)
        read = stream.read
        stream.read = lambda max_bytes, _timeout: read(max_bytes, self._seconds)
        return stream


def test_receiver_that_fails_hangs_redirects_and_recovers_gets_its_delivery(
    courier: Courier, end_job: EndJob, receiver: Receiver, secret: str, clock: Clock
) -> None:
    patient = courier.fetcher
    impatient = SafeFetcher(allow_hosts=["127.0.0.1"], allow_ports=[receiver.port], seconds=60, network=WaitingNetwork(0.1))
    job_id = end_job(receiver.url())
    told_at = []
    behaviours = [500, 429, threading.Event(), receiver.url("/elsewhere"), "http://169.254.169.254/latest/", 200]
    for behaviour in behaviours:
        receiver.behaviours["/hook"] = behaviour
        told_at.append(clock.time)
        courier.fetcher = impatient if isinstance(behaviour, threading.Event) else patient
        deliver_due(courier)
        if isinstance(behaviour, threading.Event):
            wait_for(lambda: len(receiver.messages()) == len(told_at))
            behaviour.set()
        delivery, _ = log_of(courier, job_id)
        if behaviour != 200:
            assert delivery.state is DeliveryState.PENDING
            clock.time = delivery.next_at

    delivery, attempts = log_of(courier, job_id)
    assert delivery.state is DeliveryState.DELIVERED
    assert [attempt.status for attempt in attempts] == [500, 429, None, 307, 307, 200]
    assert attempts[2].error == "127.0.0.1 took too long to answer. Try again, or use another host."
    assert attempts[3].error == attempts[4].error == "Redirects are not followed."
    assert [attempt.started_at for attempt in attempts] == told_at
    assert receiver.messages("/elsewhere") == []
    messages = receiver.messages()
    assert len(messages) == len(behaviours)
    assert {message.id for message in messages} == {delivery.id}
    assert {message.body for message in messages} == {messages[0].body}
    for message, sent_at in zip(messages, told_at, strict=True):
        check_signature(message, secret, sent_at)


def test_receiver_that_was_down_gets_its_delivery_when_it_is_back(courier: Courier, jobs: JobStore, clock: Clock) -> None:
    down = Receiver()
    courier.fetcher = SafeFetcher(allow_hosts=["127.0.0.1"], allow_ports=[down.port], seconds=60)
    job_id = jobs.cancel(jobs.submit(make_new_job(webhook_url=down.url())).id).id
    deliver_due(courier)
    delivery, (attempt,) = log_of(courier, job_id)
    assert (attempt.status, attempt.error) == (
        None, "127.0.0.1 could not be reached, or closed the connection. Try again, or use another host."
    )  # fmt: skip

    with receiving(down) as receiver:
        clock.time = delivery.next_at - timedelta(seconds=0.1)
        deliver_due(courier)
        assert receiver.received == []
        clock.time = delivery.next_at
        deliver_due(courier)
        assert len(receiver.received) == 1


def test_receiver_that_fails_for_a_day_is_given_up_and_can_be_asked_for_again(
    courier: Courier, end_job: EndJob, receiver: Receiver, clock: Clock
) -> None:
    receiver.behaviours["/hook"] = 503
    job_id = end_job(receiver.url())
    while (delivery := log_of(courier, job_id)[0]).state is DeliveryState.PENDING:
        clock.time = delivery.next_at
        deliver_due(courier)

    assert delivery.state is DeliveryState.DEAD
    assert clock.time - START == timedelta(hours=24)
    tried = len(receiver.received)
    assert tried == delivery.attempt >= 28
    receiver.behaviours["/hook"] = 200
    clock.advance(3600)
    deliver_due(courier)
    assert len(receiver.received) == tried

    courier.deliveries.redeliver(job_id)
    deliver_due(courier)
    assert log_of(courier, job_id)[0].state is DeliveryState.DELIVERED
    assert receiver.received[-1].id == receiver.received[0].id


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_success_is_delivered(courier: Courier, end_job: EndJob, receiver: Receiver, status: int) -> None:
    receiver.behaviours["/hook"] = status
    job_id = end_job(receiver.url())
    deliver_due(courier)

    assert log_of(courier, job_id)[0].state is DeliveryState.DELIVERED


def test_410_ends_a_delivery(courier: Courier, end_job: EndJob, receiver: Receiver, clock: Clock) -> None:
    receiver.behaviours["/hook"] = 410
    job_id = end_job(receiver.url())
    deliver_due(courier)
    clock.advance(86400)
    deliver_due(courier)

    assert log_of(courier, job_id)[0].state is DeliveryState.DEAD
    assert len(receiver.received) == 1


def test_address_that_is_not_public_at_delivery_is_not_called(
    courier: Courier, jobs: JobStore, receiver: Receiver, clock: Clock
) -> None:
    """The name resolved to a public address when the job was submitted, and to loopback when it ends."""
    courier.fetcher = SafeFetcher(allow_ports=[receiver.port], resolve=lambda *_: ["127.0.0.1"])
    job_id = jobs.cancel(jobs.submit(make_new_job(webhook_url=receiver.url(host="hooks.test"))).id).id
    deliver_due(courier)

    delivery, (attempt,) = log_of(courier, job_id)
    assert delivery.state is DeliveryState.PENDING
    assert attempt.error is not None
    assert attempt.error.startswith("hooks.test is not on the public internet, so the service does not connect to it.")
    assert receiver.received == []


def test_hanging_receiver_does_not_block_others(
    courier: Courier, end_job: EndJob, receiver: Receiver, deliveries: DeliveryStore
) -> None:
    hosts, waiting = ["localhost", "127.0.0.1"], WaitingNetwork(60)
    courier.fetcher = SafeFetcher(allow_hosts=hosts, allow_ports=[receiver.port], seconds=60, network=waiting)
    receiver.behaviours["/hangs"] = hanging = threading.Event()
    hung = [end_job(receiver.url("/hangs", host="localhost")) for _ in range(20)]
    quick = [end_job(receiver.url()) for _ in range(20)]
    with running(courier):
        wait_for(lambda: len(receiver.messages()) == len(quick) and len(receiver.messages("/hangs")) >= AT_ONCE_A_RECEIVER)
        assert len(receiver.messages("/hangs")) == AT_ONCE_A_RECEIVER
        hanging.set()
        wait_for(lambda: all(log_of(courier, job_id)[0].state is DeliveryState.DELIVERED for job_id in hung + quick))

    assert len({message.id for message in receiver.received}) == len(receiver.received) == 40


def hang_on_many_hosts(courier: Courier, receiver: Receiver, submit: Callable[[str], object], *, hosts: int) -> threading.Event:
    """Ends jobs with webhooks at this many hosts, all of which hang when called. Set the returned event to release them."""
    courier.fetcher = SafeFetcher(
        allow_networks=[ip_network("127.0.0.0/8")], allow_ports=[receiver.port], seconds=60, resolve=lambda *_: ["127.0.0.1"]
    )
    receiver.behaviours["/hangs"] = hanging = threading.Event()
    for number in range(hosts):
        submit(receiver.url("/hangs", host=f"host{number}.test"))
    return hanging


def test_many_hanging_hosts_do_not_block_another(courier: Courier, end_job: EndJob, receiver: Receiver) -> None:
    hanging = hang_on_many_hosts(courier, receiver, end_job, hosts=40)
    end_job(receiver.url(host="good.test"))
    with running(courier):
        wait_for(receiver.messages)
        wait_for(lambda: len(receiver.messages("/hangs")) == 40)
        hanging.set()


def test_receivers_of_one_key_that_hang_leave_places_to_the_other_keys(
    courier: Courier, jobs: JobStore, end_job: EndJob, database: Database, receiver: Receiver
) -> None:
    courier.at_once = 4
    key, _ = KeyStore(database).create("shop")
    hanging = hang_on_many_hosts(courier, receiver, end_job, hosts=4)
    waiting = end_job(receiver.url(host="good.test"))
    keys_job = jobs.submit(replace(make_new_job(webhook_url=receiver.url(host="good.test")), api_key_id=key.id))
    jobs.cancel(keys_job.id)
    with running(courier):
        (message,) = wait_for(receiver.messages)
        assert message.json()["id"] == keys_job.id
        wait_for(lambda: len(receiver.messages("/hangs")) == 2)
        assert log_of(courier, waiting)[0].attempt == 0  # it has the same API key as the hanging ones
        hanging.set()
        wait_for(lambda: log_of(courier, waiting)[0].state is DeliveryState.DELIVERED)


def test_receiver_hears_of_a_job_once_though_the_job_table_was_locked_when_it_answered(
    courier: Courier, end_job: EndJob, receiver: Receiver, database: Database, clock: Clock, secret: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    job_id = end_job(receiver.url())
    claim, delivery = courier.deliveries.claim(courier.owner)
    impatient = open_database(database.url.render_as_string(), busy_seconds=0.02)
    courier.deliveries = DeliveryStore(impatient, now=clock)
    with write_transaction(database):
        delivering = threading.Thread(target=courier.deliver, args=[claim, delivery])
        delivering.start()
        wait_for(lambda: "cannot be recorded yet" in caplog.text)
    delivering.join()
    impatient.dispose()

    delivery, (attempt,) = log_of(courier, job_id)
    assert (delivery.state, attempt.status, len(receiver.received)) == (DeliveryState.DELIVERED, 200, 1)


def test_two_couriers_tell_each_end_once(
    courier: Courier, database: Database, end_job: EndJob, receiver: Receiver, clock: Clock
) -> None:
    other = Courier(
        owner="courier-2", jobs=courier.jobs, deliveries=DeliveryStore(database, now=clock), secrets=courier.secrets,
        fetcher=courier.fetcher, to_body=courier.to_body, stop=threading.Event(),
    )  # fmt: skip
    ended = [end_job(receiver.url()) for _ in range(20)]
    with running(courier), running(other):
        wait_for(lambda: all(log_of(courier, job_id)[0].state is DeliveryState.DELIVERED for job_id in ended))

    assert sorted(message.json()["id"] for message in receiver.received) == ended
    assert {len(log_of(courier, job_id)[1]) for job_id in ended} == {1}


def test_job_whose_last_worker_is_gone_ends_and_is_told(
    courier: Courier, jobs: JobStore, receiver: Receiver, clock: Clock
) -> None:
    job = jobs.submit(make_new_job(webhook_url=receiver.url()))
    jobs.claim("the only worker")
    clock.advance(31)
    with running(courier):
        (message,) = wait_for(lambda: list(receiver.received))

    assert jobs.get(job.id).status is JobStatus.FAILED
    assert (message.json()["status"], message.json()["id"]) == ("failed", job.id)
    assert message.json()["message"].startswith("A worker died while running this job")


def test_job_that_is_deleted_meanwhile_is_not_told_and_nothing_breaks(
    courier: Courier, end_job: EndJob, jobs: JobStore, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="promptreel")
    before = end_job(receiver.url())
    taken = courier.deliveries.claim(courier.owner)
    jobs.delete(before)
    courier.deliver(*taken)
    assert receiver.received == []

    receiver.behaviours["/hook"] = asked = threading.Event()
    during = end_job(receiver.url())
    delivering = threading.Thread(target=deliver_due, args=[courier])
    delivering.start()
    wait_for(lambda: receiver.received)
    jobs.delete(during)
    asked.set()
    delivering.join()

    assert [record.levelname for record in caplog.records if "delivery" in record.getMessage()] == ["INFO", "INFO"]


def test_bug_in_the_body_does_not_end_the_delivery(courier: Courier, end_job: EndJob, receiver: Receiver, clock: Clock) -> None:
    to_body = courier.to_body
    courier.to_body = lambda *_: {"value": float("nan")}  # not JSON
    job_id = end_job(receiver.url())
    deliver_due(courier)
    delivery, (attempt,) = log_of(courier, job_id)
    assert attempt.error == "Something went wrong inside the courier. Its log has the details."

    courier.to_body = to_body
    clock.time = delivery.next_at
    deliver_due(courier)
    assert len(receiver.received) == 1


def test_job_of_an_api_key_is_signed_with_the_keys_own_secret(
    courier: Courier, jobs: JobStore, database: Database, receiver: Receiver
) -> None:
    keys = KeyStore(database)
    key, _ = keys.create("shop")
    job = jobs.submit(replace(make_new_job(webhook_url=receiver.url()), api_key_id=key.id))
    keys.revoke(str(key.id))
    jobs.cancel(job.id)
    deliver_due(courier)

    (message,) = receiver.received
    check_signature(message, key.webhook_secret, START)


def test_log_names_no_path_of_the_url(
    courier: Courier, end_job: EndJob, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """A webhook's path often contains a secret."""
    caplog.set_level(logging.DEBUG, logger="promptreel")
    receiver.behaviours["/secret"] = 500
    end_job(receiver.url("/secret"))
    end_job(receiver.url("/other-secret"))
    deliver_due(courier)

    assert len(caplog.records) == 2
    assert "secret" not in caplog.text
