"""A whole worker on a real job table, with a tiny model."""

from __future__ import annotations

import concurrent.futures
import logging
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from sqlalchemy import update

from promptreel.encoding.video import read_metadata
from promptreel.errors import DeviceLost
from promptreel.jobs.database import open_database, write_transaction
from promptreel.jobs.job import Job, JobStatus
from promptreel.jobs.store import JobStore
from promptreel.jobs.tables import jobs as job_table
from promptreel.jobs.tables import utc_now
from promptreel.media import Init, Video
from promptreel.models.registry import DEFAULT_MODEL_ID
from promptreel.storage.local import LocalStorage
from promptreel.worker.recipes.video import VideoRecipe
from promptreel.worker.recipes.video_footprint import estimate_bytes
from promptreel.worker.room import Room
from promptreel.worker.worker import STALLED_CODE, Worker
from tests.encoding.files import encode_image, make_bars
from tests.generation.checkpoints import make_tiny_checkpoint
from tests.jobs.factories import make_new_job
from tests.waiting import wait_for
from tests.worker.conftest import LEASE_SECONDS

SMALL = {"width": 32, "height": 32, "num_frames": 2, "num_inference_steps": 2, "seed": 5}
ENDLESS = SMALL | {"num_inference_steps": 1000, "scheduler": "DDIMScheduler", "num_frames": 16}


@pytest.fixture
def running(worker: Worker, stop: threading.Event) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield thread
    stop.set()
    thread.join()


def submit(jobs: JobStore, **params: object) -> int:
    return jobs.submit(make_new_job(**(SMALL | params))).id


def wait_until(jobs: JobStore, job_id: int, *statuses: JobStatus) -> Job:
    return wait_for(lambda: job if (job := jobs.get(job_id)).status in statuses else None)


def wait_until_ended(jobs: JobStore, job_id: int) -> Job:
    return wait_for(lambda: job if (job := jobs.get(job_id)).is_final else None)


def test_job_becomes_a_stored_video(running: threading.Thread, jobs: JobStore, tmp_path: Path) -> None:
    job = wait_until_ended(jobs, submit(jobs))

    assert job.status is JobStatus.SUCCEEDED
    assert job.result is not None
    assert job.result.key == f"{job.file_prefix}/1.mp4"
    file = tmp_path / "results" / job.result.key
    assert file.stat().st_size == job.result.size_bytes
    assert read_metadata(file)["seed"] == 5
    assert list((tmp_path / "scratch").iterdir()) == []
    assert job.result.facts["device"] == "cpu (float32)"
    assert all(seconds >= 0 for seconds in job.result.facts["stages"].values())
    assert 100 < job.result.facts["peak_memory_mb"] < 100_000  # torch alone is more than the first
    assert 0 < job.result.facts["device_seconds"] < job.result.facts["busy_seconds"]
    assert 0 < job.result.facts["busy_seconds"] <= sum(job.result.facts["stages"].values()) + 0.01


