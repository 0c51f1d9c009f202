"""The supervisor over real, small processes."""

from __future__ import annotations

import itertools
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from promptreel.errors import DiskFull
from promptreel.supervisor import ChildSpec, Stop, Supervisor
from tests.waiting import wait_for

# Each child writes one line when it starts: its owner name, its process and the time.
SAY_START = """
import os, pathlib, signal, sys, time
out = pathlib.Path(sys.argv[1]); owner = sys.argv[2]
def say(*words):
    with out.open("a") as file: file.write(" ".join(map(str, words)) + "\\n")
"""
DIES = SAY_START + "say(owner, os.getpid(), time.monotonic()); sys.exit(3)"
STAYS = SAY_START + "say(owner, os.getpid(), time.monotonic()); time.sleep(600)"
TIDIES = SAY_START + (
    "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), say('tidied', owner), os._exit(0)))\n"
    "say(owner, os.getpid(), time.monotonic()); time.sleep(600)"
)
WATCHES = SAY_START + (
    "from promptreel.child import end_with_supervisor\n"
    "end_with_supervisor()\n"
    "say(owner, os.getpid(), time.monotonic()); time.sleep(600)"
)
SUPERVISES = """
import sys
from promptreel.supervisor import ChildSpec, Stop, Supervisor
program, out = sys.argv[1:]
specs = [ChildSpec(name=n, command=lambda o: [sys.executable, "-c", program, out, o], environment={}) for n in ("a", "b")]
names = iter(["first", "second"])
Supervisor(specs, new_owner=lambda: next(names), stop=Stop()).run(is_ready=lambda _: False, on_ready=print)
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    file = tmp_path / "out"
    file.touch()
    return file


def spec(program: str, out: Path, *, deaths: list[str] | None = None, name: str = "child") -> ChildSpec:
    return ChildSpec(
        name=name,
        command=lambda owner: [sys.executable, "-c", program, str(out), owner],
        environment={},
        on_death=None if deaths is None else deaths.append,
    )


@contextmanager
def supervised(*specs: ChildSpec, ready_at: int = 10**6) -> Iterator[list[str]]:
    """Runs a supervisor in a thread; yields its announcements. It is ready with `ready_at` owners."""
    stop, announced, owners = Stop(), list[str](), itertools.count(1)
    seen: set[str] = set()

    def is_ready(current: set[str]) -> bool:
        seen.update(current - {""})
        return len(seen) >= ready_at

    supervisor = Supervisor(specs, new_owner=lambda: f"owner-{next(owners)}", stop=stop, listen_seconds=0.05)
    run = {"is_ready": is_ready, "on_ready": lambda: announced.append("ready")}
    thread = threading.Thread(target=supervisor.run, kwargs=run)
    thread.start()
    try:
        yield announced
    finally:
        stop.because("the test ends")
        thread.join()


def started(out: Path) -> list[tuple[str, int, float]]:
    lines = [line.split() for line in out.read_text().splitlines()]
    return [(owner, int(process), float(when)) for owner, process, when in (line for line in lines if len(line) == 3)]


def test_child_that_dies_is_started_again_under_a_new_owner(out: Path) -> None:
    deaths: list[str] = []
    with supervised(spec(DIES, out, deaths=deaths)):
        wait_for(lambda: len(started(out)) >= 2)

    assert [owner for owner, _, _ in started(out)][:2] == ["owner-1", "owner-2"]
    assert deaths[:1] == ["owner-1"]


def test_killed_child_is_started_again_and_the_others_are_left_alone(out: Path) -> None:
    deaths: list[str] = []
    with supervised(spec(STAYS, out, deaths=deaths, name="a"), spec(STAYS, out, deaths=deaths, name="b")):
        wait_for(lambda: len(started(out)) == 2)
        (victim, process, _), (other, _, _) = started(out)
        psutil.Process(process).kill()
        wait_for(lambda: len(started(out)) == 3)
        assert deaths == [victim]

    assert sorted(deaths[1:]) == sorted([other, "owner-3"])


def test_death_callback_that_fails_is_repeated(out: Path) -> None:
    """It fails, for instance, while the job table's disk is full."""
    told: list[str] = []

    def tell(owner: str) -> None:
        told.append(owner)
        if len(told) < 3:
            raise DiskFull("no room")

    dies = replace(spec(DIES, out), on_death=tell)
    with supervised(dies):
        wait_for(lambda: len(told) >= 3)

    assert told[:3] == ["owner-1"] * 3


