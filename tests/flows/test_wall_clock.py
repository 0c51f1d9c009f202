"""The wall clock jumps an hour back, then two ahead, amid a queue: nothing waits for it, and nothing is lost by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from promptreel.jobs.deliveries import DeliveryState, DeliveryStore
from promptreel.jobs.job import JobStatus
from tests.flows.service import SHORT, Service
from tests.flows.test_crashes import CAUGHT, end_leases
from tests.flows.wall_clock import WallClock
from tests.notify.receiver import Receiver
from tests.waiting import wait_for

HOUR = 3600


@pytest.fixture
def service(calling_service: Service, wall_clock: WallClock, receiver: Receiver) -> Iterator[Service]:
    if not wall_clock.can_be_set:
        pytest.skip("needs a C compiler, as small as tcc")
    if calling_service.process.poll() is not None:
        calling_service.start()
    yield calling_service
    wall_clock.move(0)
    receiver.behaviours.pop("/hook", None)


def states_of(service: Service, answers: list[dict[str, Any]]) -> list[DeliveryState]:
    store = DeliveryStore(service.database)
    return [delivery.state for answer in answers for delivery, _ in store.list(answer["id"])]


def test_queue_goes_on_whatever_the_wall_clock_says(service: Service, wall_clock: WallClock, receiver: Receiver) -> None:
    receiver.behaviours["/hook"] = 503
    *told, lost = service.catch(**CAUGHT, webhook=receiver.url())  # the worker stands still
    told += [lost, service.ask(**SHORT, webhook=receiver.url())]
    wall_clock.move(-HOUR)
    told.append(service.ask(**SHORT | {"seed": 8}, webhook=receiver.url()))
    end_leases(service)  # the courier, whose clock was set back, takes the job from the silent worker now
    wait_for(lambda: service.job(lost).status is JobStatus.QUEUED)
    service.child("worker").resume()
    for answer in told:
        assert service.finish(answer)["status"] == "success"
    assert service.job(lost).attempt == 2
    assert service.job(told[-1]).created_at < service.job(lost).created_at  # it was set back indeed

    told += service.catch(**CAUGHT | {"seed": 9}, webhook=receiver.url())
    service.child("worker").resume()
    wall_clock.move(HOUR)
    told.append(service.ask(**SHORT | {"seed": 9}, webhook=receiver.url()))
    for answer in told[-2:]:
        ended = service.finish(answer)
        assert (ended["status"], service.job(answer).attempt) == ("success", 1)  # its worker was not taken for dead

    # Attempts failed before and after each jump, and were to be made again seconds later.
    receiver.behaviours["/hook"] = 200
    wait_for(lambda: states_of(service, told) == [DeliveryState.DELIVERED] * len(told))
