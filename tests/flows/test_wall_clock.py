"""The wall clock jumps an hour back, then two ahead, amid a queue: nothing waits for it, and nothing is lost by it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptreel.jobs.deliveries import DeliveryState, DeliveryStore
from promptreel.jobs.job import JobStatus
from tests.flows.service import SHORT, Service
from tests.flows.test_crashes import CAUGHT, end_leases
from tests.notify.receiver import Receiver
from tests.waiting import wait_for

SOURCE = Path(__file__).with_name("wall_clock.c")
COMPILERS = {"cc": ["-fPIC"], "gcc": ["-fPIC"], "clang": ["-fPIC"], "tcc": []}
COMPILER = next((name for name in COMPILERS if shutil.which(name)), None)
LEASE_SECONDS = 240  # no worker is thought dead because the machine stalls


class WallClock:
    """Of the processes that start with its environment."""

    def __init__(self, folder: Path) -> None:
        assert COMPILER is not None
        self.library, self.file = folder / "wall_clock.so", folder / "moved_by"
        options = ["-shared", "-nostdlib", *COMPILERS[COMPILER]]
        subprocess.run([COMPILER, *options, "-o", self.library, SOURCE], check=True)
        self.move(0)

    def move(self, seconds: int) -> None:
        """To so many seconds from the true time."""
        beside = self.file.with_suffix(".new")
        beside.write_text(f"{seconds}\n")
        beside.replace(self.file)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "WALL_CLOCK_FILE": str(self.file)}


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


@pytest.fixture
def service(tmp_path: Path, wall_clock: WallClock, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    allowed = {"fetch_allow_networks": "127.0.0.0/8", "fetch_allow_ports": receiver.port}
    service = Service(tmp_path, lease_seconds=LEASE_SECONDS, **allowed)
    with monkeypatch.context() as inside:
        for name, value in wall_clock.environment.items():
            inside.setenv(name, value)
        service.start()
    assert os.environ.get("LD_PRELOAD") is None
    yield service
    assert service.stop() == 0


def states_of(service: Service, answers: list[dict[str, Any]]) -> list[DeliveryState]:
    store = DeliveryStore(service.database)
    return [delivery.state for answer in answers for delivery, _ in store.list(answer["id"])]


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler, as small as tcc")
def test_queue_goes_on_whatever_the_wall_clock_says(service: Service, wall_clock: WallClock, receiver: Receiver) -> None:
    receiver.behaviours["/hook"] = 503
    *told, lost = service.catch(**CAUGHT, webhook=receiver.url())  # the worker stands still
    told += [lost, service.ask(**SHORT, webhook=receiver.url())]
    wall_clock.move(-3600)
    told.append(service.ask(**SHORT | {"seed": 8}, webhook=receiver.url()))
    end_leases(service)  # the courier, whose clock was set back, takes the job from the silent worker now
    wait_for(lambda: service.job(lost).status is JobStatus.QUEUED)
    service.child("worker").resume()
    for answer in told:
        assert service.finish(answer)["status"] == "success"
    assert service.job(lost).attempt == 2
    assert service.job(told[-1]).created_at < service.job(lost).created_at  # it was set back indeed

    *told_later, running = service.catch(**CAUGHT, webhook=receiver.url())
    told += [*told_later, running, service.ask(**SHORT | {"seed": 9}, webhook=receiver.url())]
    wall_clock.move(3600)
    service.child("worker").resume()
    for answer in told[-2:]:
        ended = service.finish(answer)
        assert (ended["status"], service.job(answer).attempt) == ("success", 1)  # its worker was not taken for dead

    # Attempts failed before each jump, and were to be made again seconds later.
    receiver.behaviours["/hook"] = 200
    wait_for(lambda: states_of(service, told) == [DeliveryState.DELIVERED] * len(told))
