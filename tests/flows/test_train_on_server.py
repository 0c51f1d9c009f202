"""`promptreel train --server`, as a user types it, with a real service. Its worker stands still: the test does its work."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from promptreel.jobs.job import JobStage, JobStatus, Result
from promptreel.storage.local import LocalStorage
from tests.command_line import run_promptreel
from tests.encoding.files import encode_image, make_bars
from tests.flows.service import Service
from tests.waiting import wait_for


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.png").write_bytes(encode_image(make_bars(64, 40 + number)))
    (folder / "1.txt").write_text("ein Schnörkel, a sks snail", encoding="utf-8")
    return folder


def work(service: Service) -> None:
    storage = LocalStorage(service.data_dir / "results")
    claim, job = wait_for(lambda: service.jobs.claim("test", kinds={"training"}))
    samples: list[dict[str, Any]] = []
    for step in (0, 4):
        key = f"{job.file_prefix}/samples/{step:06d}-0.mp4"
        storage.save_bytes(b"clip %d" % step, key)
        samples.append({"step": step, "prompt": "sks snail", "key": key})
    told = {"step": 4, "loss": 0.25, "seconds_per_step": 0.1, "samples": samples}
    service.jobs.report(claim, stage=JobStage.TRAINING, progress=0.5, report=told)
    service.jobs.finish(claim, Result(key=f"{job.file_prefix}/1.json", size_bytes=2, sha256="ab" * 32, facts={}))


def test_server_trains_on_the_files_of_this_machine(service: Service, tmp_path: Path) -> None:
    folder, samples = make_folder(tmp_path / "snails"), tmp_path / "samples"
    with service.no_job_begins():
        worker = threading.Thread(target=work, args=(service,), daemon=True)
        worker.start()
        done = run_promptreel(
            "train", folder, "--trigger", "sks snail", "--id", "served-snail", "--steps", 20_000, "--rank", 4,
            "--sample-prompt", "sks snail", "--server", service.url, "--api-key", "any", "-o", samples,
        )  # fmt: skip
        worker.join()
    (job,) = service.jobs.list(kind="training")
    service.jobs.delete(job.id)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(samples / "000000-0.mp4"), str(samples / "000004-0.mp4"), "served-snail"]
    assert (samples / "000004-0.mp4").read_bytes() == b"clip 4"
    assert "promptreel: steps 20000 is out of range: 10000 is used" in done.stderr
    assert [example.caption for example in job.params.examples] == ["sks snail", "ein Schnörkel, a sks snail"]
    assert (job.params.steps, job.params.rank, job.status) == (10_000, 4, JobStatus.SUCCEEDED)


def test_server_says_which_file_is_no_picture(service: Service, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "snails")
    (folder / "notes.md").write_text("Bring milk.", encoding="utf-8")
    done = run_promptreel("train", folder, "--trigger", "sks snail", "--server", service.url, "--api-key", "any")

    assert (done.returncode, done.stdout) == (2, "")
    assert "images: number 3 (notes.md) cannot be used: The picture must be one of" in done.stderr
    assert service.jobs.list(kind="training") == []
