"""Measures what open pages cost: the api with 50 streams of events on 200 running jobs, and one page in a browser.

`python -m bench.pages --seconds 20`. All jobs report progress every second, as workers do. Meanwhile one client fetches videos.
Then Chromium opens the page on 50 running jobs: the time until it can be used, and its CPU and bytes. Prints to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
from playwright.sync_api import CDPSession, sync_playwright

from promptreel.demo import start_service, stop_service, wait_until_ready
from promptreel.jobs.database import open_database
from promptreel.jobs.job import Claim, JobStage, NewJob
from promptreel.jobs.params import VideoParams
from promptreel.jobs.store import JobStore

STREAMS, JOBS, JOBS_OF_PAGE = 50, 200, 50
REPORT_SECONDS = 1.0


@dataclass
class Heard:
    """What the streams received, and how long fetches took meanwhile."""

    content_bytes: int = 0
    fetches: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--jobs", type=int, default=JOBS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="promptreel-bench-") as folder:
        data_dir, log = Path(folder) / "data", Path(folder) / "service.log"
        service = start_service(data_dir, log, workers=0)
        try:
            url = wait_until_ready(service, log)
            api = next(child for child in psutil.Process(service.pid).children() if "api" in child.cmdline())
            jobs = JobStore(open_database(data_dir / "promptreel.db"), lease_seconds=3600)
            measure(url, api, jobs, options)
            if chromium := shutil.which("chromium"):
                measure_page(url, jobs, chromium, options.seconds)
        finally:
            stop_service(service)


def measure(url: str, api: psutil.Process, jobs: JobStore, options: argparse.Namespace) -> None:
    claims = [run_job(jobs) for _ in range(options.jobs)]
    heard, before = Heard(), sum(api.cpu_times()[:2])
    with reporting(jobs, claims):
        asyncio.run(listen(url, heard, options))
    used = sum(api.cpu_times()[:2]) - before
    load = ", ".join(f"{share:.2f}" for share in os.getloadavg())
    for claim in claims:
        jobs.fail(claim, code="job_failed", message="The benchmark is over.")
    p50, p99 = (sorted(heard.fetches)[int(len(heard.fetches) * share)] * 1000 for share in (0.5, 0.99))
    print(f"{options.streams} streams, {options.jobs} running jobs, {options.seconds:g} s, load average {load}")
    print(f"api: {api.memory_info().rss / 1e6:.0f} MB, {used / options.seconds:.2f} of a core")
    print(f"each stream: {heard.content_bytes / options.streams / options.seconds / 1000:.1f} kB a second")
    print(f"{len(heard.fetches)} fetches of a video: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


def measure_page(url: str, jobs: JobStore, chromium: str, seconds: float) -> None:
    claims = [run_job(jobs) for _ in range(JOBS_OF_PAGE)]
    with reporting(jobs, claims), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        started = time.monotonic()
        page.goto(url)
        page.locator(".make .chosen").wait_for()
        usable = time.monotonic() - started
        before = task_seconds(session)
        page.wait_for_timeout(seconds * 1000)
        used = (task_seconds(session) - before) / seconds
        browser.close()
    print(f"a page on {JOBS_OF_PAGE} running jobs: usable after {usable:.2f} s, {used:.2f} of a core")


def task_seconds(session: CDPSession) -> float:
    """The time that the page's main thread was busy."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(float(each["value"]) for each in metrics if each["name"] == "TaskDuration")


@contextmanager
def reporting(jobs: JobStore, claims: list[Claim]) -> Iterator[None]:
    stop = threading.Event()
    reporter = threading.Thread(target=report, args=(jobs, claims, stop))
    reporter.start()
    try:
        yield
    finally:
        stop.set()
        reporter.join()


def run_job(jobs: JobStore) -> Claim:
    params = VideoParams(model_id="cutout", prompt="a red cat sitting on a bench", num_frames=32)
    jobs.submit(NewJob(params=params, request={"dialect": "openai", "enhance_prompt": "no"}, cost=1000.0))
    claimed = jobs.claim("bench")
    assert claimed is not None
    return claimed[0]


def report(jobs: JobStore, claims: list[Claim], stop: threading.Event) -> None:
    progress = 0.0
    while not stop.wait(REPORT_SECONDS):
        progress = (progress + 0.01) % 1.0
        for claim in claims:
            jobs.report(claim, stage=JobStage.DENOISING, progress=progress)


async def listen(url: str, heard: Heard, options: argparse.Namespace) -> None:
    limits = httpx.Limits(max_connections=options.streams + 2)
    async with (
        httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as client,
        asyncio.timeout(options.seconds + 30),
        asyncio.TaskGroup() as group,
    ):
        streams = [group.create_task(read(client, url, heard)) for _ in range(options.streams)]
        deadline = time.monotonic() + options.seconds
        while time.monotonic() < deadline:
            started = time.perf_counter()
            (await client.get(f"{url}/v1/videos/video_1")).raise_for_status()
            heard.fetches.append(time.perf_counter() - started)
            await asyncio.sleep(0.02)
        for stream in streams:
            stream.cancel()


async def read(client: httpx.AsyncClient, url: str, heard: Heard) -> None:
    async with client.stream("GET", f"{url}/v1/events") as answer:
        async for chunk in answer.aiter_raw():
            heard.content_bytes += len(chunk)


if __name__ == "__main__":
    main()
