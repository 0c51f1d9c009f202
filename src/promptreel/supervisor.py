"""The supervisor: starts the service's processes, restarts those that die, and stops them all in order.

Each child's stdin is a pipe from the supervisor. It closes when the supervisor ends; then the child ends, too (child.py).
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from promptreel.errors import TEMPORARY
from promptreel.logs import Seldom

log = logging.getLogger(__name__)

STOP_SECONDS = 30.0
"""How long a child may take to end after SIGTERM. Then the supervisor kills it; without a supervisor, it kills itself."""

CHECK_SECONDS = 0.1
STEADY_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 30.0
LISTEN_SECONDS = 5.0
"""How often heartbeats are checked. If the supervisor itself was paused, at most twice this counts as a child's silence."""


class Stop(threading.Event):
    """Set to end a process in order. Keeps the `reason` for the log, because a signal handler must not log."""

    reason = "it was asked to"

    def __init__(self) -> None:
        super().__init__()
        self._cond = threading.Condition(threading.RLock())  # reentrant: the thread that waits may run the signal handler

    def because(self, reason: str) -> None:
        self.reason = reason
        self.set()


@dataclass(frozen=True)
class ChildSpec:
    """One process to keep alive. Each start has a new owner name: `command`, `on_death` and `is_heard` get it.

    If `is_heard` returns False for `patience_seconds`, the process counts as hung and is killed.
    """

    name: str
    command: Callable[[str], Sequence[str]]
    environment: Mapping[str, str]
    pass_fds: tuple[int, ...] = ()
    on_death: Callable[[str], None] | None = None
    is_heard: Callable[[str], bool] = lambda _owner: True
    patience_seconds: float = float("inf")


@dataclass
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    owner: str = ""
    started_at: float = 0.0
    start_at: float = 0.0
    silent_seconds: float = 0.0
    deaths_in_a_row: int = field(default=0)


class Supervisor:
    """Keeps children alive until `stop` is set. The pause before a restart doubles with each early death, up to 30 s."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        new_owner: Callable[[], str],
        stop: Stop,
        listen_seconds: float = LISTEN_SECONDS,
    ) -> None:
        self._children = [_Child(spec) for spec in specs]
        self._unreported: list[tuple[ChildSpec, str]] = []
        self._new_owner = new_owner
        self._seldom = Seldom(log)
        self._stop = stop
        self._listen_seconds = listen_seconds
        self._listened_at = time.monotonic()

    def run(self, *, is_ready: Callable[[set[str]], bool], on_ready: Callable[[], None]) -> None:
        """Starts all children. Returns when all have stopped. Calls `on_ready` once, when `is_ready(owners)` is first True."""
        announced = False
        try:
            while not self._stop.is_set():
                for child in self._children:
                    self._keep_alive(child)
                self._report_deaths()
                self._end_silent()
                if not announced and is_ready({child.owner for child in self._children}):
                    announced = True
                    on_ready()
                self._stop.wait(CHECK_SECONDS)
            log.info("the service is stopping: %s", self._stop.reason)
        except Exception as error:
            log.error("the service is stopping because of an error: %r", error)  # noqa: TRY400 - re-raised with its traceback
            raise
        finally:
            self._stop_all()
            log.info("the service has stopped")

    def _keep_alive(self, child: _Child) -> None:
        if child.process is None:
            if time.monotonic() >= child.start_at:
                self._start(child)
        elif (code := child.process.poll()) is not None:
            self._handle_death(child, code)

    def _start(self, child: _Child) -> None:
        child.owner = self._new_owner()
        child.started_at = time.monotonic()
        child.silent_seconds = 0.0
        child.process = subprocess.Popen(  # noqa: S603 - the command is our own
            list(child.spec.command(child.owner)),
            stdin=subprocess.PIPE,
            env={**os.environ, **child.spec.environment},
            pass_fds=child.spec.pass_fds,
            # Ctrl-C in a terminal reaches a whole process group. Only the supervisor should get it.
            start_new_session=True,
        )
        log.info("%s started, process %d", child.spec.name, child.process.pid)

    def _handle_death(self, child: _Child, code: int) -> None:
        """Schedules a dead child's restart, and its `on_death`, which frees what it had claimed."""
        steady = time.monotonic() - child.started_at > STEADY_SECONDS
        child.deaths_in_a_row = 0 if steady else child.deaths_in_a_row + 1
        pause = min(LONGEST_PAUSE_SECONDS, 0.1 * 2**child.deaths_in_a_row)
        log.warning("%s ended with code %d and restarts in %.1f s", child.spec.name, code, pause)
        child.process = None
        child.start_at = time.monotonic() + pause
        self._unreported.append((child.spec, child.owner))

    def _report_deaths(self) -> None:
        """Calls `on_death` for dead children. If the job table cannot be used now, the next round tries again."""
        while self._unreported:
            spec, owner = self._unreported[0]
            try:
                if spec.on_death is not None:
                    spec.on_death(owner)
            except TEMPORARY as temporary:  # the other calls would fail, too
                self._seldom.warning("the claims of %s cannot be freed yet: %s", spec.name, temporary)
                return
            except Exception:  # the service must go on; the leases will expire
                log.exception("the claims of %s could not be freed", spec.name)
            self._unreported.pop(0)

    def _end_silent(self) -> None:
        """Kills children that hang: a worker that does not get ready, or whose pulse has stopped."""
        passed = time.monotonic() - self._listened_at
        if passed < self._listen_seconds:
            return
        self._listened_at = time.monotonic()
        for child in self._children:
            if child.process is None:
                continue
            if self._is_heard(child):
                child.silent_seconds = 0.0
                continue
            child.silent_seconds += min(passed, 2 * self._listen_seconds)
            if child.silent_seconds > child.spec.patience_seconds:
                log.error("%s gave no sign of life for %.0f s and is killed", child.spec.name, child.silent_seconds)
                child.process.kill()  # the next round handles its death

    def _is_heard(self, child: _Child) -> bool:
        try:
            return child.spec.is_heard(child.owner)
        except TEMPORARY:  # no heartbeat can be written or read now
            return True

    def _stop_all(self) -> None:
        """Sends SIGTERM to all, in reverse order, and SIGKILL to those still running after 30 s."""
        running = [child for child in reversed(self._children) if child.process is not None]
        for child in running:
            assert child.process is not None
            child.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in running:
            assert child.process is not None
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("%s did not stop in %.0f s and is killed", child.spec.name, STOP_SECONDS)
                child.process.kill()
                child.process.wait()
            self._unreported.append((child.spec, child.owner))
        self._report_deaths()
