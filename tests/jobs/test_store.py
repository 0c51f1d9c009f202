"""The queue as clients and estimates see it. test_claims.py covers workers."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, event, select, update
from sqlalchemy.exc import StatementError

from promptreel.errors import DatabaseBusy, JobLost, JobNotFound
from promptreel.jobs.database import Database, open_database, read_transaction, write_transaction
from promptreel.jobs.eta import Ahead, Timing, VideoShape, Work
from promptreel.jobs.job import JobStage, JobStatus
from promptreel.jobs.keys import KeyLimits, KeyStore
from promptreel.jobs.store import JobStore
from promptreel.jobs.tables import jobs, utc_now, workers
from promptreel.jobs.worker_records import WorkerRecord
from tests.jobs.factories import START, Clock, make_new_job, make_result


def test_submitted_job_reads_back_whole(store: JobStore) -> None:
    new = make_new_job("a blue rocket", seed=7, num_frames=16)

    job = store.submit(new)

    assert job == store.get(job.id) == store.get_by_file_prefix(job.file_prefix)
    assert (job.params, job.request, job.track_id) == (new.params, new.request, "t-1")
    assert (job.status, job.progress, job.attempt, job.cancel_requested) == (JobStatus.QUEUED, 0.0, 0, False)
    assert (job.stage, job.owner, job.result, job.error_code, job.started_at, job.finished_at) == (None,) * 6
    assert job.created_at == START
    assert not job.is_final


def test_ids_count_up_and_are_not_reused(store: JobStore, database: Database) -> None:
    first, second = store.submit(make_new_job()), store.submit(make_new_job())
    with write_transaction(database) as connection:
        connection.execute(delete(jobs).where(jobs.c.id == second.id))

    third = store.submit(make_new_job())

    assert [first.id, second.id, third.id] == [1, 2, 3]


def test_file_prefix_is_a_random_uuid(store: JobStore) -> None:
    first, second = store.submit(make_new_job()), store.submit(make_new_job())

    assert uuid.UUID(first.file_prefix).version == 4
    assert first.file_prefix != second.file_prefix


def test_times_are_exact_to_the_microsecond_and_in_utc(store: JobStore, clock: Clock) -> None:
    clock.time = datetime(2026, 11, 22, 14, 0, 0, 123457, tzinfo=UTC)

    job = store.get(store.submit(make_new_job()).id)

    assert job.created_at == clock.time
    assert job.created_at.utcoffset() == timedelta(0)


def test_time_without_zone_is_refused(database: Database) -> None:
    naive = JobStore(database, now=lambda: datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake

    with pytest.raises(StatementError, match="time zone"):
        naive.submit(make_new_job())


def test_default_clock_is_aware() -> None:
    assert utc_now().tzinfo is UTC


def test_unknown_jobs_are_not_found(store: JobStore) -> None:
    job = store.submit(make_new_job())
    for look_up in (store.get, store.cancel, store.delete):
        with pytest.raises(JobNotFound, match="99"):
            look_up(99)
    with pytest.raises(JobNotFound):
        store.get_by_file_prefix("../../etc/passwd")

    assert store.list() == [job]


def test_list_is_newest_first_and_limited(store: JobStore) -> None:
    for _ in range(4):
        store.submit(make_new_job())

    assert [job.id for job in store.list()] == [4, 3, 2, 1]
    assert [job.id for job in store.list(limit=2)] == [4, 3]
    assert [job.id for job in store.list(limit=2, after=3)] == [2, 1]
    assert [job.id for job in store.list(limit=2, after=1, oldest_first=True)] == [2, 3]


def test_deleted_job_cannot_be_written_or_claimed(store: JobStore) -> None:
    running, queued = store.submit(make_new_job()), store.submit(make_new_job())
    claim, _ = store.claim("worker-1") or pytest.fail("nothing to claim")

    assert store.delete(running.id).status is JobStatus.RUNNING
    assert store.delete(queued.id) == queued

    for write in (lambda: store.heartbeat(claim), lambda: store.finish(claim, make_result())):
        with pytest.raises(JobLost):
            write()
    assert store.claim("worker-2") is None
    assert store.list() == []


def test_deleted_job_is_gone_and_its_worker_has_lost_it(store: JobStore) -> None:
    for _ in range(2):
        store.submit(make_new_job())
    claimed = store.claim("w")
    assert claimed is not None

    assert store.delete(1) == claimed[1]

    with pytest.raises(JobLost):
        store.finish(claimed[0], make_result())
    with pytest.raises(JobNotFound):
        store.delete(1)
    assert [job.id for job in store.list()] == [2]
    assert store.submit(make_new_job()).id == 3


def test_cancelling_a_queued_job_ends_it_at_once(store: JobStore, clock: Clock) -> None:
    job = store.submit(make_new_job())
    clock.advance(5)

    cancelled = store.cancel(job.id)

    assert cancelled == store.get(job.id)
    assert (cancelled.status, cancelled.finished_at, cancelled.cancel_requested) == (JobStatus.CANCELLED, clock(), False)
    assert store.claim("w") is None


def test_cancelling_a_running_job_only_asks_its_worker(store: JobStore) -> None:
    job = store.submit(make_new_job())
    store.claim("w")

    asked = store.cancel(job.id)

    assert (asked.status, asked.cancel_requested, asked.finished_at) == (JobStatus.RUNNING, True, None)
    assert store.cancel(job.id) == asked


@pytest.mark.parametrize("ending", ["finish", "fail", "acknowledge_cancel"])
def test_cancelling_a_final_job_changes_nothing(store: JobStore, ending: str) -> None:
    job = store.submit(make_new_job())
    claim, _ = store.claim("w") or pytest.fail("nothing to claim")
    endings = {
        "finish": lambda: store.finish(claim, make_result()),
        "fail": lambda: store.fail(claim, code="generation_failed", message="no"),
        "acknowledge_cancel": lambda: store.acknowledge_cancel(claim),
    }
    endings[ending]()
    ended = store.get(job.id)

    assert store.cancel(job.id) == ended
    assert ended.is_final


def test_jobs_are_counted_by_an_index_of_their_state(store: JobStore, database: Database) -> None:
    for _ in range(4):
        store.submit(make_new_job())
    claim, _ = store.claim("w") or pytest.fail("nothing to claim")
    store.finish(claim, make_result())
    store.claim("w")
    store.cancel(4)
    statements: list[str] = []
    event.listen(database, "before_cursor_execute", lambda *args: statements.append(str(args[2])))

    counts = [store.count(status) for status in (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED, JobStatus.CANCELLED)]

    assert counts == [1, 1, 1, 1]
    for statement in statements[:3]:
        with read_transaction(database) as connection:
            (plan,) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").all()
        assert plan.detail.startswith("SCAN jobs USING COVERING INDEX")


def submit_of_lengths(store: JobStore, *lengths: int) -> list[int]:
    """Submits jobs with these frame counts, by which `lengths_ahead` identifies them. Returns their ids."""
    return [store.submit(make_new_job(num_frames=length)).id for length in lengths]


def lengths_ahead(store: JobStore, job_id: int) -> list[int]:
    return sorted(work.shape.num_frames for work in store.queue_ahead(store.get(job_id)).work)


def test_queue_ahead_is_the_running_jobs_and_those_in_front(store: JobStore) -> None:
    ids = submit_of_lengths(store, 1, 2, 3, 4)
    store.claim("w")
    store.cancel(ids[1])

    assert (lengths_ahead(store, ids[3]), store.queue_ahead(store.get(ids[3])).waiting) == ([1, 3], 1)
    assert (lengths_ahead(store, ids[2]), store.queue_ahead(store.get(ids[2])).waiting) == ([1], 0)


def test_queue_ahead_follows_priority_then_virtual_time(store: JobStore, database: Database) -> None:
    ids = submit_of_lengths(store, 1, 2, 3, 4)
    with write_transaction(database) as connection:
        connection.execute(update(jobs).where(jobs.c.id == ids[0]).values(priority=1))
        connection.execute(update(jobs).where(jobs.c.id == ids[1]).values(vt=9.5))

    assert [lengths_ahead(store, job_id) for job_id in ids] == [[2, 3, 4], [3, 4], [], [3]]


def test_nothing_is_ahead_of_a_job_that_runs_or_has_ended(store: JobStore) -> None:
    running, _, cancelled = (store.submit(make_new_job()) for _ in range(3))
    store.claim("w")
    store.cancel(cancelled.id)

    assert store.queue_ahead(running) == Ahead()  # although the caller still holds it as queued
    assert store.queue_ahead(cancelled) == Ahead()


def test_jobs_of_the_same_worker_with_less_left_are_ahead_of_a_running_one(store: JobStore) -> None:
    steps = {2: 50, 3: 4, 4: 4}
    long, short, elsewhere = (
        store.submit(make_new_job(num_frames=length, num_inference_steps=each)) for length, each in steps.items()
    )
    claims = [store.claim(owner) or pytest.fail("nothing to claim") for owner in ("w", "w", "other")]

    assert [lengths_ahead(store, job.id) for job in (long, short, elsewhere)] == [[3], [], []]

    store.report(claims[0][0], stage=JobStage.DENOISING, progress=0.98)
    assert [lengths_ahead(store, job.id) for job in (long, short, elsewhere)] == [[], [2], []]


def test_work_ahead_is_summed_up_by_model_and_shape(store: JobStore) -> None:
    like_this = {"model_id": "a|b", "width": 64, "height": 96, "num_frames": 10, "guidance_scale": 1.0}
    for steps in (20, 5, 5):
        store.submit(make_new_job(**like_this, num_inference_steps=steps))
    store.submit(make_new_job(num_frames=1))
    last = store.submit(make_new_job())
    claim, _ = store.claim("w") or pytest.fail("nothing to claim")
    store.report(claim, stage=JobStage.DENOISING, progress=0.25)
    shape = VideoShape(10, 64, 96)

    ahead = store.queue_ahead(last)

    assert ahead.waiting == 3
    running = Work(model_id="a|b", shape=shape, owner="w", units=150, fixed_times=1, done=50, since=store.get(1).started_at)
    assert ahead.work[0] == running
    assert Work(model_id="a|b", shape=shape, owner=None, units=100, fixed_times=2) in ahead.work
    assert len(ahead.work) == 3
    assert len(store.unfinished_work()) == 4


def test_job_that_was_put_off_is_no_work_in_front_of_others_until_it_is_due(store: JobStore, clock: Clock) -> None:
    first, second = (store.submit(make_new_job()) for _ in range(2))
    claim, _ = store.claim("w") or pytest.fail("nothing to claim")
    store.put_off(claim, code="disk_full", message="No room.")
    meanwhile = store.queue_ahead(second), store.unfinished_work()
    clock.advance(60)
    due = store.queue_ahead(second), store.unfinished_work()

    assert meanwhile[0] == Ahead()
    assert [each.units for each in meanwhile[1]] == [second.cost]
    assert [each.units for each in due[0].work] == [first.cost]
    assert (due[0].waiting, [each.units for each in due[1]]) == (1, [first.cost + second.cost])


OF_ALL = ["SCAN jobs USING COVERING INDEX jobs_queued_by_batch"]
OF_THE_KEY = ["SEARCH jobs USING COVERING INDEX jobs_queued_by_api_key (api_key_id=?)"]


@pytest.mark.parametrize(("max_running", "expected"), [(None, [OF_ALL]), (1, [OF_ALL, OF_THE_KEY])])
def test_long_queue_is_summed_up_from_an_index_alone(
    store: JobStore, database: Database, max_running: int | None, expected: list[list[str]]
) -> None:
    key, _ = KeyStore(database).create("k", KeyLimits(max_running=max_running))
    statements: list[tuple[str, object]] = []

    def remember(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        statements.append((statement, parameters))

    job = store.submit(replace(make_new_job(), api_key_id=key.id))
    event.listen(database, "before_cursor_execute", remember)
    store.queue_ahead(job)

    summed = [each for each in statements if "sum(" in each[0]]
    with read_transaction(database) as connection:
        plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all() for sql, parameters in summed]
    assert [[step[-1] for step in plan] for plan in plans] == expected


def test_queue_ahead_of_an_unknown_job_is_not_found(store: JobStore, database: Database) -> None:
    job = store.submit(make_new_job())
    with write_transaction(database) as connection:
        connection.execute(delete(jobs))

    with pytest.raises(JobNotFound):
        store.queue_ahead(job)


def test_newest_record_of_each_worker_is_kept(store: JobStore) -> None:
    first = WorkerRecord(id="w1", device="cpu", seconds_per_unit=None)
    other = WorkerRecord(id="w2", device="cuda:0", seconds_per_unit=0.1)
    newer = WorkerRecord(id="w1", device="cpu", seconds_per_unit=0.25, loaded=("a", "b"))
    for record in (other, first, newer):
        store.record_worker(record)

    assert store.live_workers() == [newer, other]


def test_worker_that_was_not_seen_lately_is_not_live(store: JobStore, clock: Clock) -> None:
    store.record_worker(WorkerRecord(id="w", device="cpu", seconds_per_unit=None))

    clock.advance(30)
    assert len(store.live_workers()) == 1
    clock.advance(0.1)
    assert store.live_workers() == []


def test_worker_that_was_not_seen_for_minutes_is_forgotten(store: JobStore, database: Database, clock: Clock) -> None:
    for name in ("dead", "alive"):
        store.record_worker(WorkerRecord(id=name, device="cpu", seconds_per_unit=None))
    clock.advance(301)
    store.record_worker(WorkerRecord(id="alive", device="cpu", seconds_per_unit=None))
    store.requeue_expired()

    with read_transaction(database) as connection:
        assert connection.execute(select(workers.c.id)).scalars().all() == ["alive"]


def run_one(store: JobStore, clock: Clock, *, seconds: float, busy_seconds: float | None = None, **params: object) -> None:
    """A job of 20 units a frame, which spends a quarter of its time in calls."""
    store.submit(make_new_job(**{"num_inference_steps": 10, **params}))
    claim, _ = store.claim("w") or pytest.fail("nothing to claim")
    clock.advance(seconds)
    facts = {"device": "cpu (float32)", "device_seconds": seconds / 4}
    store.finish(claim, replace(make_result(), facts=facts), busy_seconds=busy_seconds)


def test_recent_timings_are_of_the_models_latest_successes(store: JobStore, clock: Clock) -> None:
    run_one(store, clock, seconds=10, num_frames=8, width=64, height=96)
    run_one(store, clock, seconds=40, busy_seconds=24, num_frames=16, guidance_scale=1)
    run_one(store, clock, seconds=7, model_id="other")
    store.submit(make_new_job())
    claim, _ = store.claim("w") or pytest.fail("nothing to claim")
    store.fail(claim, code="out_of_memory", message="no")

    newest, oldest = store.recent_timings("cutout")
    assert newest == Timing(shape=VideoShape(16, 512, 512), device="cpu (float32)", units=160, busy_seconds=24, call_seconds=10)
    assert oldest == Timing(shape=VideoShape(8, 64, 96), device="cpu (float32)", units=160, busy_seconds=10, call_seconds=2.5)
    assert list(store.recent_timings("unknown")) == []


def test_recent_timings_are_no_more_than_are_remembered(database: Database, clock: Clock) -> None:
    store = JobStore(database, now=clock, timings_remembered=2)
    for seconds in (8, 12, 16):
        run_one(store, clock, seconds=seconds)

    assert [timing.call_seconds for timing in store.recent_timings("cutout")] == [4, 3]


def test_recent_timings_are_read_again_when_another_job_has_succeeded_and_only_then(
    store: JobStore, database: Database, clock: Clock
) -> None:
    run_one(store, clock, seconds=8)
    before = store.recent_timings("cutout")
    run_one(store, clock, seconds=9, model_id="other")
    assert store.recent_timings("cutout") is before

    run_one(JobStore(database, now=clock), clock, seconds=12)  # as a worker does, in another process
    assert [timing.call_seconds for timing in store.recent_timings("cutout")] == [3, 2]
    store.delete(3)
    assert [timing.call_seconds for timing in store.recent_timings("cutout")] == [2]


def test_timing_counts_only_the_successful_attempt(store: JobStore, clock: Clock) -> None:
    store.submit(make_new_job())
    store.claim("dead")
    clock.advance(1000)
    claim, _ = store.claim("w") or pytest.fail("nothing to claim")
    clock.advance(20)
    store.finish(claim, replace(make_result(), facts={"device": "cpu", "device_seconds": 5.0}))

    assert [timing.busy_seconds for timing in store.recent_timings("cutout")] == [20]


def test_job_without_device_seconds_is_left_out_of_timings(store: JobStore) -> None:
    """Such as a job of an older version."""
    store.submit(make_new_job())
    claim, _ = store.claim("w") or pytest.fail("nothing to claim")
    store.finish(claim, make_result())

    assert list(store.recent_timings("cutout")) == []


def test_timings_are_found_by_the_index_of_successes(store: JobStore, database: Database, clock: Clock) -> None:
    run_one(store, clock, seconds=8)
    statements: list[str] = []
    event.listen(database, "before_cursor_execute", lambda *args: statements.append(str(args[2])))
    store.recent_timings("cutout")
    newest, timings = [each for each in statements if "FROM jobs" in each]
    for statement, kind in ((newest, "COVERING INDEX"), (timings, "INDEX")):
        with read_transaction(database) as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", ("x",) * statement.count("?")).all()

        assert [row.detail.split(" (")[0] for row in plan if "jobs" in row.detail] == [
            f"SEARCH jobs USING {kind} jobs_succeeded_by_model"
        ]
        assert not any("TEMP B-TREE" in row.detail for row in plan)


def test_check_writable_raises_for_a_table_that_can_only_be_read(store: JobStore, database: Database) -> None:
    impatient = JobStore(open_database(str(database.url), busy_seconds=0.02))
    impatient.check_writable()
    with write_transaction(database), pytest.raises(DatabaseBusy):
        impatient.check_writable()
    assert impatient.live_workers() == []
    impatient.check_writable()
