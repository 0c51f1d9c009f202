"""`promptreel generate --server`, as a user types it, with a real service."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from promptreel.jobs.job import JobStatus
from tests.api.test_inits import GIF
from tests.command_line import run_promptreel
from tests.flows.service import Service
from tests.waiting import wait_for

SMALL = ["--frames", "4", "--steps", "2", "--width", "96", "--height", "100"]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "promptreel.cli", "generate", *map(str, arguments)]
    environment = os.environ | {"PROMPTREEL_THREADS": "1", "PROMPTREEL_API_KEY": "any"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_server_makes_the_same_bytes_as_this_machine(service: Service, tmp_path: Path) -> None:
    (tmp_path / "start.gif").write_bytes(GIF)
    here, there = tmp_path / "here.mp4", tmp_path / "made" / "there.mp4"
    there.parent.mkdir()
    asked = [
        "a red zyzzyva",
        *SMALL,
        "--seed",
        7,
        "--init",
        tmp_path / "start.gif",
        "--strength",
        0.6,
        "--negative-prompt",
        "fog",
    ]

    on_server = start(*asked, "-o", there, "--server", service.url)
    ran_here = run_promptreel("generate", *asked, "-o", here, threads="1")
    output, errors = on_server.communicate(timeout=240)

    assert (ran_here.returncode, on_server.returncode) == (0, 0), ran_here.stderr + errors
    assert all('promptreel: the model "cutout" does not know: zyzzyva\n' in told for told in (ran_here.stderr, errors))
    assert output == f"{there}  (seed 7)\n"
    assert "100 %" in errors
    assert hashlib.sha256(here.read_bytes()).hexdigest() == hashlib.sha256(there.read_bytes()).hexdigest()
    assert list(there.parent.iterdir()) == [there]
    result = service.jobs.list(limit=1)[0].result
    assert result is not None
    assert result.facts["peak_memory_mb"] > 100


def test_ctrl_c_cancels_the_video_on_the_server(service: Service, tmp_path: Path) -> None:
    before = {job.id for job in service.jobs.list(limit=1)}
    process = start("a cat", "--steps", 50, "-o", tmp_path / "cat.mp4", "--server", service.url)
    job = wait_for(lambda: next((job for job in service.jobs.list(limit=1) if job.id not in before), None))
    wait_for(lambda: service.jobs.get(job.id).progress > 0)
    wait_for(lambda: f"GET /v1/videos/video_{job.id} 200" in service.log.read_text())  # what is created is known as its own now

    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)

    assert (process.returncode, output) == (130, "")
    assert f"promptreel: video_{job.id} was cancelled on {service.url}\n" in errors
    assert "Traceback" not in errors
    assert wait_for(lambda: ended if (ended := service.jobs.get(job.id)).is_final else None).status is JobStatus.CANCELLED
    assert list(tmp_path.iterdir()) == []


def test_what_the_server_refuses_is_one_line(service: Service, tmp_path: Path) -> None:
    process = start("a cat", "-o", tmp_path / "cat.mp4", "--model", "sora", "--server", service.url)
    output, errors = process.communicate(timeout=60)

    assert (process.returncode, output) == (2, "")
    assert errors.startswith("promptreel: There is no model 'sora'. Known models: cutout. To accept this name")