def test_worker_logs_its_start_and_may_be_killed_until_it_is_warm(
    worker: Worker, stop: threading.Event, jobs: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Before `on_warm`, signals kill the process, which has not registered yet. After it, they request an orderly stop."""
    caplog.set_level(logging.INFO, logger="promptreel.worker")
    told: list[str] = []

    def on_warm() -> None:
        assert jobs.live_workers() == []
        told.extend(record.message for record in caplog.records)
        stop.set()

    worker.run(on_warm=on_warm)

    assert re.fullmatch(
        r"worker worker-1 is loading cutout on cpu \(float32\)\n"
        r"worker worker-1 loaded the model in [\d.]+ s, and is timing a call\n"
        r"worker worker-1 is warm after [\d.]+ s",
        "\n".join(told),
    )
    assert worker.seconds_per_unit is not None


def test_worker_is_known_with_its_rate_before_it_takes_a_job(running: threading.Thread, jobs: JobStore) -> None:
    (record,) = wait_for(jobs.live_workers)

    assert record.id == "worker-1"
    assert record.device == "cpu (float32)"
    assert record.seconds_per_unit is not None
    assert record.seconds_per_unit > 0
    assert record.loaded == ("cutout",)


def test_failing_job_says_why_and_does_not_end_the_worker(running: threading.Thread, jobs: JobStore) -> None:
    failed = wait_until_ended(jobs, submit(jobs, model_id="gone"))
    impossible = wait_until_ended(jobs, submit(jobs, clip_skip=9))
    next_one = wait_until_ended(jobs, submit(jobs))

    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "model_not_found")
    assert (failed.error_message or "").startswith("There is no model 'gone'. Known models: cutout.")
    assert (impossible.status, impossible.error_code) == (JobStatus.FAILED, "generation_failed")
    assert next_one.status is JobStatus.SUCCEEDED
    assert running.is_alive()


def test_job_starts_from_its_stored_init_or_says_why_it_cannot(
    running: threading.Thread, worker: Worker, jobs: JobStore, tmp_path: Path
) -> None:
    init = Init("image", "png", encode_image(make_bars()))
    cut = Init("image", "png", init.data[: len(init.data) // 2])
    gone = Init("image", "png", b"never stored").key
    for each in (init, cut):
        worker.storage.save_bytes(each.data, each.key)

    ended = [wait_until_ended(jobs, submit(jobs, init_key=key)) for key in (init.key, cut.key, gone)]
    worker.storage.save_bytes(b"rot", init.key)
    damaged = wait_until_ended(jobs, submit(jobs, init_key=init.key))

    assert [job.error_code for job in ended] == [None, "init_unusable", "storage_failed"]
    assert ended[2].error_message == "The stored init image is gone: send the request again."
    assert damaged.error_message == "The stored init image is damaged: send the request again."
    assert ended[0].result is not None
    assert read_metadata(tmp_path / "results" / ended[0].result.key)["init_key"] == init.key


def test_unexpected_error_fails_the_job_without_its_insides(
    running: threading.Thread, jobs: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    failed = wait_until_ended(jobs, submit(jobs, scheduler="NoSuchScheduler"))  # the api never lets this in
    next_one = wait_until_ended(jobs, submit(jobs))

    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "generation_failed")
    assert failed.error_message == "Something went wrong inside the worker. Its log has the details."
    assert "KeyError: 'NoSuchScheduler'" in caplog.text
    assert next_one.status is JobStatus.SUCCEEDED


class GatedStorage(LocalStorage):
    """Stores no video before `gate` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()

    def save(self, video: Video, key: str) -> None:
        assert self.gate.wait(60)
        super().save(video, key)


def storing_in(storage: LocalStorage, worker: Worker) -> dict[str, VideoRecipe]:
    """The worker's recipes with another storage."""
    recipe = worker.recipes["video"]
    assert isinstance(recipe, VideoRecipe)
    return {"video": replace(recipe, storage=storage)}


@pytest.mark.slow
def test_claim_and_end_of_a_job_wait_for_a_locked_job_table(
    worker: Worker,
    stop: threading.Event,
    jobs: JobStore,
    database_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    locking, impatient = open_database(database_url), open_database(database_url, busy_seconds=0.05)
    storage = GatedStorage(tmp_path / "results")
    worker.jobs, worker.recipes = JobStore(impatient, lease_seconds=LEASE_SECONDS), storing_in(storage, worker)
    job_id = submit(jobs)
    thread = threading.Thread(target=worker.main_loop, daemon=True)
    with write_transaction(locking):
        thread.start()
        wait_for(lambda: "no job could be claimed" in caplog.text)
    wait_until(jobs, job_id, JobStatus.RUNNING)
    with write_transaction(locking):
        storage.gate.set()
        wait_for(lambda: f"the end of job {job_id} cannot be written to the job table yet" in caplog.text)

    job = wait_until_ended(jobs, job_id)
    stop.set()
    thread.join()
    for database in (locking, impatient):
        database.dispose()

    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)


def test_unusable_checkpoint_fails_the_job_by_name(running: threading.Thread, jobs: JobStore, tmp_path: Path) -> None:
    shutil.rmtree(make_tiny_checkpoint(tmp_path / "models" / "mine") / "vae")
    failed = wait_until_ended(jobs, submit(jobs, model_id="mine"))

    assert failed.error_code == "checkpoint_unusable"
    assert "vae/" in (failed.error_message or "")


def test_storage_that_cannot_be_written_fails_the_job(running: threading.Thread, jobs: JobStore, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("in the way")
    failed = wait_until_ended(jobs, submit(jobs))

    assert failed.error_code == "storage_failed"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
def test_cancelled_job_stops_and_the_next_one_runs(running: threading.Thread, jobs: JobStore) -> None:
    job_id = submit(jobs, **ENDLESS)
    wait_until(jobs, job_id, JobStatus.RUNNING)
    jobs.cancel(job_id)
    next_id = submit(jobs)

    assert wait_until_ended(jobs, job_id).status is JobStatus.CANCELLED
    assert wait_until_ended(jobs, next_id).status is JobStatus.SUCCEEDED


def test_jobs_of_one_model_run_side_by_side(running: threading.Thread, jobs: JobStore) -> None:
    """The short job ends while the long one, which came first, still runs."""
    long_id = submit(jobs, **ENDLESS)
    wait_until(jobs, long_id, JobStatus.RUNNING)

    assert wait_until_ended(jobs, submit(jobs)).status is JobStatus.SUCCEEDED
    assert jobs.get(long_id).status is JobStatus.RUNNING
    jobs.cancel(long_id)


@pytest.mark.slow
def test_job_that_does_not_fit_beside_those_in_hand_waits_for_them(
    worker: Worker, running: threading.Thread, jobs: JobStore
) -> None:
    """It keeps its place: a smaller job does not overtake it. Alone, any job runs, whatever its size."""
    small = estimate_bytes(make_new_job(**SMALL).params, worker.engine.models.get(DEFAULT_MODEL_ID))
    worker.room = Room(jobs=4, memory=4 * small)
    first = submit(jobs, **ENDLESS)  # of eight times as many frames
    wait_until(jobs, first, JobStatus.RUNNING)
    second, third = submit(jobs, **ENDLESS), submit(jobs)
    threading.Event().wait(0.5)
    waited = [jobs.get(job_id).status for job_id in (second, third)]
    jobs.cancel(first)
    wait_until(jobs, second, JobStatus.RUNNING)
    jobs.cancel(second)
    ended = [wait_until_ended(jobs, job_id) for job_id in (first, second, third)]

    assert waited == [JobStatus.QUEUED] * 2
    assert [job.status for job in ended] == [JobStatus.CANCELLED, JobStatus.CANCELLED, JobStatus.SUCCEEDED]


@pytest.mark.slow
def test_job_that_crashed_a_worker_runs_alone(running: threading.Thread, jobs: JobStore) -> None:
    crashed = submit(jobs, **ENDLESS)
    wait_until(jobs, crashed, JobStatus.RUNNING)
    jobs.free_owner("worker-1")  # as the supervisor does when the worker's process is dead
    wait_for(lambda: jobs.get(crashed).attempt == 2)
    waiting = submit(jobs)
    threading.Event().wait(0.5)

    assert jobs.get(waiting).status is JobStatus.QUEUED
    jobs.cancel(crashed)
    assert wait_until_ended(jobs, waiting).status is JobStatus.SUCCEEDED


def test_stopped_worker_gives_its_job_back(running: threading.Thread, jobs: JobStore, stop: threading.Event) -> None:
    job_id = submit(jobs, **ENDLESS)
    wait_until(jobs, job_id, JobStatus.RUNNING)
    stop.set()
    running.join(60)

    assert not running.is_alive()
    job = jobs.get(job_id)
    assert (job.status, job.owner, job.progress) == (JobStatus.QUEUED, None, 0.0)
    assert jobs.claim("worker-2") is not None


def test_device_that_is_lost_ends_the_worker_and_the_job_keeps_its_other_lives(worker: Worker, jobs: JobStore) -> None:
    """After such an error, CUDA fails every further call until the process ends."""

    def device_side_assert(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        ending = threads.submit(worker.run)
        wait_for(jobs.live_workers)  # it has measured its network
        worker.engine.load(DEFAULT_MODEL_ID).unet.up_blocks[0].register_forward_pre_hook(device_side_assert)
        hit = submit(jobs)
        with pytest.raises(DeviceLost, match="before this process has ended"):
            ending.result(60)
    waiting = submit(jobs)

    assert jobs.get(hit).status is JobStatus.RUNNING
    assert jobs.get(waiting).status is JobStatus.QUEUED
    jobs.free_owner("worker-1")  # as the supervisor does when the worker's process is dead
    job = jobs.get(hit)
    assert (job.status, job.crashes, job.error_code) == (JobStatus.QUEUED, 1, None)


def test_job_claimed_by_another_worker_is_left_alone(
    running: threading.Thread, jobs: JobStore, database_url: str, tmp_path: Path
) -> None:
    """As when this worker was suspended in mid-job: its lease expired, and another worker claimed the job."""
    job_id = submit(jobs, **ENDLESS)
    wait_until(jobs, job_id, JobStatus.RUNNING)
    database = open_database(database_url)
    taken = JobStore(database, now=lambda: utc_now() + timedelta(seconds=2 * LEASE_SECONDS)).claim("worker-2")
    database.dispose()
    next_id = submit(jobs)

    assert taken is not None
    assert wait_until_ended(jobs, next_id).status is JobStatus.SUCCEEDED
    job = jobs.get(job_id)
    assert (job.status, job.owner, job.attempt) == (JobStatus.RUNNING, "worker-2", 2)
    assert list((tmp_path / "results" / job.file_prefix).glob("*.mp4")) == []


def test_result_of_a_lost_job_is_removed_again(worker: Worker, jobs: JobStore, tmp_path: Path) -> None:
    """The worker was fenced off at the very end: its file must not stay behind."""
    job_id = submit(jobs)
    claimed = jobs.claim("worker-1")
    assert claimed is not None
    jobs.free_owner("worker-1")
    worker.work(*claimed)  # no pulse has started, so only the fence at the end can tell

    job = jobs.get(job_id)
    assert job.status is JobStatus.QUEUED
    assert list((tmp_path / "results").rglob("*.mp4")) == []


def test_job_without_room_for_its_file_is_put_off_and_made_later(
    worker: Worker, stop: threading.Event, jobs: JobStore, database_url: str, tmp_path: Path
) -> None:
    job_id = submit(jobs)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / f"{jobs.get(job_id).file_prefix}.1.mp4").symlink_to("/dev/full")  # the first attempt's: a full disk
    thread = threading.Thread(target=worker.run)
    thread.start()
    wait_for(lambda: (job := jobs.get(job_id)).attempt == 1 and job.status is JobStatus.QUEUED)
    database = open_database(database_url)
    with write_transaction(database) as connection:
        connection.execute(update(job_table).values(run_at=utc_now()))  # skips the wait of a minute
    database.dispose()
    job = wait_until_ended(jobs, job_id)
    stop.set()
    thread.join()

    assert (job.status, job.attempt, job.crashes) == (JobStatus.SUCCEEDED, 2, 0)
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_worker_waits_for_a_locked_job_table(worker: Worker, stop: threading.Event, jobs: JobStore, database_url: str) -> None:
    """While another process holds the lock, the worker can neither register nor claim jobs."""
    job_id = submit(jobs)
    impatient, holder = open_database(database_url, busy_seconds=0.02), open_database(database_url)
    worker.jobs = worker.pulse._jobs = JobStore(impatient, lease_seconds=LEASE_SECONDS)
    with write_transaction(holder):
        worker.startup()
        assert worker._claim_next() is None
    thread = threading.Thread(target=worker.main_loop)
    thread.start()
    assert wait_until_ended(jobs, job_id).status is JobStatus.SUCCEEDED
    wait_for(jobs.live_workers)
    stop.set()
    thread.join()
    worker.shutdown()
    impatient.dispose()
    holder.dispose()


def test_stalled_job_ends_the_process_and_only_it_loses_a_life(
    worker: Worker, jobs: JobStore, stop: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[int] = []
    worker.end_process = ended.append
    for _ in range(3):
        submit(jobs)
    (first, _), (second, _), (new, _) = (jobs.claim("worker-1") or pytest.fail("nothing to claim") for _ in range(3))
    with worker.pulse.hold(first) as stalled, worker.pulse.hold(second):
        worker.give_up(stalled)

    assert ended == [STALLED_CODE]
    assert stop.is_set()
    assert f"job {first.job_id} made no progress" in caplog.text
    assert [(jobs.get(claim.job_id).status, jobs.get(claim.job_id).crashes) for claim in (first, second, new)] == [
        (JobStatus.QUEUED, 1),
        (JobStatus.QUEUED, 0),
        (JobStatus.QUEUED, 0),  # the pulse does not hold it yet
    ]


@pytest.mark.slow
def test_worker_notices_a_stalled_job(worker: Worker, jobs: JobStore, stop: threading.Event, tmp_path: Path) -> None:
    storage, ended = GatedStorage(tmp_path / "results"), threading.Event()
    impatient = Worker(
        owner="worker-1",
        jobs=jobs,
        engine=worker.engine,
        recipes=storing_in(storage, worker),
        storage=storage,
        lease_seconds=LEASE_SECONDS,
        room=Room(1, 1 << 40),
        stop=stop,
        stall_seconds=1,
    )
    impatient.end_process = lambda _code: ended.set()
    job_id = submit(jobs)
    thread = threading.Thread(target=impatient.run)
    thread.start()
    assert ended.wait(60)
    job = jobs.get(job_id)
    storage.gate.set()
    thread.join()

    assert (job.status, job.crashes, job.attempt) == (JobStatus.QUEUED, 1, 1)
    assert list((tmp_path / "results").rglob("*.mp4")) == []


def test_stalled_process_ends_even_if_the_job_table_is_unavailable(
    worker: Worker, jobs: JobStore, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[int] = []
    worker.end_process = ended.append
    locking, impatient = open_database(database_url), open_database(database_url, busy_seconds=0.05)
    submit(jobs)
    claim, _ = jobs.claim("worker-1") or pytest.fail("nothing to claim")
    worker.jobs = JobStore(impatient)
    with worker.pulse.hold(claim) as stalled, write_transaction(locking):
        worker.give_up(stalled)
    for database in (locking, impatient):
        database.dispose()

    assert ended == [STALLED_CODE]
    assert "the end of this worker could not be written to the job table" in caplog.text
