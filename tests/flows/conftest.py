"""Starting a service takes seconds, and the tests of this folder share two; tests/conftest.py says which and where."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fetching.file_host import FileHost, hosting
from tests.flows.service import Service
from tests.flows.wall_clock import WallClock
from tests.notify.receiver import Receiver, receiving


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """For all tests that leave the service as it is. Its log holds what OpenMP read."""
    service = Service(tmp_path_factory.mktemp("service"), environment={"OMP_DISPLAY_ENV": "verbose"})
    with pytest.MonkeyPatch.context() as ours:
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            ours.delenv(name, raising=False)
        service.start()
    yield service
    service.stop()


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Of webhooks."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def file_host() -> Iterator[FileHost]:
    """Of models: a file server and a hub."""
    with hosting() as host:
        yield host


@pytest.fixture(scope="session")
def wall_clock(tmp_path_factory: pytest.TempPathFactory) -> WallClock:
    """Of the calling service."""
    return WallClock(tmp_path_factory.mktemp("wall_clock"))


@pytest.fixture(scope="session")
def calling_service(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, file_host: FileHost, wall_clock: WallClock
) -> Iterator[Service]:
    """A service that may call the receiver and import models. Its tests kill parts of it, or all, and set its wall clock."""
    ports = f"{receiver.port},{file_host.port}"
    allowed = {"fetch_allow_networks": "127.0.0.0/8", "fetch_allow_ports": ports, "hub": "on", "hub_endpoint": file_host.url}
    service = Service(tmp_path_factory.mktemp("calling_service"), environment=wall_clock.environment, **allowed)
    service.start()
    yield service
    service.stop()
