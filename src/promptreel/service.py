"""`promptreel serve`: describes the service's processes for the supervisor, and says when the service is ready."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address

from promptreel.bootstrap import (
    LOCK_NAME,
    build_database_of_service,
    build_deliveries,
    build_jobs,
    build_keys,
    check_worker_extra,
    environment_of,
    make_data_dir,
    new_owner,
)
from promptreel.errors import TEMPORARY, BadConfiguration
from promptreel.jobs.keys import KeyStore
from promptreel.jobs.store import JobStore
from promptreel.settings import Settings, list_kubernetes_variables
from promptreel.supervisor import ChildSpec, Stop, Supervisor

log = logging.getLogger(__name__)

START_SECONDS = 600.0
"""A worker gets at least this long to become ready."""

REPORT_SECONDS = 10.0
"""How often the log says that workers are not ready yet."""

# For processes that compute little. Numerical libraries would start a thread per core.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

# Return a large request's memory to the system at once. By default, glibc keeps freed blocks, raises these thresholds while the
# process runs, and gives each thread its own arena.
_RETURNS_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 1024 * 1024),
    "MALLOC_ARENA_MAX": "2",
}


def run_service(settings: Settings, *, stop: Stop, opens_page: bool = False) -> None:
    """Runs until `stop` is set. Prints the service's URL to stdout once it can make a video.

    `opens_page`: then opens its page in the browser of this machine, too.
    """
    if opens_page and settings.page == "off":
        raise BadConfiguration("There is no page to open, because PROMPTREEL_PAGE is off. Leave out --open, or set it to on.")
    if settings.workers:
        check_worker_extra(instead="A service without its own workers needs none of this: promptreel serve --workers 0.")
    with _lock_data_dir(settings):
        _run_alone(settings, stop=stop, opens_page=opens_page)


def _run_alone(settings: Settings, *, stop: Stop, opens_page: bool) -> None:
    if names := list_kubernetes_variables():
        log.info("ignored variables that Kubernetes set, because they are not settings: %s", ", ".join(names))
    database = build_database_of_service(settings)
    jobs, deliveries = build_jobs(settings, database), build_deliveries(settings, database)
    listener = _listen(settings.host, settings.port)
    url = _url_of(listener)
    if not is_loopback(listener):
        _refuse_without_key(url, build_keys(settings, database))

    def free_leases(owner: str) -> None:
        if freed := jobs.free_owner(owner):
            log.warning("a worker has ended: running jobs returned to the queue: %d", freed)

    def free_deliveries(owner: str) -> None:
        if freed := deliveries.free_owner(owner):
            log.warning("a courier has ended: deliveries due again: %d", freed)

    readiness = _Readiness(settings.workers)

    def is_ready(owners: set[str]) -> bool:
        try:
            return readiness.is_reached_by(sum(worker.id in owners for worker in jobs.live_workers()))
        except TEMPORARY:  # the supervisor must keep its children alive even while the job table cannot be read
            return False

    waits = "first, the workers load and time the model, which takes up to a minute on a slow machine"
    log.info("listening on %s; %s", url, waits if settings.workers else "it starts no workers, because PROMPTREEL_WORKERS is 0")
    specs = [
        _api(settings, listener),
        _courier(settings, free_deliveries),
        *_workers(settings, free_leases, partial(_is_live, jobs)),
    ]
    try:
        Supervisor(specs, new_owner=new_owner, stop=stop).run(
            is_ready=is_ready, on_ready=partial(_announce, settings, url, opens_page=opens_page)
        )
    finally:
        listener.close()


def page_of(url: str) -> str:
    """The page's address for a browser on this machine, which cannot open 0.0.0.0."""
    return f"{url.replace('//0.0.0.0:', '//127.0.0.1:').replace('//[::]:', '//[::1]:')}/"


def _announce(settings: Settings, url: str, *, opens_page: bool) -> None:
    print(f"Promptreel is ready on {url} (documentation: {url}/docs, data: {settings.data_dir})", flush=True)  # noqa: T201
    if settings.page == "on":
        print(f"Its page for your browser: {page_of(url)}", flush=True)  # noqa: T201
    if opens_page:
        open_page(page_of(url))


def open_page(page: str) -> None:
    """Opens the page in the user's browser, if there is one; `BROWSER` names another."""
    if not webbrowser.open(page):
        log.warning("no browser could be opened: go to %s", page)


def _is_live(jobs: JobStore, owner: str) -> bool:
    """Whether the worker was seen recently. Raises DatabaseBusy or DiskFull if no worker can write to the database now."""
    if any(worker.id == owner for worker in jobs.live_workers()):
        return True
    jobs.check_writable()
    return False


def _refuse_without_key(url: str, keys: KeyStore) -> None:
    if not keys.any_active():
        raise BadConfiguration(
            f"{url} can be reached by other machines, and there is no API key: anyone could use it. "
            "Create a key with `promptreel keys create NAME`, or listen on 127.0.0.1."
        )


class _Readiness:
    """Tells whether all workers are ready. Until then, logs how many are, now and then."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._started = self._reported_at = time.monotonic()

    def is_reached_by(self, ready: int) -> bool:
        now = time.monotonic()
        if ready < self._workers and now - self._reported_at > REPORT_SECONDS:
            self._reported_at = now
            log.info("%d of %d workers are ready after %.0f s", ready, self._workers, now - self._started)
        return ready == self._workers


@contextmanager
def _lock_data_dir(settings: Settings) -> Iterator[None]:
    """Holds the data directory's lock. The kernel frees it when this process ends. Raises BadConfiguration if it is taken.

    Without the lock, two services could share a queue unnoticed: each would claim the other's jobs.
    """
    make_data_dir(settings)
    path = settings.data_dir / LOCK_NAME
    try:
        lock = path.open("a+")
    except OSError as error:
        raise BadConfiguration(
            f"{path} cannot be written: {error.strerror}. Check the permissions of the data directory."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            process = lock.read(20).strip() or "unknown"
            raise BadConfiguration(
                f"A service already runs on the data directory {settings.data_dir} (process {process}). "
                "Stop it first, or give another --data-dir. For more workers, start it with --workers."
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _api(settings: Settings, listener: socket.socket) -> ChildSpec:
    """The supervisor holds the listening socket, so clients wait instead of being refused while the api restarts."""
    fd = listener.fileno()
    return ChildSpec(
        name="api",
        command=lambda _owner: _promptreel("api", str(fd)),
        environment={**environment_of(settings), **_ONE_THREAD, **_RETURNS_MEMORY},
        pass_fds=(fd,),
    )


def _courier(settings: Settings, free_deliveries: Callable[[str], None]) -> ChildSpec:
    return ChildSpec(
        name="courier",
        command=lambda owner: _promptreel("courier", owner),
        environment={**environment_of(settings), **_ONE_THREAD},
        on_death=free_deliveries,
    )


def _workers(settings: Settings, free_leases: Callable[[str], None], is_heard: Callable[[str], bool]) -> list[ChildSpec]:
    return [
        ChildSpec(
            name=f"worker {number}",
            command=lambda owner: _promptreel("worker", "--owner", owner),
            environment=environment_of(settings),
            on_death=free_leases,
            is_heard=is_heard,
            patience_seconds=max(settings.stall_seconds, START_SECONDS),
        )
        for number in range(1, settings.workers + 1)
    ]


def _promptreel(*arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", "promptreel.child", *arguments]


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise BadConfiguration(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Give another --host or --port."
        ) from error


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect to the listener."""
    return ip_address(listener.getsockname()[0]).is_loopback


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