def test_log_says_why_the_service_stops(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="promptreel")
    with supervised(spec(STAYS, out)):
        wait_for(lambda: started(out))

    assert [record.message for record in caplog.records][-2:] == [
        "the service is stopping: the test ends",
        "the service has stopped",
    ]

    def break_down(_owners: set[str]) -> bool:
        raise ZeroDivisionError("of the test")

    with pytest.raises(ZeroDivisionError):
        Supervisor([], new_owner=str, stop=Stop()).run(is_ready=break_down, on_ready=str)
    assert "the service is stopping because of an error: ZeroDivisionError('of the test')" in caplog.text


@pytest.mark.slow
def test_quick_deaths_make_the_pause_longer(out: Path) -> None:
    with supervised(spec(DIES, out)):
        wait_for(lambda: len(started(out)) >= 4)

    times = [when for _, _, when in started(out)]
    pauses = [after - before for before, after in itertools.pairwise(times)][:3]
    assert pauses[0] >= 0.2
    assert pauses[1] >= 0.4
    assert pauses[2] >= 0.8


def test_readiness_is_announced_once(out: Path) -> None:
    with supervised(spec(STAYS, out, name="a"), spec(STAYS, out, name="b"), ready_at=2) as announced:
        wait_for(lambda: announced)
        time.sleep(0.5)  # some more rounds of the supervisor's loop

    assert announced == ["ready"]


def test_children_may_tidy_up_before_the_supervisor_returns(out: Path) -> None:
    deaths: list[str] = []
    with supervised(spec(TIDIES, out, deaths=deaths, name="a"), spec(TIDIES, out, deaths=deaths, name="b")):
        wait_for(lambda: len(started(out)) == 2)

    tidied = [line.split()[1] for line in out.read_text().splitlines() if line.startswith("tidied")]
    assert sorted(tidied) == ["owner-1", "owner-2"]
    assert deaths == ["owner-2", "owner-1"]  # children are stopped in reverse order
    assert not any(psutil.pid_exists(process) for _, process, _ in started(out))


def test_children_end_when_the_supervisor_is_killed(out: Path) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISES, WATCHES, str(out)])
    wait_for(lambda: len(started(out)) == 2)
    children = [psutil.Process(process) for _, process, _ in started(out)]
    supervisor.kill()
    supervisor.wait()

    wait_for(lambda: not any(is_running(child) for child in children), seconds=60)


def test_worker_that_still_starts_ends_with_its_supervisor(tmp_path: Path) -> None:
    """The supervisor is killed before the worker has imported anything."""
    command = [sys.executable, "-m", "promptreel.child", "worker", "--owner", "o", "--data-dir", str(tmp_path)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    _, errors = worker.communicate(timeout=240)  # closes its stdin at once

    assert worker.returncode == -signal.SIGTERM
    assert errors == b""


def test_child_that_does_not_stop_in_time_is_killed_though_its_supervisor_is_gone() -> None:
    """The child ignores SIGTERM."""
    program = (
        "import signal, time; from promptreel.child import end_with_supervisor\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "end_with_supervisor(stop_seconds=0.1); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    child.communicate(timeout=240)

    assert child.returncode == -signal.SIGKILL


def is_running(process: psutil.Process) -> bool:
    """Whether a process is running. A zombie is not; a container may have no init to reap it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_silent_child_is_killed_and_restarted(out: Path) -> None:
    deaths: list[str] = []
    silent = replace(spec(STAYS, out, deaths=deaths), is_heard=lambda owner: owner != "owner-1", patience_seconds=0.5)
    with supervised(silent):
        wait_for(lambda: len(out.read_text().splitlines()) == 2)
        started = [line.split()[0] for line in out.read_text().splitlines()]

    assert started == ["owner-1", "owner-2"]
    assert deaths[0] == "owner-1"


def test_child_does_not_count_as_silent_while_heartbeats_are_unreadable(out: Path) -> None:
    asked = itertools.count()

    def cannot_tell(_owner: str) -> bool:
        next(asked)
        raise DiskFull("The disk of the database is full.")

    with supervised(replace(spec(STAYS, out), is_heard=cannot_tell, patience_seconds=0.0)):
        wait_for(lambda: next(asked) > 20)

    assert len(out.read_text().splitlines()) == 1
