"""A service beside a process that takes a core, and on a disk that hangs: what a worker of `promptreel serve` does then."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.encoding.files import encode_image, make_bars
from tests.flows.service import SHORT, Service
from tests.waiting import wait_for


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
    service = Service(tmp_path, threads=2, stall_seconds=5, max_attempts=100)
    with busy_process():
        service.start()
        yield service
        service.stop()


def test_worker_beside_a_busy_process_spins_for_a_moment_only_and_survives_a_disk_that_hangs(service: Service) -> None:
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", service.log.read_text())) == {"3000"}

    picture = "data:image/png;base64," + base64.b64encode(encode_image(make_bars())).decode()
    with service.no_job_begins():
        hanging = service.ask(**SHORT | {"init_image": picture})
        stored = service.data_dir / "results" / str(service.job(hanging).params.init_key)
        kept = stored.rename(stored.with_suffix(".kept"))
        os.mkfifo(stored)  # whoever reads it waits until somebody writes
    wait_for(lambda: f"job {hanging['id']} made no progress" in service.log.read_text())
    kept.replace(stored)

    assert service.finish(hanging)["status"] == "success"
    assert service.job(hanging).attempt > 1
    assert "worker 1 ended with code 70" in service.log.read_text()
