"""A real `promptreel serve` for tests: talked to over HTTP, looked into through the job table, killed by process."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import httpx
import numpy as np
import psutil
import pytest

from promptreel.demo import REQUEST, start_service, stop_service, wait_until_ready
from promptreel.errors import DatabaseBusy
from promptreel.jobs.database import Database, open_database, write_transaction
from promptreel.jobs.job import Job, JobStatus
from promptreel.jobs.keys import ApiKey, KeyLimits, KeyStore
from promptreel.jobs.store import JobStore
from tests.waiting import LONGEST_SECONDS, wait_for

TEXT2VIDEO = "/api/v4/dreambooth/text2video"
# As the hosted service's documentation has it, but for the one step.
DOCUMENTED = REQUEST | {"num_inference_steps": "1"}
SHORT = {"prompt": "a red ball rolling", "width": 96, "height": 96, "num_frames": 4, "num_inference_steps": 2, "seed": 7}
# Takes most of a minute, for tests that cancel it.
LONG = SHORT | {"num_frames": 120, "num_inference_steps": 50}
# The first preview comes after 1.5 s. Tests that must see one ask for the next length if the job had ended by then.
STEPS_OF_PREVIEWED = {"num_inference_steps": 30, "scheduler": "HeunDiscreteScheduler"}
LENGTHS_OF_PREVIEWED = (4, 8, 16, 64, 160)


class Service:
    """A service on its own data directory, with one worker. `start` may be called again after it has ended."""

    def __init__(self, folder: Path, *, environment: Mapping[str, str] = MappingProxyType({}), **settings: object) -> None:
        self.data_dir = folder / "data 100%20?#&é"  # a folder's name may hold characters that are special in a URL
        self.log = folder / "service.log"
        self.settings = {"workers": 1, "threads": 1, **settings}
        self.environment = environment
        self.client = httpx.Client(trust_env=False, timeout=60)
        self.key = "any"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with pytest.MonkeyPatch.context() as ours:
            for name, value in self.environment.items():
                ours.setenv(name, value)
            self._process = start_service(self.data_dir, self.log, **self.settings)
        try:
            self.url = wait_until_ready(self._process, self.log, seconds=LONGEST_SECONDS)
        except BaseException:  # the caller gets no service to stop
            self.stop()
            raise

    def need_key(self, limits: KeyLimits) -> ApiKey:
        """Makes the service's first key, without which it serves nobody from now on, and sends it with every request."""
        made, self.key = KeyStore(self.database).create("k", limits)
        self.client.headers["key"] = self.key
        wait_for(self.is_closed)
        return made

    def revoke_key(self, made: ApiKey) -> None:
        """Serves everybody again."""
        KeyStore(self.database).revoke(str(made.id))
        self.key = "any"
        del self.client.headers["key"]
        wait_for(lambda: not self.is_closed())

    def is_closed(self) -> bool:
        """Whether requests without a key are refused."""
        return httpx.get(f"{self.url}/v1/models", trust_env=False, timeout=60).status_code == 401

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return stop_service(self.process)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @cached_property
    def database(self) -> Database:
        return open_database(self.data_dir / "promptreel.db")

    @cached_property
    def jobs(self) -> JobStore:
        return JobStore(self.database)

    def child(self, name: str) -> psutil.Process:
        """The process that runs `promptreel <name>`, once there is one."""
        return wait_for(lambda: next((child for child in self.children() if name in _command_of(child)), None))

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def ask(self, **fields: object) -> dict[str, Any]:
        """The answer to a text2video request."""
        return self.client.post(self.url + TEXT2VIDEO, json=fields).raise_for_status().json()

    def fetch(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The newest answer on the same job."""
        path = httpx.URL(answer["fetch_result"]).path  # the port may be another one after a restart
        return self.client.post(self.url + path, json={"key": self.key}).raise_for_status().json()

    def finish(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer once the job has ended. Asks the job table until then, which costs less than requests do."""
        wait_for(lambda: self.job(answer).is_final, every=0.05)
        return self.fetch(answer)

    def make(self, **fields: object) -> dict[str, Any]:
        """The success of a request; fails the test if it ends otherwise."""
        answer = self.ask(**fields)
        assert answer["status"] == "processing", answer
        ended = self.finish(answer)
        assert ended["status"] == "success", ended
        return ended

    def download(self, success: dict[str, Any]) -> bytes:
        return self.client.get(success["output"][0]).raise_for_status().content

    def wait_until_running(self, answer: dict[str, Any]) -> Job:
        """Returns once the worker, which reports once a second, has told of progress. Fails if the job ends before."""

        def running() -> Job | None:
            job = self.job(answer)
            assert not job.is_final, f"job {job.id} ended before it could be seen running: it must take longer for this test"
            return job if job.status is JobStatus.RUNNING and job.progress > 0 else None

        return wait_for(running)

    def catch(self, *, num_frames: int, **fields: object) -> list[dict[str, Any]]:
        """Freezes the worker while the job of the last answer is half-way. Those before it had ended before that was done, and
        were of half as many frames each.
        """
        answers = []
        for doubled in range(5):
            answers.append(self.ask(**fields | {"num_frames": num_frames << doubled}))
            wait_for(lambda: (job := self.job(answers[-1])).progress > 0 or job.is_final)
            worker = self.child("worker")
            self.freeze(worker)
            if self.job(answers[-1]).status is JobStatus.RUNNING:
                return answers
            worker.resume()
        raise AssertionError(f"no job could be caught before it ended: {fields} must take longer for this test")

    @contextmanager
    def no_job_begins(self) -> Iterator[None]:
        """Inside the block the worker stands still."""
        worker = self.child("worker")
        self.freeze(worker)
        try:
            yield
        finally:
            worker.resume()

    def freeze(self, process: psutil.Process) -> None:
        """Sends SIGSTOP while the process is not writing: otherwise its write lock would block all others."""
        impatient = open_database(self.data_dir / "promptreel.db", busy_seconds=0.2)
        while True:
            process.suspend()
            try:
                with write_transaction(impatient):
                    break
            except DatabaseBusy:
                process.resume()
        impatient.dispose()

    def job(self, answer: dict[str, Any]) -> Job:
        return self.jobs.get(answer["id"])

    def files_of(self, job: Job) -> list[str]:
        return sorted(path.name for path in (self.data_dir / "results" / job.file_prefix).glob("*"))


def decode(video: bytes) -> tuple[np.ndarray, float]:
    """All frames of a file, uint8 [T, H, W, 3], and its frames a second."""
    with av.open(io.BytesIO(video)) as container:
        stream = container.streams.video[0]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]), float(stream.average_rate)


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []
