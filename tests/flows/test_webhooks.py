"""Webhooks of a real service: told once the video is there, whatever is killed in between."""

from __future__ import annotations

import threading

import httpx
import pytest

from promptreel.jobs.deliveries import LOST, DeliveryState, DeliveryStore
from tests.command_line import run_promptreel
from tests.flows.service import SHORT, Service, decode
from tests.notify.receiver import Message, Receiver
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def service(calling_service: Service) -> Service:
    return calling_service


@pytest.fixture(scope="module")
def secret(service: Service) -> str:
    return run_promptreel("jobs", "webhook-secret", "--data-dir", service.data_dir).stdout.strip()


def wait_for_message(receiver: Receiver, path: str, number: int = 1) -> Message:
    return wait_for(lambda: messages[number - 1] if len(messages := receiver.messages(path)) >= number else None)


def test_success_is_told_signed_with_a_video_that_is_there(service: Service, receiver: Receiver, secret: str) -> None:
    answer = service.ask(**SHORT, webhook=receiver.url("/legacy"), track_id=17)
    told = wait_for_message(receiver, "/legacy").verify(secret)

    assert (told["status"], told["id"], told["track_id"]) == ("success", answer["id"], 17)
    (link,) = told["output"]
    assert link == answer["future_links"][0]
    frames, _ = decode(httpx.get(link, trust_env=False, timeout=60).raise_for_status().content)
    assert len(frames) == SHORT["num_frames"]


def test_video_of_the_open_standard_is_told_as_an_event(service: Service, receiver: Receiver, secret: str) -> None:
    fields = {"prompt": "a red ball", "size": "96x96", "num_frames": 4, "num_inference_steps": 2}
    video = service.client.post(f"{service.url}/v1/videos", json=fields | {"webhook": receiver.url("/standard")}).json()
    event = wait_for_message(receiver, "/standard").verify(secret)

    assert (event["object"], event["type"], event["data"]["id"]) == ("event", "video.completed", video["id"])


def test_courier_that_is_killed_between_end_and_delivery_is_replaced_and_it_is_delivered(
    service: Service, receiver: Receiver, secret: str
) -> None:
    courier = service.child("courier")
    service.freeze(courier)  # so that it cannot deliver before it is killed
    answer = service.ask(**SHORT, webhook=receiver.url("/killed-before"))
    service.finish(answer)
    assert receiver.messages("/killed-before") == []
    courier.kill()

    told = wait_for_message(receiver, "/killed-before").verify(secret)
    assert (told["status"], told["id"]) == ("success", answer["id"])
    assert service.child("courier").pid != courier.pid


def test_courier_that_is_killed_while_it_delivers_delivers_again_at_once_under_the_same_id(
    service: Service, receiver: Receiver, secret: str
) -> None:
    receiver.behaviours["/killed-during"] = hanging = threading.Event()
    answer = service.ask(**SHORT, webhook=receiver.url("/killed-during"))
    first = wait_for_message(receiver, "/killed-during")
    del receiver.behaviours["/killed-during"]
    service.child("courier").kill()
    again = wait_for_message(receiver, "/killed-during", number=2)
    hanging.set()

    assert again.verify(secret) == first.verify(secret)
    assert again.id == first.id
    deliveries = DeliveryStore(service.database)
    wait_for(lambda: deliveries.list(answer["id"])[0][0].state is DeliveryState.DELIVERED)
    ((_, attempts),) = deliveries.list(answer["id"])
    assert [(attempt.status, attempt.error) for attempt in attempts] == [(None, LOST), (200, None)]
