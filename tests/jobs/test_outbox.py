"""However a job ends, exactly one delivery is written, and none before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from promptreel.errors import JobLost
from promptreel.jobs.database import Database, read_transaction, write_transaction
from promptreel.jobs.deliveries import DeliveryState, DeliveryStore
from promptreel.jobs.job import Claim, JobStatus
from promptreel.jobs.outbox import host_of
from promptreel.jobs.store import JobStore
from promptreel.jobs.tables import deliveries, jobs
from tests.jobs.factories import START, WEBHOOK, Clock, make_new_job, make_result

Way = Callable[[JobStore, Clock, int], None]


def claim(store: JobStore) -> Claim:
    taken = store.claim("w")
    assert taken is not None
    return taken[0]


def finish(store: JobStore, _: Clock, __: int) -> None:
    store.finish(claim(store), make_result())


def fail(store: JobStore, _: Clock, __: int) -> None:
    store.fail(claim(store), code="out_of_memory", message="too large")


def cancel_queued(store: JobStore, _: Clock, job_id: int) -> None:
    store.cancel(job_id)


def cancel_running(store: JobStore, job_id: int) -> Claim:
    taken = claim(store)
    store.cancel(job_id)
    return taken


def acknowledge_cancel(store: JobStore, _: Clock, job_id: int) -> None:
    store.acknowledge_cancel(cancel_running(store, job_id))


def give_back_cancelled(store: JobStore, _: Clock, job_id: int) -> None:
    store.give_back(cancel_running(store, job_id))


def cancel_and_fall_silent(store: JobStore, clock: Clock, job_id: int) -> None:
    cancel_running(store, job_id)
    clock.advance(31)
    store.requeue_expired()


def cancel_and_die(store: JobStore, _: Clock, job_id: int) -> None:
    cancel_running(store, job_id)
    store.free_owner("w")


def die_too_often(store: JobStore, _: Clock, __: int) -> None:
    for _attempt in range(3):
        claim(store)
        store.free_owner("w")


def fall_silent_too_often(store: JobStore, clock: Clock, _: int) -> None:
    for _attempt in range(3):
        claim(store)
        clock.advance(31)
        store.requeue_expired()


def fall_silent_until_a_claim_sees_it(store: JobStore, clock: Clock, _: int) -> None:
    for _attempt in range(3):
        claim(store)
        clock.advance(31)
    assert store.claim("w") is None


WAYS: dict[Way, JobStatus] = {
    finish: JobStatus.SUCCEEDED,
    fail: JobStatus.FAILED,
    cancel_queued: JobStatus.CANCELLED,
    acknowledge_cancel: JobStatus.CANCELLED,
    give_back_cancelled: JobStatus.CANCELLED,
    cancel_and_fall_silent: JobStatus.CANCELLED,
    cancel_and_die: JobStatus.CANCELLED,
    die_too_often: JobStatus.FAILED,
    fall_silent_too_often: JobStatus.FAILED,
    fall_silent_until_a_claim_sees_it: JobStatus.FAILED,
}


def count(database: Database) -> int:
    with read_transaction(database) as connection:
        return connection.execute(select(func.count()).select_from(deliveries)).scalar_one()


@pytest.mark.parametrize(("end", "status"), WAYS.items(), ids=[way.__name__ for way in WAYS])
def test_every_way_to_an_end_writes_one_delivery(
    store: JobStore, database: Database, clock: Clock, end: Way, status: JobStatus
) -> None:
    quiet = store.submit(make_new_job("without a webhook"))
    end(store, clock, quiet.id)
    assert store.get(quiet.id).status is status
    job = store.submit(make_new_job(webhook_url=WEBHOOK))
    end(store, clock, job.id)

    assert store.get(job.id).status is status
    ((delivery, attempts),) = DeliveryStore(database).list(job.id)
    assert count(database) == 1
    assert delivery.id.startswith("msg_")
    assert (delivery.url, delivery.host, delivery.state) == (WEBHOOK, "shop.example.com", DeliveryState.PENDING)
    assert delivery.next_at == delivery.created_at == store.get(job.id).finished_at
    assert (delivery.attempt, attempts) == (0, [])


def test_what_does_not_end_a_job_writes_none(store: JobStore, database: Database, clock: Clock) -> None:
    job = store.submit(make_new_job(webhook_url=WEBHOOK))
    first = claim(store)
    store.heartbeat(first)
    store.give_back(first)
    second = claim(store)
    store.cancel(job.id)
    store.free_owner("another")
    with pytest.raises(JobLost):
        store.finish(first, make_result())

    assert count(database) == 0
    store.acknowledge_cancel(second)
    for end in (store.acknowledge_cancel, store.give_back, lambda claim: store.finish(claim, make_result())):
        with pytest.raises(JobLost):
            end(second)
    store.cancel(job.id)
    clock.advance(100)
    store.requeue_expired()
    assert count(database) == 1


def test_end_that_is_rolled_back_leaves_no_delivery(store: JobStore, database: Database) -> None:
    """One transaction: neither without the other."""
    job = store.submit(make_new_job(webhook_url=WEBHOOK))
    held = claim(store)
    with write_transaction(database) as connection:
        connection.exec_driver_sql("CREATE TRIGGER full BEFORE INSERT ON deliveries BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(Exception, match="full"):
        store.finish(held, make_result())

    assert store.get(job.id).status is JobStatus.RUNNING
    with write_transaction(database) as connection:
        connection.exec_driver_sql("DROP TRIGGER full")
    store.finish(held, make_result())
    assert count(database) == 1


def test_deleted_job_takes_its_deliveries_along(store: JobStore, database: Database) -> None:
    job = store.submit(make_new_job(webhook_url=WEBHOOK))
    store.cancel(job.id)
    assert count(database) == 1
    store.delete(job.id)

    assert count(database) == 0


@pytest.mark.parametrize("url", ["http://[", "nonsense", "", "http://" + "a" * 300])
def test_invalid_url_does_not_keep_a_job_from_ending(store: JobStore, database: Database, url: str) -> None:
    job = store.submit(make_new_job(webhook_url=url))
    store.cancel(job.id)

    ((delivery, _),) = DeliveryStore(database).list(job.id)
    assert (delivery.url, delivery.created_at) == (url, START)
    assert len(host_of(url)) <= 255
    with read_transaction(database) as connection:
        assert connection.execute(select(jobs.c.status)).scalar() == JobStatus.CANCELLED
