"""Measures the api under load while a worker makes videos: creating and fetching jobs over 1, 32 and 256 connections.

`python -m bench.api_load --seconds 5 --threads 1`, a part of `make bench`. Prints to stdout; queued jobs are discarded with
their data directory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

from bench.load_generator import CREATE
from promptreel.demo import open_url, start_service, stop_service, wait_until_ready

CONNECTIONS = (1, 32, 256)
KINDS = ("create", "fetch")


@dataclass(frozen=True)
class Processes:
    """Processes of the service under test."""

    api: psutil.Process
    worker: psutil.Process


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row of the table. `seconds` holds each request's time, sorted; shares are of one CPU core."""

    kind: str
    connections: int
    wall_seconds: float
    seconds: list[float]
    errors: list[str]
    api_share: float
    api_megabytes: float
    worker_share: float
    generator_share: float
    queued: int


def main() -> None:
    options = _parse_options()
    with tempfile.TemporaryDirectory(prefix="promptreel-bench-") as folder:
        log = Path(folder) / "service.log"
        service = start_service(Path(folder) / "data", log, threads=options.threads)
        try:
            url = wait_until_ready(service, log)
            print_head(options)
            processes = find_processes(service.pid)
            measured = measure_all(url, processes, options.seconds)
            videos = count_videos(url, measured)
        finally:
            stop_service(service)
    for error in [error for each in measured for error in each.errors][:10]:
        print(f"error: {error}")
    print(f"\n{videos} videos were made during the run; {sum(len(each.errors) for each in measured)} errors")
    if any(each.errors for each in measured):
        sys.exit(1)


def measure_all(url: str, processes: Processes, seconds: float) -> list[Measured]:
    """Creates come first, so that all fetches see the same long queue."""
    measured = []
    last_id = 1
    for kind in KINDS:
        for connections in CONNECTIONS:
            one, last_id = measure(url, processes, kind, connections=connections, seconds=seconds, last_id=last_id)
            print_row(one)
            measured.append(one)
    return measured


def measure(
    url: str, processes: Processes, kind: str, *, connections: int, seconds: float, last_id: int
) -> tuple[Measured, int]:
    """Runs the load generator. Returns its measurements, with the processes' CPU and memory, and the newest job's id."""
    before = {name: sum(process.cpu_times()[:2]) for name, process in vars(processes).items()}
    started = time.monotonic()
    seen = generate_load(url, kind, connections=connections, seconds=seconds, last_id=last_id)
    passed = time.monotonic() - started
    shares = {name: (sum(process.cpu_times()[:2]) - before[name]) / passed for name, process in vars(processes).items()}
    measured = Measured(
        kind=kind,
        connections=connections,
        wall_seconds=seen["wall_seconds"],
        seconds=sorted(seen["seconds"]),
        errors=seen["errors"],
        api_share=shares["api"],
        api_megabytes=processes.api.memory_info().rss / 1e6,
        worker_share=shares["worker"],
        generator_share=seen["cpu_seconds"] / passed,
        queued=get(f"{url}/health")["queued"],
    )
    return measured, max(last_id, seen["last_id"])


def generate_load(url: str, kind: str, *, connections: int, seconds: float, last_id: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.load_generator", kind]
    numbers = {"port": urlsplit(url).port, "connections": connections, "seconds": seconds, "last-id": last_id}
    arguments = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE, timeout=seconds + 120)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def find_processes(supervisor: int) -> Processes:
    found = {name: child for child in psutil.Process(supervisor).children() for name in child.cmdline()}
    return Processes(api=found["api"], worker=found["worker"])


def count_videos(url: str, measured: list[Measured]) -> int:
    """The number of created jobs that are done: neither queued nor running."""
    created = sum(len(each.seconds) for each in measured if each.kind == "create")
    health = get(f"{url}/health")
    return created - int(health["queued"]) - int(health["running"])


def get(url: str) -> dict[str, Any]:
    with open_url(urllib.request.Request(url)) as answer:
        fields: dict[str, Any] = json.load(answer)
        return fields


def print_head(options: argparse.Namespace) -> None:
    load = ", ".join(f"{share:.2f}" for share in os.getloadavg())
    print(f"machine   {platform.machine()}, {os.cpu_count()} cores, load {load} before the first request")
    shape = f"{CREATE['num_frames']} frames of {CREATE['width']}x{CREATE['height']}, {CREATE['num_inference_steps']} steps"
    print(f"service   one worker of {options.threads} threads, which makes videos of {shape}")
    print("shares    of one core; client is the load generator. queued: jobs at the end\n")
    print(
        f"{'':7}{'connections':>11}{'requests/s':>12}{'p50 ms':>9}{'p90':>8}{'p99':>8}{'max':>8}{'errors':>8}"
        f"{'api CPU':>10}{'MB':>6}{'worker':>8}{'client':>8}{'queued':>8}"
    )


def print_row(one: Measured) -> None:
    percentiles = [1000 * percentile(one.seconds, share) for share in (0.5, 0.9, 0.99, 1.0)]
    print(
        f"{one.kind:7}{one.connections:11}{len(one.seconds) / one.wall_seconds:12.0f}"
        f"{percentiles[0]:9.1f}{percentiles[1]:8.1f}{percentiles[2]:8.1f}{percentiles[3]:8.1f}{len(one.errors):8}"
        f"{one.api_share:10.2f}{one.api_megabytes:6.0f}{one.worker_share:8.2f}{one.generator_share:8.2f}{one.queued:8}",
        flush=True,
    )


def percentile(values: list[float], share: float) -> float:
    """The percentile of sorted values, with `share` from 0 to 1; 0 without values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.api_load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds for each row of the table (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the worker (default: 1)")
    options = parser.parse_args()
    if not 0 < options.seconds <= 60 or options.threads < 1:
        parser.error("--seconds is at most 60, --threads at least 1")
    return options


if __name__ == "__main__":
    main()
