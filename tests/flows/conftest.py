from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.service import Service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that leave it as it is."""
    service = Service(tmp_path_factory.mktemp("service"))
    service.start()
    yield service
    service.stop()
