"""The command line, as a user types it: every command works, and what goes wrong is one line."""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import av
import pytest

from promptreel.demo import decode
from promptreel.encoding.video import read_metadata
from promptreel.jobs.database import migrate, open_database, write_transaction
from promptreel.jobs.deliveries import DeliveryStore, Outcome
from promptreel.jobs.store import JobStore
from tests.command_line import run_promptreel as run
from tests.encoding.files import encode_image, make_bars
from tests.generation.checkpoints import make_tiny_checkpoint
from tests.hostile.media import webp_of_one_colour
from tests.jobs.factories import WEBHOOK, make_new_job
from tests.waiting import wait_for


def check_refused(ran: subprocess.CompletedProcess[str], why: str) -> None:
    """Exit code 2 and one message, without a traceback."""
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("promptreel: ")
    assert why in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobStore]:
    database = open_database(f"sqlite:///{tmp_path / 'promptreel.db'}")
    migrate(database)
    yield JobStore(database)
    database.dispose()


def test_help_names_the_commands() -> None:
    command = [sys.executable, "-m", "promptreel.cli", "--help"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)

    for command in ("serve", "worker", "generate", "jobs", "models", "keys"):
        assert command in ran.stdout


@pytest.mark.parametrize(("name", "kind"), [("video.mp4", "mp4"), ("video.webm", "webm"), ("VIDEO.GIF", "gif")])
def test_generate_makes_a_video_that_plays(tmp_path: Path, name: str, kind: str) -> None:
    video = tmp_path / "made" / name
    options = ["--frames", 4, "--fps", 4, "--steps", 2, "--seed", 7, "--width", 128]
    made = run("generate", "a red ball", "-o", video, *options, threads="1")

    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{video}  (seed 7)\n"
    seen = decode(video)
    assert (seen.frames, seen.width, seen.height, seen.fps) == (4, 128, 512, 4)
    with av.open(str(video)) as container:
        assert kind in container.format.name.split(",")
    assert list(video.parent.iterdir()) == [video]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["a cat", "-o", "cat.avi"], "Let the name of 'cat.avi' end in one of .mp4, .webm, .gif."),
        (["a cat", "-o", "cat"], "Let the name of 'cat' end in one of .mp4, .webm, .gif."),
        (["a cat", "--scheduler", "Fast"], "There is no scheduler 'Fast'"),
        (["a cat", "--model", "midjourney"], "Known models: cutout"),
        ([" "], "The prompt is empty"),
    ],
)
def test_generate_refuses_what_it_cannot_make(tmp_path: Path, arguments: list[str], why: str) -> None:
    check_refused(run("generate", "-o", tmp_path / "video.mp4", *arguments, data_dir=str(tmp_path)), why)
    assert not (tmp_path / "video.mp4").exists()


@pytest.mark.parametrize(("option", "prompt"), [([], "wtrclr a lake soft light"), (["--no-enhance-prompt"], "a lake")])
def test_generate_adds_the_models_own_phrases_unless_told_not_to(tmp_path: Path, option: list[str], prompt: str) -> None:
    make_tiny_checkpoint(tmp_path / "models" / "tiny", trigger_words=["wtrclr"], quality_words=["soft light"])
    video = tmp_path / "video.mp4"
    options = ["--model", "tiny", "--frames", 2, "--steps", 1, "--width", 64, "--height", 64, *option]
    made = run("generate", "a lake", "-o", video, *options, threads="1", data_dir=str(tmp_path))

    assert made.returncode == 0, made.stderr
    assert read_metadata(video)["prompt"] == prompt


def test_generate_starts_from_a_picture_or_a_video(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path / "models" / "tiny")
    options = ["--model", "tiny", "--frames", 4, "--steps", 4, "--seed", 7, "--width", 64, "--height", 64]
    settings = {"threads": "1", "data_dir": str(tmp_path)}
    (tmp_path / "bars.png").write_bytes(encode_image(make_bars()))
    made = []
    for init, strength in (("bars.png", 0.2), ("bars.png", 0.9), ("0.mp4", 0.2)):  # the third starts from the first's video
        video = tmp_path / f"{len(made)}.mp4"
        ran = run("generate", "a", "-o", video, *options, "--init", tmp_path / init, "--strength", strength, **settings)
        assert ran.returncode == 0, ran.stderr
        made.append(video)

    assert len({video.read_bytes() for video in made}) == 3
    for video, init, kind in zip(made, ("bars.png", "bars.png", "0.mp4"), ("image", "image", "video"), strict=True):
        sha256 = hashlib.sha256((tmp_path / init).read_bytes()).hexdigest()
        assert read_metadata(video)["init_key"] == f"inits/{kind}/{sha256}{Path(init).suffix}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file"),
        (b"hello", "must be one of video/mp4, video/webm"),
        (b"GIF89a", "init video"),
        (webp_of_one_colour(6000, 6000), "must not be greater than 14 million pixels"),
    ],
)
def test_init_that_cannot_be_used_is_one_line(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "init").write_bytes(content)

    check_refused(run("generate", "a cat", "--init", tmp_path / "init", data_dir=str(tmp_path)), why)


