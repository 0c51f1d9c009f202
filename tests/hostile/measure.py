"""Measures an attack's cost to a service: memory and time, from the kernel's figures for its processes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.flows.service import Service
from tests.waiting import wait_for

SAMPLE_SECONDS = 0.02
PROC = Path("/proc")


@dataclass(frozen=True)
class Costs:
    """Costs above rest. `seconds` and `slowest_health` exclude the time that the machine or a stopped process stood still."""

    api_mb: float
    worker_mb: float
    log_kb: float
    seconds: float
    slowest_health: float

    def beyond(self, *, most_mb: float, most_log_kb: float, most_seconds: float, most_health_seconds: float) -> list[str]:
        """The bounds that were exceeded, as text."""
        bounds = {
            f"the log grew by {self.log_kb:.0f} kB": self.log_kb <= most_log_kb,
            f"the api's memory grew by {self.api_mb:.0f} MB": self.api_mb <= most_mb,
            f"the worker's memory grew by {self.worker_mb:.0f} MB": self.worker_mb <= most_mb,
            f"it took {self.seconds:.1f} s": self.seconds <= most_seconds,
            f"/health answered after {self.slowest_health:.1f} s": self.slowest_health <= most_health_seconds,
        }
        return [what for what, is_kept in bounds.items() if not is_kept]


class Watch:
    """Watches one running service. Its api and worker count together with their child processes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._polls: list[tuple[float, float, int, float]] = []
        self._poller = subprocess.Popen([sys.executable, "-m", "tests.hostile.poller", service.url], stdout=subprocess.PIPE)
        threading.Thread(target=self._read_polls, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._poller.kill()
        self._poller.wait()

    def measure(self, attack: Callable[[Service], None], *, rest_seconds: float = 0.0) -> Costs:
        """The cost of the attack until it returns and no job is left. Fails if a process of the service ended."""
        watched = [_Process(self._service.child(name).pid) for name in ("api", "worker")]
        logged = self._service.log.stat().st_size
        began = time.monotonic()
        with _sampling(watched):
            attack(self._service)
            wait_for(lambda: all(job.is_final for job in self._service.jobs.list(limit=50)))
        ended = time.monotonic()
        pids = [self._service.child(name).pid for name in ("api", "worker")]
        assert pids == [each.pid for each in watched], "the api or the worker ended and was started again"
        polls = self._polls_between(began, ended)
        assert all(status == 200 for _, _, status, _ in polls), "/health did not answer 200"
        stopped = max(each.stopped_seconds for each in watched)
        in_line = max(each.seconds_in_line() for each in watched)
        lost = stopped + max(in_line, sum(standstill for *_, standstill in polls))
        return Costs(
            api_mb=watched[0].growth_mb(),
            worker_mb=watched[1].growth_mb(),
            log_kb=(self._service.log.stat().st_size - logged) / 1024,
            seconds=ended - began - rest_seconds - lost,
            slowest_health=max(seconds - standstill for _, seconds, _, standstill in polls) - stopped,
        )

    def _polls_between(self, began: float, ended: float) -> list[tuple[float, float, int, float]]:
        """All requests that overlapped the period; waits for the answer to the last."""
        wait_for(lambda: bool(self._polls) and self._polls[-1][0] >= ended)
        return [poll for poll in self._polls if poll[0] + poll[1] >= began and poll[0] <= ended] or self._polls[-1:]

    def _read_polls(self) -> None:
        assert self._poller.stdout is not None
        for line in self._poller.stdout:
            self._polls.append(tuple(json.loads(line)))


class _Process:
    """A process and its descendants. The kernel keeps the process's own peak; the short-lived descendants are sampled."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stopped_seconds = 0.0
        (PROC / str(pid) / "clear_refs").write_text("5")
        self._rest = _status_mb(pid, "VmRSS") + self._below_mb()
        self._most_below = 0.0
        self._in_line: dict[int, list[float]] = {}

    def sample(self, seconds: float) -> None:
        """Takes a sample; call it every `seconds`."""
        self._most_below = max(self._most_below, self._below_mb())
        for each in [self.pid, *_below(self.pid)]:
            self._in_line.setdefault(each, []).append(_seconds_in_line(each))
        if _is_stopped(self.pid):
            self.stopped_seconds += seconds

    def growth_mb(self) -> float:
        return _status_mb(self.pid, "VmHWM") + self._most_below - self._rest

    def seconds_in_line(self) -> float:
        """Seconds that one of its processes was runnable but waited for a CPU."""
        return max((max(told) - told[0] for told in self._in_line.values()), default=0.0)

    def _below_mb(self) -> float:
        return sum(_status_mb(pid, "RssAnon") for pid in _below(self.pid))


def _below(pid: int) -> Iterator[int]:
    """The process ids of all descendants."""
    for path in PROC.glob(f"{pid}/task/*/children"):
        for child in _read(path).split():
            yield int(child)
            yield from _below(int(child))


def _status_mb(pid: int, name: str) -> float:
    """A figure of /proc/PID/status; 0 when the process has ended."""
    for line in _read(PROC / str(pid) / "status").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _seconds_in_line(pid: int) -> float:
    """Seconds that a process's main thread waited for a CPU since its start; 0 if it has ended or the kernel does not say."""
    told = _read(PROC / str(pid) / "schedstat").split()
    return int(told[1]) / 1e9 if told else 0.0


def _is_stopped(pid: int) -> bool:
    return _read(PROC / str(pid) / "stat").rpartition(")")[2].strip().startswith("T")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just ended
        return ""


@contextmanager
def _sampling(processes: list[_Process]) -> Iterator[None]:
    done = threading.Event()

    def sample() -> None:
        last = time.monotonic()
        while not done.wait(SAMPLE_SECONDS):
            now = time.monotonic()
            for each in processes:
                each.sample(now - last)
            last = now

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
