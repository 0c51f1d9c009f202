"""Fair order, limits per API key, and one job per idempotency key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from promptreel.errors import IdempotencyConflict, InvalidApiKey, RateLimitExceeded
from promptreel.jobs.database import Database, read_transaction, write_transaction
from promptreel.jobs.eta import Work
from promptreel.jobs.job import Claim, Job, JobStatus
from promptreel.jobs.keys import KeyLimits, KeyStore
from promptreel.jobs.store import JobStore
from promptreel.jobs.tables import jobs
from tests.jobs.factories import make_new_job, make_result

Submit = Callable[..., Job]


@pytest.fixture
def make_key(database: Database) -> Callable[..., int]:
    keys = KeyStore(database)
    return lambda **limits: keys.create("k", KeyLimits(**limits))[0].id


@pytest.fixture
def submit(store: JobStore) -> Submit:
    def submit(key: int | None, idem_key: str | None = None, request_hash: str | None = None, **params: object) -> Job:
        return store.submit(replace(make_new_job(**params), api_key_id=key, idem_key=idem_key, request_hash=request_hash))

    return submit


def claim(store: JobStore) -> tuple[Claim, Job]:
    return store.claim("w") or pytest.fail("nothing to claim")


def serve(store: JobStore, count: int) -> list[Job]:
    """The next jobs, each done before the next one is taken."""
    served = []
    for _ in range(count):
        held, job = claim(store)
        store.finish(held, make_result(f"{job.id}.mp4"))
        served.append(job)
    return served


def test_flood_of_one_key_does_not_delay_another(store: JobStore, submit: Submit, make_key: Callable[..., int]) -> None:
    flooding, modest = make_key(), make_key()
    for _ in range(50):
        submit(flooding)
    serve(store, 10)

    wanted = submit(modest)

    assert wanted.id in [job.id for job in serve(store, 2)]
    assert store.queue_ahead(submit(modest)).waiting <= 2


def test_own_jobs_are_told_from_others_where_a_key_may_run_few(
    store: JobStore, submit: Submit, make_key: Callable[..., int]
) -> None:
    one_at_a_time, free = make_key(max_running=1), make_key()
    first, _, last = (submit(key, num_frames=length) for key, length in ((one_at_a_time, 1), (free, 1), (one_at_a_time, 3)))
    claim(store)  # the first
    between = submit(one_at_a_time, num_frames=2)
    after = submit(free)

    def lengths(work: Iterable[Work]) -> list[int]:
        return sorted(each.shape.num_frames for each in work)

    ahead = store.queue_ahead(between)
    assert store.get(first.id).status is JobStatus.RUNNING
    assert (lengths(ahead.work), ahead.waiting) == ([1, 1, 3], 2)
    assert (lengths(ahead.of_key), ahead.at_once) == ([1, 3], 1)
    assert lengths(store.queue_ahead(last).of_key) == [1]
    assert (store.queue_ahead(after).of_key, store.queue_ahead(after).at_once) == ((), None)


def test_keys_get_shares_by_weight(store: JobStore, submit: Submit, make_key: Callable[..., int]) -> None:
    heavy, light = make_key(weight=3), make_key(weight=1)
    for key in (light, heavy):
        for _ in range(40):
            submit(key)

    shares = Counter(job.api_key_id for job in serve(store, 40))

    assert abs(shares[heavy] - 30) <= 1


def test_keys_share_work_not_job_counts(store: JobStore, submit: Submit, make_key: Callable[..., int]) -> None:
    long, short = make_key(), make_key()
    for _ in range(10):
        submit(long, num_inference_steps=40)
    for _ in range(40):
        submit(short, num_inference_steps=10)

    shares = Counter(job.api_key_id for job in serve(store, 25))

    assert abs(shares[short] - 20) <= 2


def test_idle_key_saves_up_no_credit(store: JobStore, submit: Submit, make_key: Callable[..., int]) -> None:
    busy, rested = make_key(), make_key()
    for _ in range(40):
        submit(busy)
    serve(store, 20)
    for _ in range(20):
        submit(rested)

    shares = Counter(job.api_key_id for job in serve(store, 20))

    assert abs(shares[rested] - 10) <= 1


def test_jobs_of_one_caller_are_served_by_age(store: JobStore, submit: Submit, make_key: Callable[..., int]) -> None:
    key = make_key(weight=0.5)
    ids = [submit(None).id for _ in range(3)]
    ids += [submit(key, num_inference_steps=steps).id for steps in (40, 1, 20)]

    assert [job.id for job in serve(store, 6)] == ids


def test_key_at_its_limit_is_passed_over(store: JobStore, submit: Submit, make_key: Callable[..., int]) -> None:
    limited, free = make_key(max_running=2), make_key()
    own = [submit(limited).id for _ in range(3)]
    later = [submit(free, num_inference_steps=50).id for _ in range(2)]
    local = submit(None)

    held = [claim(store) for _ in range(5)]

    assert {job.id for _, job in held} == {*own[:2], *later, local.id}
    assert store.claim("w") is None
    assert store.claim("w", beside=local.params) is None
    store.finish(next(each for each, job in held if job.id == own[0]), make_result())
    assert claim(store)[1].id == own[2]


def test_limit_holds_with_workers_that_claim_at_once(store: JobStore, submit: Submit, make_key: Callable[..., int]) -> None:
    key = make_key(max_running=3)
    for _ in range(12):
        submit(key)

    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(lambda number: store.claim(f"w{number}"), range(12)))

    assert sum(each is not None for each in taken) == 3


def test_queued_jobs_are_limited_per_key(store: JobStore, submit: Submit, make_key: Callable[..., int]) -> None:
    key, other = make_key(max_queued=2), make_key(max_queued=1)
    submit(key)
    submit(key)

    with pytest.raises(RateLimitExceeded, match="at most 2 queued jobs") as refused:
        submit(key)

    assert refused.value.retry_after > 0
    submit(other)  # has its own limit
    claim(store)
    submit(key)
    assert len(store.list()) == 4


def test_revoked_key_submits_nothing(store: JobStore, database: Database, submit: Submit, make_key: Callable[..., int]) -> None:
    key = make_key()
    KeyStore(database).revoke(str(key))

    with pytest.raises(InvalidApiKey):
        submit(key)


@pytest.mark.parametrize("with_key", [True, False])
def test_request_that_is_repeated_gets_its_first_job(
    store: JobStore, submit: Submit, make_key: Callable[..., int], with_key: bool
) -> None:
    key = make_key(max_queued=1) if with_key else None
    first = submit(key, "once", "hash", seed=1)

    again = submit(key, "once", "hash", seed=2)  # not refused, though the key's queue is full

    assert (again, store.list()) == (first, [first])
    with pytest.raises(IdempotencyConflict, match="Another request"):
        submit(key, "once", "other hash")
    serve(store, 1)
    assert submit(key, "once", "hash").result == make_result("1.mp4")


def test_idempotency_keys_are_per_caller(store: JobStore, submit: Submit, make_key: Callable[..., int]) -> None:
    callers = [make_key(), make_key(), None]

    assert len({submit(caller, "once", f"{caller}").id for caller in callers}) == 3
    store.delete(1)
    assert submit(callers[0], "once", "another").id == 4


@pytest.mark.parametrize("with_key", [True, False])
def test_threads_that_repeat_a_request_at_once_make_one_job(
    store: JobStore, submit: Submit, make_key: Callable[..., int], with_key: bool
) -> None:
    key = make_key() if with_key else None
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: submit(key, "once", "hash").id, range(16)))

    assert ids == [1] * 16
    assert len(store.list()) == 1


@pytest.mark.parametrize("with_key", [True, False])
def test_database_refuses_a_second_job_by_itself(
    database: Database, submit: Submit, make_key: Callable[..., int], with_key: bool
) -> None:
    submit(make_key() if with_key else None, "once", "hash")
    with read_transaction(database) as connection:
        row = dict(connection.execute(select(jobs)).one()._mapping) | {"id": 2, "file_prefix": "another"}

    with pytest.raises(IntegrityError, match="UNIQUE"), write_transaction(database) as connection:
        connection.execute(insert(jobs).values(row))