def test_models_list_names_the_built_in_one(tmp_path: Path) -> None:
    assert run("models", "list", "--data-dir", tmp_path).stdout.startswith("cutout\tanimatediff\t")


def test_jobs_can_be_listed_shown_and_cancelled(jobs: JobStore, tmp_path: Path) -> None:
    first, second = (jobs.submit(make_new_job(prompt)).id for prompt in ("a red cat", "a blue rocket"))

    assert run("jobs", "cancel", first, "--data-dir", tmp_path).stdout == f"{first}\tcancelled\tcutout\ta red cat\n"
    assert run("jobs", "show", second, "--data-dir", tmp_path).stdout == f"{second}\tqueued\tcutout\ta blue rocket\n"
    lines = run("jobs", "list", "--data-dir", tmp_path).stdout.splitlines()
    assert lines == [f"{second}\tqueued\tcutout\ta blue rocket", f"{first}\tcancelled\tcutout\ta red cat"]


def test_deliveries_of_a_job_can_be_read_and_asked_for_again(jobs: JobStore, tmp_path: Path) -> None:
    quiet, told = (jobs.cancel(jobs.submit(make_new_job(webhook_url=url)).id).id for url in (None, WEBHOOK))
    database = open_database(f"sqlite:///{tmp_path / 'promptreel.db'}")
    deliveries = DeliveryStore(database)
    next_at = datetime(2099, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)  # each process's clock is some microseconds off
    claim, _ = wait_for(lambda: deliveries.claim("c"))  # due now, by a clock that may be set back meanwhile
    deliveries.record_failed(claim, Outcome(seconds=1.25, status=503), next_at=next_at)
    ((delivery, (attempt,)),) = deliveries.list(told)
    database.dispose()

    assert run("jobs", "deliveries", quiet, "--data-dir", tmp_path).stdout == ""
    assert run("jobs", "deliveries", told, "--data-dir", tmp_path).stdout.splitlines() == [
        f"{delivery.id}\tpending, next attempt at 2099-01-02 03:04:05\t{WEBHOOK}",
        f"{attempt.started_at:%Y-%m-%d %H:%M:%S}\tattempt 1\tstatus 503 after 1.2 s",
    ]
    again = run("jobs", "redeliver", told, "--data-dir", tmp_path).stdout
    assert re.fullmatch(rf"{delivery.id}\tpending, next attempt at 20[2-8]\d.*\n", again)
    check_refused(run("jobs", "redeliver", quiet, "--data-dir", tmp_path), f"Job {quiet} has nothing to deliver")
    check_refused(run("jobs", "deliveries", 99, "--data-dir", tmp_path), "There is no job 99")


def test_webhook_secret_is_shown_and_stays(tmp_path: Path) -> None:
    first, second = (run("jobs", "webhook-secret", "--data-dir", tmp_path).stdout for _ in range(2))

    assert first == second
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", first)


def test_unknown_job_is_one_line(jobs: JobStore, tmp_path: Path) -> None:
    check_refused(run("jobs", "show", 99, "--data-dir", tmp_path), "There is no job 99")


def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run("serve", "--port", port, "--data-dir", tmp_path)

    check_refused(ran, f"cannot listen on 127.0.0.1:{port}: ")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("in the way")
    ran = run(command, "--data-dir", tmp_path / "file")

    check_refused(ran, str(tmp_path / "file"))
    assert len(ran.stderr.splitlines()) == 1


def test_bad_setting_is_named(tmp_path: Path) -> None:
    check_refused(run("jobs", "list", "--data-dir", tmp_path, workers="many"), "PROMPTREEL_WORKERS=many")


def test_commands_that_only_read_wait_for_no_writer(jobs: JobStore, tmp_path: Path) -> None:
    job_id = jobs.submit(make_new_job(webhook_url=WEBHOOK)).id
    jobs.cancel(job_id)
    database = open_database(f"sqlite:///{tmp_path / 'promptreel.db'}")
    with write_transaction(database):
        for words in (["jobs", "list"], ["jobs", "show", job_id], ["jobs", "deliveries", job_id], ["keys", "list"]):
            ran = run(*words, data_dir=str(tmp_path))
            assert (ran.returncode, ran.stderr) == (0, "")
    database.dispose()
