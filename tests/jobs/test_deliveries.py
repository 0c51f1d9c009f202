"""Deliveries: claims, recorded attempts, and lost attempts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from promptreel.errors import DeliveryLost, DeliveryNotFound
from promptreel.jobs.database import Database, open_database
from promptreel.jobs.deliveries import LOST, Delivery, DeliveryState, DeliveryStore, Exclusions, Outcome
from promptreel.jobs.keys import KeyStore
from promptreel.jobs.store import JobStore
from promptreel.jobs.webhook_secrets import WebhookSecrets
from tests.jobs.factories import START, WEBHOOK, Clock, make_new_job

FAILED = Outcome(seconds=0.5, status=503)
DELIVERED = Outcome(seconds=0.1, status=204)


@pytest.fixture
def deliveries(database: Database, clock: Clock) -> DeliveryStore:
    return DeliveryStore(database, lease_seconds=60, now=clock)


@pytest.fixture
def end_job(store: JobStore) -> Callable[..., int]:
    """The id of a job that has just ended."""

    def end(url: str = WEBHOOK) -> int:
        return store.cancel(store.submit(make_new_job(webhook_url=url)).id).id

    return end


def only(deliveries: DeliveryStore, job_id: int) -> Delivery:
    ((delivery, _),) = deliveries.list(job_id)
    return delivery


def test_due_deliveries_are_claimed_once_and_oldest_first(
    deliveries: DeliveryStore, end_job: Callable[[], int], clock: Clock
) -> None:
    first = end_job()
    clock.advance(1)
    second = end_job()

    taken = [deliveries.claim("c") for _ in range(3)]

    assert [each and each[1].job_id for each in taken] == [first, second, None]
    assert [each[1].attempt for each in taken if each] == [1, 1]


def test_busy_receiver_is_skipped(deliveries: DeliveryStore, end_job: Callable[[str], int]) -> None:
    end_job("http://slow.test/a")
    other = end_job("http://quick.test/a")
    busy = Exclusions(receivers=[(None, "slow.test"), (7, "quick.test")])

    taken = deliveries.claim("c", excluded=busy)

    assert taken is not None
    assert taken[1].job_id == other
    assert deliveries.claim("c", excluded=busy) is None
    assert deliveries.claim("c") is not None


def test_key_at_its_limit_is_skipped(
    store: JobStore, database: Database, deliveries: DeliveryStore, end_job: Callable[[str], int]
) -> None:
    end_job("http://a.test/")
    key, _ = KeyStore(database).create("shop")
    keys_job = store.submit(replace(make_new_job(webhook_url="http://a.test/"), api_key_id=key.id))
    store.cancel(keys_job.id)

    assert deliveries.claim("c", excluded=Exclusions(keys=[None, key.id])) is None
    taken = deliveries.claim("c", excluded=Exclusions(keys=[None]))
    assert taken is not None
    assert (taken[1].job_id, taken[1].api_key_id) == (keys_job.id, key.id)


def test_only_first_attempts_are_claimed_for_a_key_at_its_limit_of_retries(
    deliveries: DeliveryStore, end_job: Callable[[str], int], clock: Clock
) -> None:
    end_job("http://a.test/")
    claim, _ = deliveries.claim("c")
    deliveries.record_failed(claim, FAILED, next_at=clock())
    clock.advance(1)
    first = end_job("http://b.test/")

    enough = Exclusions(retries_of=[None])
    taken = deliveries.claim("c", excluded=enough)
    assert taken is not None
    assert taken[1].job_id == first
    assert deliveries.claim("c", excluded=enough) is None
    assert deliveries.claim("c", excluded=Exclusions(retries_of=[7])) is not None


def test_failed_attempt_is_recorded_and_the_next_is_due_at_next_at(
    deliveries: DeliveryStore, end_job: Callable[[], int], clock: Clock
) -> None:
    job_id = end_job()
    claim, _ = deliveries.claim("c")
    deliveries.record_failed(claim, FAILED, next_at=START + timedelta(seconds=5))

    assert deliveries.claim("c") is None
    clock.advance(5)
    again, delivery = deliveries.claim("c")
    assert (delivery.id, delivery.attempt, delivery.tried_since) == (claim.delivery_id, 2, START)
    deliveries.record_delivered(again, DELIVERED)
    ((delivery, attempts),) = deliveries.list(job_id)
    assert (delivery.state, delivery.ended_at) == (DeliveryState.DELIVERED, START + timedelta(seconds=5))
    assert [(each.number, each.status, each.seconds, each.error) for each in attempts] == [
        (1, 503, 0.5, None),
        (2, 204, 0.1, None),
    ]
    clock.advance(10**6)
    assert deliveries.claim("c") is None


def test_delivery_that_is_given_up_is_dead(deliveries: DeliveryStore, end_job: Callable[[], int], clock: Clock) -> None:
    job_id = end_job()
    deliveries.record_failed(deliveries.claim("c")[0], FAILED, next_at=None)
    clock.advance(10**6)

    assert only(deliveries, job_id).state is DeliveryState.DEAD
    assert deliveries.claim("c") is None


@pytest.mark.parametrize("how", ["silence", "death"])
def test_delivery_of_a_dead_courier_is_due_again_and_the_old_claim_is_invalid(
    deliveries: DeliveryStore, end_job: Callable[[], int], clock: Clock, how: str
) -> None:
    job_id = end_job()
    lost, _ = deliveries.claim("gone")
    clock.advance(59)
    assert deliveries.claim("other") is None
    if how == "silence":
        clock.advance(1)
    else:
        assert deliveries.free_owner("other") == 0
        assert deliveries.free_owner("gone") == 1
    again, delivery = deliveries.claim("other")

    assert (delivery.id, delivery.attempt) == (lost.delivery_id, 2)
    for record in (deliveries.record_delivered, lambda *told: deliveries.record_failed(*told, next_at=None)):
        with pytest.raises(DeliveryLost):
            record(lost, DELIVERED)
    ((delivery, attempts),) = deliveries.list(job_id)
    assert (delivery.state, [each.error for each in attempts]) == (DeliveryState.SENDING, [LOST, None])
    deliveries.record_delivered(again, DELIVERED)


def test_attempt_at_a_deleted_jobs_delivery_is_lost(
    deliveries: DeliveryStore, store: JobStore, end_job: Callable[[], int]
) -> None:
    job_id = end_job()
    claim, _ = deliveries.claim("c")
    store.delete(job_id)

    with pytest.raises(DeliveryLost):
        deliveries.record_delivered(claim, DELIVERED)
    assert deliveries.list(job_id) == []


def test_couriers_never_make_the_same_attempt(
    database_url: str, deliveries: DeliveryStore, end_job: Callable[[], int], clock: Clock
) -> None:
    expected = sorted(end_job() for _ in range(30))
    databases = [open_database(database_url) for _ in range(4)]

    def take_all(number: int) -> list[int]:
        own = DeliveryStore(databases[number], now=clock)
        found = []
        while taken := own.claim(f"courier-{number}"):
            found.append(taken[1].job_id)
        return found

    with ThreadPoolExecutor(4) as threads:
        taken = [job_id for found in threads.map(take_all, range(4)) for job_id in found]
    for database in databases:
        database.dispose()

    assert sorted(taken) == expected
    assert {len(deliveries.list(job_id)[0][1]) for job_id in expected} == {1}


@pytest.mark.parametrize("became", ["delivered", "dead", "waiting"])
def test_redelivery_is_due_at_once_under_the_same_id_and_is_tried_for_a_day_again(
    deliveries: DeliveryStore, end_job: Callable[[], int], clock: Clock, became: str
) -> None:
    job_id = end_job()
    claim, _ = deliveries.claim("c")
    if became == "delivered":
        deliveries.record_delivered(claim, DELIVERED)
    else:
        later = None if became == "dead" else START + timedelta(hours=1)
        deliveries.record_failed(claim, FAILED, next_at=later)
    clock.advance(60)
    deliveries.redeliver(job_id)

    again, delivery = deliveries.claim("c")
    assert (again.delivery_id, again.attempt) == (claim.delivery_id, 2)
    assert (delivery.tried_since, delivery.ended_at) == (clock.time, None)


def test_redelivery_leaves_one_that_is_being_sent_alone(deliveries: DeliveryStore, end_job: Callable[[], int]) -> None:
    job_id = end_job()
    claim, _ = deliveries.claim("c")
    deliveries.redeliver(job_id)

    assert deliveries.claim("c") is None
    deliveries.record_delivered(claim, DELIVERED)
    assert only(deliveries, job_id).state is DeliveryState.DELIVERED


def test_job_without_a_webhook_or_without_an_end_has_nothing_to_redeliver(deliveries: DeliveryStore, store: JobStore) -> None:
    ended, open_job = store.submit(make_new_job()), store.submit(make_new_job(webhook_url=WEBHOOK))
    store.cancel(ended.id)

    for job_id in (ended.id, open_job.id, 99):
        with pytest.raises(DeliveryNotFound, match=f"Job {job_id} has nothing"):
            deliveries.redeliver(job_id)


def test_concurrent_callers_get_one_installation_secret(database_url: str) -> None:
    databases = [open_database(database_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(lambda database: WebhookSecrets(database).of_installation(), databases))
    for database in databases:
        database.dispose()

    (secret,) = found
    assert secret.startswith("whsec_")
    assert len(secret) == len("whsec_") + 44  # 32 bytes in base64


def test_api_key_has_a_secret_of_its_own(database: Database) -> None:
    keys, secrets = KeyStore(database), WebhookSecrets(database)
    shop, other = (keys.create(name)[0] for name in ("shop", "other"))
    keys.revoke(str(shop.id))  # its jobs go on

    assert (secrets.of(shop.id), secrets.of(other.id)) == (shop.webhook_secret, other.webhook_secret)
    assert secrets.of(None) == secrets.of_installation()
    assert len({secrets.of(each) for each in (shop.id, other.id, None)}) == 3
