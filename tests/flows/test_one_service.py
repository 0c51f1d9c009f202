"""A data directory has one service, which says what it does while it starts and why it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from promptreel.demo import start_service
from tests.command_line import run_promptreel
from tests.flows.service import Service
from tests.waiting import LONGEST_SECONDS, wait_for


def test_second_service_on_a_data_directory_is_refused(service: Service) -> None:
    ran = run_promptreel("serve", "--port", 0, "--data-dir", service.data_dir)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"A service already runs on the data directory {service.data_dir} (process {service.process.pid})" in ran.stderr


def test_log_tells_what_happens_before_the_service_is_ready(service: Service) -> None:
    log = service.log.read_text()

    stages = (
        "listening on http",
        "is loading PyTorch",
        "is loading cutout on",
        "loaded the model in",
        "is warm after",
        "is ready on",
        "Promptreel is ready",
    )
    places = [log.index(stage) for stage in stages]
    assert places == sorted(places)


def test_worker_spins_for_a_moment_only(service: Service) -> None:
    """What OpenMP itself has read, in the only process that loads it (ADR 9)."""
    assert re.findall(r"GOMP_SPINCOUNT = '(\d+)'", service.log.read_text()) == ["3000"]


def test_service_that_is_stopped_while_it_starts_ends_at_once_and_says_why(tmp_path: Path) -> None:
    """Its lock is free again, and so it is after one that was killed."""
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        log = tmp_path / f"{number}.log"
        service = start_service(tmp_path, log)
        wait_for(lambda log=log: "worker 1 started" in log.read_text())
        service.send_signal(number)
        assert service.wait(LONGEST_SECONDS) == (-number if number is signal.SIGKILL else 0)
        if number is not signal.SIGKILL:
            assert f"the service is stopping: it got {number.name}" in log.read_text()
            assert "killed" not in log.read_text()


def test_lock_names_no_process_that_is_gone(tmp_path: Path) -> None:
    """A process may die between taking the lock and writing its name into it."""
    holds = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(1, flush=True); input()"
    command = [sys.executable, "-c", holds, str(tmp_path / "serve.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        ran = run_promptreel("serve", "--port", 0, "--data-dir", tmp_path)
        holder.communicate(b"\n")

    assert "(process unknown)" in ran.stderr
