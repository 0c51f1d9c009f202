"""Queues with several models, and how jobs are divided among workers."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from promptreel.encoding.decoder import Decoder
from promptreel.generation.devices import Device
from promptreel.generation.engine import Engine
from promptreel.jobs.database import open_database
from promptreel.jobs.job import AnyJob, Claim, JobStatus
from promptreel.jobs.params import VideoParams
from promptreel.jobs.store import JobStore
from promptreel.worker.recipes.video import Makers, make_video
from promptreel.worker.room import Room
from promptreel.worker.worker import Worker
from tests.counting import KINDS_WITH_COUNT, CountRecipe, make_count
from tests.generation.checkpoints import make_tiny_checkpoint
from tests.jobs.factories import Clock, make_new_job
from tests.waiting import wait_for
from tests.worker.conftest import LEASE_SECONDS, at_work

SMALL = {"width": 32, "height": 32, "num_frames": 2, "num_inference_steps": 2, "seed": 5}


def test_jobs_of_two_models_in_turns_each_have_the_bytes_of_their_own(
    worker: Worker, jobs: JobStore, decoder: Decoder, tmp_path: Path
) -> None:
    make_tiny_checkpoint(tmp_path / "models" / "mine", prediction_type="v_prediction", native_width=32, native_height=32)
    ids = [jobs.submit(make_new_job(model_id=model_id, **SMALL)).id for model_id in ["cutout", "mine"] * 3]
    with at_work(worker):
        ended = [wait_for(lambda job_id=job_id: job if (job := jobs.get(job_id)).is_final else None) for job_id in ids]

    alone: dict[str, bytes] = {}
    for job in ended[:2]:
        assert isinstance(job.params, VideoParams)
        makers = Makers(Engine(worker.engine.models, Device("cpu", torch.float32)), decoder, threading.Semaphore(1))
        path = tmp_path / f"{job.params.model_id}.mp4"
        make_video(job.params, path, makers=makers, on_progress=lambda _stage, _share: None)
        alone[job.params.model_id] = path.read_bytes()
    assert {job.status for job in ended} == {JobStatus.SUCCEEDED}
    for job in ended:
        assert job.result is not None
        assert worker.storage.read(job.result.key) == alone[job.params.model_id], job.id


class CountingLooks(JobStore):
    looks = 0

    def claim(self, *args: Any, **options: Any) -> tuple[Claim, AnyJob] | None:
        taken = super().claim(*args, **options)
        self.looks += 1
        return taken


def test_jobs_are_spread_over_idle_workers(worker: Worker, database_url: str, tmp_path: Path) -> None:
    """The clock stands still: a worker with a job in hand leaves the next ones to idle workers for as long as they take."""
    database = open_database(database_url)
    jobs = CountingLooks(database, lease_seconds=LEASE_SECONDS, now=Clock(), kinds=KINDS_WITH_COUNT)
    recipe = CountRecipe(worker.storage, tmp_path / "scratch")
    workers = [
        Worker(
            owner=f"worker-{number}",
            jobs=jobs,
            engine=worker.engine,
            recipes={"count": recipe},
            storage=worker.storage,
            lease_seconds=LEASE_SECONDS,
            room=Room(jobs=4, memory=1 << 30),
            stop=threading.Event(),
        )
        for number in range(3)
    ]
    for each in workers:
        each.announce()
    ids = [jobs.submit(make_count()).id for _ in workers]
    with ExitStack() as all_at_work:
        all_at_work.enter_context(at_work(workers[0]))
        wait_for(lambda: jobs.count(JobStatus.RUNNING))
        looked = jobs.looks
        wait_for(lambda: jobs.looks >= looked + 3)  # it could have taken more by now
        for each in workers[1:]:
            all_at_work.enter_context(at_work(each))
        wait_for(lambda: jobs.count(JobStatus.RUNNING) == len(ids))
        owners = [jobs.get(job_id).owner for job_id in ids]
        recipe.gate.set()
        wait_for(lambda: all(jobs.get(job_id).is_final for job_id in ids))
    database.dispose()

    assert sorted(map(str, owners)) == [each.owner for each in workers]
