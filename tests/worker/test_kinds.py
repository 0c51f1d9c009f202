"""A second job kind, through a real worker, job table, storage and courier. It behaves like videos."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.database import Database, open_database, write_transaction
from promptreel.jobs.deliveries import DeliveryState, DeliveryStore
from promptreel.jobs.job import AnyJob, JobStatus
from promptreel.jobs.kinds import UnknownParams
from promptreel.jobs.store import JobStore
from promptreel.jobs.webhook_secrets import WebhookSecrets
from promptreel.notify.courier import Courier
from promptreel.worker.worker import Worker
from tests.counting import KINDS_WITH_COUNT, CountParams, CountRecipe, make_count
from tests.jobs.factories import make_new_job
from tests.notify.receiver import receiving
from tests.waiting import wait_for
from tests.worker.conftest import LEASE_SECONDS, at_work


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = open_database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database, lease_seconds=LEASE_SECONDS, kinds=KINDS_WITH_COUNT)


@pytest.fixture
def counting(worker: Worker, tmp_path: Path) -> CountRecipe:
    recipe = CountRecipe(worker.storage, tmp_path / "scratch")
    worker.recipes = {**worker.recipes, "count": recipe}
    return recipe


def wait_until(jobs: JobStore, job_id: int, status: JobStatus) -> AnyJob:
    return wait_for(lambda: job if (job := jobs.get(job_id)).status is status else None)


def test_job_of_another_kind_is_claimed_done_stored_and_delivered(
    worker: Worker, counting: CountRecipe, jobs: JobStore, database: Database
) -> None:
    def tell(job: AnyJob, delivery_id: str) -> dict[str, Any]:
        assert isinstance(job.params, CountParams)
        return {"id": delivery_id, "counted": job.params.up_to, "status": job.status}

    with receiving() as receiver:
        courier = Courier(
            owner="courier-1",
            jobs=jobs,
            deliveries=DeliveryStore(database, kinds=KINDS_WITH_COUNT.keys()),
            secrets=WebhookSecrets(database),
            fetcher=SafeFetcher(allow_networks=[ip_network("127.0.0.0/8")], allow_ports=[receiver.port], seconds=60),
            to_body=tell,
            stop=threading.Event(),
        )
        counting.gate.set()
        with at_work(worker):
            job_id = jobs.submit(make_count(4, webhook_url=receiver.url())).id
            done = wait_until(jobs, job_id, JobStatus.SUCCEEDED)
        taken = courier.deliveries.claim("courier-1") or pytest.fail("nothing to deliver")
        courier.deliver(*taken)
        told = receiver.messages()[0].verify(WebhookSecrets(database).of_installation())

    assert (done.kind, done.attempt, done.params) == ("count", 1, CountParams(model_id="cutout", up_to=4))
    assert done.result is not None
    assert worker.storage.read(done.result.key) == b"0\n1\n2\n3\n"
    assert told == {"id": taken[1].id, "counted": 4, "status": "succeeded"}
    assert jobs.list_attempts(job_id)[0].outcome == "succeeded"


def test_running_job_of_another_kind_is_cancelled(worker: Worker, counting: CountRecipe, jobs: JobStore) -> None:
    job_id = jobs.submit(make_count()).id
    with at_work(worker):
        wait_until(jobs, job_id, JobStatus.RUNNING)
        jobs.cancel(job_id)
        cancelled = wait_until(jobs, job_id, JobStatus.CANCELLED)

    assert (cancelled.result, cancelled.attempt) == (None, 1)


def test_late_result_of_another_kind_is_fenced_off_and_removed(
    worker: Worker, counting: CountRecipe, jobs: JobStore, tmp_path: Path
) -> None:
    """The first attempt ends after the second has begun."""
    counting.gate.set()
    job_id = jobs.submit(make_count()).id
    first = jobs.claim("worker-1") or pytest.fail("nothing to claim")
    jobs.free_owner("worker-1")
    second = jobs.claim("worker-2") or pytest.fail("nothing to claim")
    worker.work(*first)
    late = jobs.get(job_id)
    worker.work(*second)
    done = jobs.get(job_id)

    assert (late.status, late.owner, late.attempt) == (JobStatus.RUNNING, "worker-2", 2)
    assert (done.status, done.crashes) == (JobStatus.SUCCEEDED, 1)
    assert [path.name for path in (tmp_path / "results").rglob("*.txt")] == ["2.txt"]


def test_kinds_do_not_run_side_by_side_and_keep_their_places(jobs: JobStore) -> None:
    jobs.submit(make_count())
    jobs.submit(make_new_job())
    jobs.submit(make_count())
    _, first = jobs.claim("worker-1") or pytest.fail("nothing to claim")

    beside = jobs.claim("worker-1", beside=first.params)
    _, next_one = jobs.claim("worker-1") or pytest.fail("nothing to claim")

    assert (first.kind, beside, next_one.kind) == ("count", None, "video")


@pytest.mark.slow
def test_one_job_that_uses_no_device_runs_beside_a_video(worker: Worker, counting: CountRecipe, jobs: JobStore) -> None:
    counting.uses_device = False
    first, second = (jobs.submit(make_count(model_id=f"model-{number}")).id for number in range(2))
    with at_work(worker):
        wait_until(jobs, first, JobStatus.RUNNING)
        video = jobs.submit(make_new_job(width=32, height=32, num_frames=2, num_inference_steps=2))
        wait_until(jobs, video.id, JobStatus.SUCCEEDED)
        seen = [jobs.get(job_id).status for job_id in (first, second)]
        counting.gate.set()
        for job_id in (first, second):
            wait_until(jobs, job_id, JobStatus.SUCCEEDED)

    assert seen == [JobStatus.RUNNING, JobStatus.QUEUED]


def test_job_that_uses_no_device_joins_a_busy_worker_unless_it_crashed_one(jobs: JobStore) -> None:
    jobs.submit(make_new_job())
    _, video = jobs.claim("worker-1") or pytest.fail("nothing to claim")
    jobs.submit(make_count(model_id="another"))
    jobs.claim("worker-2") or pytest.fail("nothing to claim")
    jobs.free_owner("worker-2")
    crashed = jobs.claim("worker-1", beside=video.params, aside={"count"})
    jobs.claim("worker-3") or pytest.fail("nothing to claim")
    jobs.submit(make_count(model_id="another"))

    assert crashed is None
    assert jobs.claim("worker-1", beside=video.params) is None
    assert jobs.claim("worker-1", beside=video.params, aside={"count"}) is not None


def test_worker_leaves_kinds_without_a_recipe_to_others(worker: Worker, jobs: JobStore) -> None:
    jobs.submit(make_count())
    video = jobs.submit(make_new_job())
    worker.jobs = jobs

    taken = worker._claim_next() or pytest.fail("nothing to claim")

    assert taken[1].id == video.id
    assert jobs.claim("worker-2") is not None


def test_version_that_does_not_know_a_kind_leaves_its_jobs_alone(jobs: JobStore, database: Database) -> None:
    """As after a downgrade to an older version."""
    older = JobStore(database, lease_seconds=LEASE_SECONDS)
    waiting, running, ended = (jobs.submit(make_count(webhook_url="https://shop.example.com/")).id for _ in range(3))
    video = older.submit(make_new_job())
    _, claimed = jobs.claim("worker-1") or pytest.fail("nothing to claim")
    with write_transaction(database) as connection:
        connection.execute(text("UPDATE jobs SET stage = 'counting' WHERE id = :id"), {"id": claimed.id})
    jobs.cancel(ended)

    ahead = older.queue_ahead(video)
    taken = older.claim("worker-2")
    shown = older.get(waiting)
    older.free_owner("worker-1")
    deleted = older.delete(running)

    assert taken is not None
    assert (claimed.id, taken[1].id) == (waiting, video.id)
    assert shown.params == UnknownParams(
        kind="count", model_id="cutout", batch_key="cutout|3", data={"model_id": "cutout", "up_to": 3}
    )
    assert (shown.status, shown.stage) == (JobStatus.RUNNING, None)
    assert older.claim("worker-2") is None
    assert ahead.work == ()
    assert older.cancel(waiting).status is JobStatus.CANCELLED
    assert deleted.status is JobStatus.QUEUED
    assert DeliveryStore(database).claim("courier-1") is None
    assert {each.state for each, _ in DeliveryStore(database).list(ended)} == {DeliveryState.PENDING}
