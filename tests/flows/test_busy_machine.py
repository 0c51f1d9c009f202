"""A service beside a process that takes a core: what a worker of `promptreel serve` has read of its environment (ADR 9)."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.flows.service import SHORT, Service


@contextmanager
def busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Whose worker's OpenMP says in the log what it has read of the environment."""
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY")
    service = Service(tmp_path, threads=2)
    with busy_process():
        service.start()
        yield service
        service.stop()


def test_worker_beside_a_busy_process_spins_for_a_moment_only(service: Service) -> None:
    """What OpenMP itself has read, in the only process that loads it."""
    service.make(**SHORT)

    assert re.findall(r"GOMP_SPINCOUNT = '(\d+)'", service.log.read_text()) == ["3000"]
