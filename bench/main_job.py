"""Measures the main job: seconds from POST to success and by stage, the api's memory and start-up, and the ETA's accuracy.

`make bench`, or `python -m bench.main_job --jobs 5 --threads 2`. Prints to stdout and keeps nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil  # type: ignore[import-untyped]

from promptreel.demo import REQUEST, open_url, post, start_service, stop_service, wait_until_ready
from promptreel.jobs.database import open_database
from promptreel.jobs.job import JobStatus
from promptreel.jobs.store import JobStore

POLL_SECONDS = 0.02
LONGEST_JOB_SECONDS = 900.0
START_UPS = 5


@dataclass(frozen=True)
class Measured:
    """One request: the client's seconds, the first answer's eta, and the worker's seconds by stage."""

    seconds: float
    first_eta: int
    stages: dict[str, float]


def main() -> None:
    options = _parse_options()
    with tempfile.TemporaryDirectory(prefix="promptreel-bench-") as folder:
        log, data_dir = Path(folder) / "service.log", Path(folder) / "data"
        service = start_service(data_dir, log, threads=options.threads)
        try:
            url = wait_until_ready(service, log)
            database = open_database(f"sqlite:///{data_dir / 'promptreel.db'}")
            store = JobStore(database)
            print_machine(store, options.threads)
            alone, beside = [], []
            for _ in range(options.jobs):  # in turns, so that other load on the machine affects both alike
                alone.append(measure_job(url, store))
                if options.busy:
                    with busy_processes(options.busy):
                        beside.append(measure_job(url, store))
            memory = api_memory(service.pid)
            database.dispose()
        finally:
            stop_service(service)
        start_ups = [measure_start_up(data_dir) for _ in range(START_UPS)]
    print_jobs(alone, "one after another")
    if beside:
        print_jobs(beside, f"each beside {options.busy} busy processes")
    print_api(memory, start_ups)


def measure_job(url: str, store: JobStore) -> Measured:
    """Posts the documented request and polls until it ends. Raises RuntimeError unless it succeeds."""
    started = time.monotonic()
    answer = post(f"{url}/api/v4/dreambooth/text2video", REQUEST)
    first_eta, fetch_result = answer.get("eta", 0), answer.get("fetch_result", "")
    while answer["status"] == "processing" and time.monotonic() - started < LONGEST_JOB_SECONDS:
        time.sleep(POLL_SECONDS)
        answer = post(fetch_result, {"key": REQUEST["key"]})
    seconds = time.monotonic() - started
    if answer["status"] != "success":
        raise RuntimeError(f"no video after {seconds:.0f} s: {answer.get('message')}")
    job = store.get(answer["id"])
    assert job.status is JobStatus.SUCCEEDED
    assert job.result is not None
    return Measured(seconds, first_eta, job.result.facts["stages"])


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Runs this many processes that each load one core."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure_start_up(data_dir: Path) -> float:
    """Seconds from the start of an api process to its first answer on /health."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/health"
        started = time.monotonic()
        with _api_process(data_dir, listener.fileno()):
            open_url(urllib.request.Request(url)).read()  # waits in the listener's queue until the api accepts it
            return time.monotonic() - started


@contextmanager
def _api_process(data_dir: Path, fd: int) -> Iterator[None]:
    command = [sys.executable, "-m", "promptreel.child", "api", str(fd)]
    environment = os.environ | {"PROMPTREEL_DATA_DIR": str(data_dir), "PROMPTREEL_LOG_LEVEL": "error"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(fd,), env=environment)
    try:
        yield
    finally:
        process.communicate()  # closes its stdin, which ends it


def api_memory(supervisor: int) -> float:
    """Resident MB of the service's api process."""
    for child in psutil.Process(supervisor).children():
        if "api" in child.cmdline():
            return float(child.memory_info().rss) / 1e6
    raise RuntimeError("the service has no api process")


def print_machine(store: JobStore, threads: int) -> None:
    flags = _processor_flags()
    bf16 = ", ".join(flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags) or "none"
    memory = psutil.virtual_memory().total / 1e9
    print(f"machine   {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB memory, bf16 instructions: {bf16}")
    print(f"software  Python {platform.python_version()}, torch {version('torch')}, diffusers {version('diffusers')}")
    for worker in store.live_workers():
        print(f"worker    {worker.device}, {threads} threads, {1000 * (worker.seconds_per_unit or 0):.2f} ms a frame and call")
    load = ", ".join(f"{share:.2f}" for share in os.getloadavg())
    print(f"load      {load} (before the first request)\n")


def print_jobs(measured: Sequence[Measured], how: str) -> None:
    asked = (
        f"{REQUEST['width']}x{REQUEST['height']}, {REQUEST['num_inference_steps']} steps, guidance {REQUEST['guidance_scale']}"
    )
    print(f"{len(measured)} default requests ({asked}), {how}; seconds")
    print(f"{'':24}{'min':>9}{'median':>9}{'max':>9}")
    _print_row("POST to success", [job.seconds for job in measured])
    for stage in measured[0].stages:
        _print_row(f"  {stage}", [job.stages.get(stage, 0.0) for job in measured])
    _print_row("first eta", [float(job.first_eta) for job in measured])
    _print_row("first eta / actual", [job.first_eta / job.seconds for job in measured])


def print_api(memory: float, start_ups: Sequence[float]) -> None:
    print(f"\napi process: {memory:.0f} MB resident after the requests; seconds from start to the first answer on /health")
    _print_row(f"  {len(start_ups)} starts", start_ups)


def _print_row(name: str, values: Sequence[float]) -> None:
    print(f"{name:24}{min(values):9.3f}{median(values):9.3f}{max(values):9.3f}")


def _processor_flags() -> set[str]:
    """The CPU's feature flags; empty where the system does not list them."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.main_job", description=__doc__)
    parser.add_argument("--jobs", type=int, default=5, help="number of requests, one after another (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the worker (default: 2)")
    parser.add_argument("--busy", type=int, default=0, help="repeat each request beside this many busy processes (default: 0)")
    options = parser.parse_args()
    if options.jobs < 1 or options.threads < 1 or options.busy < 0:
        parser.error("--jobs and --threads are at least 1, and --busy at least 0")
    return options


if __name__ == "__main__":
    main()
