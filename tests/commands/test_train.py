"""`promptreel train` on this machine, as a user types it. The test does the work of the service that it finds there."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from promptreel.bootstrap import LOCK_NAME, build_database
from promptreel.jobs.job import JobStage, JobStatus, Result
from promptreel.jobs.store import JobStore
from promptreel.jobs.training_params import ExampleKind, TrainingParams
from promptreel.settings import load_settings
from promptreel.storage.local import LocalStorage
from tests.command_line import run_promptreel
from tests.encoding.files import encode_image, encode_video, make_bars, make_greys
from tests.jobs.factories import make_new_job
from tests.waiting import LONGEST_SECONDS, wait_for

CLIP = encode_video(make_greys(40, 64), fps=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, of which the second one has a caption."""
    folder = tmp_path / "snails"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode_image(make_bars(64, 40 + number)))
    (folder / "1.txt").write_text("a sks snail on a bench\n", encoding="utf-8")
    (folder / ".hidden").write_bytes(b"")
    return folder


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    build_database(load_settings(data_dir=tmp_path / "data")).dispose()
    return tmp_path / "data"


@contextmanager
def served(data_dir: Path) -> Iterator[None]:
    """As long as a service runs on it, its lock is held."""
    with (data_dir / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def jobs_of(data_dir: Path) -> JobStore:
    return JobStore(build_database(load_settings(data_dir=data_dir)))


def work(data_dir: Path, *, fails: bool) -> None:
    """Does one training as a worker does, as far as the job table shows it."""
    jobs, storage = jobs_of(data_dir), LocalStorage(data_dir / "results")
    claim, job = wait_for(lambda: jobs.claim("worker"))
    samples: list[dict[str, Any]] = []
    for step in (0, 4, 8):
        key = f"{job.file_prefix}/samples/{step:06d}-0.mp4"
        storage.save_bytes(b"clip %d" % step, key)
        samples.append({"step": step, "prompt": "sks snail", "key": key})
        told = {"step": step, "loss": 0.5 / (1 + step), "seconds_per_step": 0.1, "samples": samples}
        jobs.report(claim, stage=JobStage.TRAINING, progress=step / 8, report=told)
    if fails:
        jobs.fail(claim, code="training_failed", message="The loss was no number.")
    else:
        jobs.finish(claim, Result(key=f"{job.file_prefix}/1.json", size_bytes=2, sha256="ab" * 32, facts={}))


@pytest.mark.parametrize("fails", [False, True])
def test_training_is_queued_for_the_service_and_followed(folder: Path, data_dir: Path, tmp_path: Path, fails: bool) -> None:
    samples = tmp_path / "samples"
    worker = threading.Thread(target=work, args=(data_dir,), kwargs={"fails": fails}, daemon=True)
    worker.start()
    with served(data_dir):
        done = run_promptreel(
            "train", folder, "--trigger", "sks snail", "--id", "my-snail", "--steps", 8, "--rank", 4, "--seed", 7,
            "--sample-prompt", "sks snail moving left", "--data-dir", data_dir, "-o", samples,
        )  # fmt: skip
    worker.join()

    (job,) = jobs_of(data_dir).list()
    params = job.params
    assert isinstance(params, TrainingParams)
    assert [example.caption for example in params.examples] == ["sks snail", "a sks snail on a bench", "sks snail"]
    assert (params.steps, params.rank, params.seed, params.base) == (8, 4, 7, "cutout")
    assert params.sample_prompts == ("sks snail moving left",)
    assert {path.name: path.read_bytes() for path in samples.iterdir()} == {
        f"{step:06d}-0.mp4": b"clip %d" % step for step in (0, 4, 8)
    }
    written = [str(samples / f"{step:06d}-0.mp4") for step in (0, 4, 8)]
    if fails:
        assert (done.returncode, done.stdout.split()) == (2, written)
        assert "promptreel: The loss was no number." in done.stderr
    else:
        assert (done.returncode, done.stdout.split()) == (0, [*written, "my-snail"]), done.stderr


def test_clips_are_taken_for_motion(tmp_path: Path, data_dir: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(CLIP)
    worker = threading.Thread(target=work, args=(data_dir,), kwargs={"fails": False}, daemon=True)
    worker.start()
    with served(data_dir):
        done = run_promptreel(
            "train", folder, "--preset", "motion", "--trigger", "a wobble", "--data-dir", data_dir, "-o", tmp_path / "samples"
        )
    worker.join()

    (job,) = jobs_of(data_dir).list()
    assert done.returncode == 0, done.stderr
    assert [example.kind for example in job.params.examples] == [ExampleKind.CLIP]
    assert job.params.model_id in done.stdout


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ("remove", [], "cannot be read: No such file or directory"),
        ("empty", [], "has no images in it"),
        ("break", [], "images: number 2 (1.png) cannot be used: the picture cannot be decoded"),
        ("add clip", [], "images: number 4 (clip.mp4) is not a picture: it is a video"),
        ("add notes", [], "images: number 4 (notes.md) cannot be used: The picture must be one of"),
        ("", ["--preset", "motion"], "videos: number 1 (0.png) is not a clip: it is a picture"),
        ("", ["--preset", "perfume"], "There is no preset 'perfume'"),
        ("", ["--base", "nowhere"], "There is no model 'nowhere'"),
        ("", ["--lora-type", "loha"], "There is no LoRA type 'loha'"),
        ("", ["--id", "cutout"], "that of a model's folder"),
        ("", ["--id", "../up"], "begins with a letter or a digit"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(
    folder: Path, data_dir: Path, change: str, options: list[str], says: str
) -> None:
    match change:
        case "remove" | "empty":
            for file in folder.iterdir():
                file.unlink()
            if change == "remove":
                folder.rmdir()
        case "break":
            (folder / "1.png").write_bytes(encode_image(make_bars(64, 48))[:100])
        case "add clip":
            (folder / "clip.mp4").write_bytes(CLIP)
        case "add notes":
            (folder / "notes.md").write_text("Bring milk.", encoding="utf-8")
    done = run_promptreel("train", folder, "--trigger", "sks snail", *options, "--data-dir", data_dir)

    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert jobs_of(data_dir).list() == []
    assert not (data_dir / "results").exists() or [f for f in (data_dir / "results").rglob("*") if f.is_file()] == []


@pytest.mark.slow
def test_without_a_service_it_is_done_at_once(folder: Path, data_dir: Path, tmp_path: Path) -> None:
    """By a worker of its own, which leaves the queue's videos alone."""

    video = jobs_of(data_dir).submit(make_new_job())
    done = run_promptreel(
        "train", folder, "--trigger", "sks snail", "--id", "my-snail", "--steps", 1, "--batch-size", 1, "--rank", 1,
        "--data-dir", data_dir, "-o", tmp_path / "samples", threads="1", seconds=LONGEST_SECONDS,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "my-snail"
    assert {path.name for path in (tmp_path / "samples").iterdir()} >= {"000000-0.mp4", "000001-0.mp4"}
    assert jobs_of(data_dir).get(video.id).status is JobStatus.QUEUED
