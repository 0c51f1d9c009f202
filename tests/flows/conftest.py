"""Starting a service takes seconds, and the tests of this folder share two; tests/conftest.py says which and where."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.service import Service
from tests.notify.receiver import Receiver, receiving


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """For all tests that leave the service as it is."""
    service = Service(tmp_path_factory.mktemp("service"))
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Of webhooks."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def calling_service(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Service]:
    """A service that may call the receiver. Its tests kill parts of it, or all."""
    allowed = {"fetch_allow_networks": "127.0.0.0/8", "fetch_allow_ports": receiver.port}
    service = Service(tmp_path_factory.mktemp("calling_service"), **allowed)
    service.start()
    yield service
    service.stop()
