"""Claims, leases and the fence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import Connection, select, text, update
from sqlalchemy.dialects import sqlite

from promptreel.errors import JobLost
from promptreel.jobs.claims import PASSED_FOR, Taker, anything_to_take, first_in_line
from promptreel.jobs.database import Database, read_transaction, write_transaction
from promptreel.jobs.installation_facts import read_fact, write_fact
from promptreel.jobs.job import Claim, Job, JobStage, JobStatus
from promptreel.jobs.keys import KeyLimits, KeyStore
from promptreel.jobs.store import JobStore
from promptreel.jobs.tables import attempts, jobs
from promptreel.jobs.worker_records import WorkerRecord
from tests.jobs.factories import START, Clock, make_new_job, make_result

WORKER_WRITES: dict[str, Callable[[JobStore, Claim], object]] = {
    "heartbeat": lambda store, claim: store.heartbeat(claim),
    "report": lambda store, claim: store.report(claim, stage=JobStage.DENOISING, progress=0.9),
    "finish": lambda store, claim: store.finish(claim, make_result("stale.mp4")),
    "fail": lambda store, claim: store.fail(claim, code="generation_failed", message="stale"),
    "acknowledge_cancel": lambda store, claim: store.acknowledge_cancel(claim),
    "give_back": lambda store, claim: store.give_back(claim),
    "put_off": lambda store, claim: store.put_off(claim, code="disk_full", message="stale"),
}
ENDINGS = {
    "succeeded": WORKER_WRITES["finish"],
    "failed": WORKER_WRITES["fail"],
    "cancelled": WORKER_WRITES["acknowledge_cancel"],
}

CUTOUT = make_new_job().params


def claim_next(store: JobStore, owner: str = "w") -> tuple[Claim, Job]:
    return store.claim(owner) or pytest.fail("nothing to claim")


def outcomes(database: Database) -> list[tuple[int, str, str | None]]:
    with read_transaction(database) as connection:
        query = select(attempts.c.attempt, attempts.c.worker, attempts.c.outcome).order_by(attempts.c.attempt)
        return [tuple(row) for row in connection.execute(query)]


def assert_all_writes_are_rejected(store: JobStore, claim: Claim) -> None:
    before = store.list()
    for write in WORKER_WRITES.values():
        with pytest.raises(JobLost):
            write(store, claim)
        assert store.list() == before


def test_claim_makes_the_job_run(store: JobStore, clock: Clock) -> None:
    submitted = store.submit(make_new_job())
    clock.advance(2)

    claim, job = claim_next(store)

    assert claim == Claim(job_id=submitted.id, attempt=1, owner="w")
    assert job == store.get(submitted.id)
    assert (job.status, job.owner, job.attempt, job.started_at) == (JobStatus.RUNNING, "w", 1, clock())
    assert store.claim("other") is None


def test_empty_queue_has_nothing_to_claim(store: JobStore) -> None:
    assert store.claim("w") is None


def test_claims_follow_priority_then_virtual_time_then_id(store: JobStore, database: Database) -> None:
    ids = [store.submit(make_new_job()).id for _ in range(5)]
    with write_transaction(database) as connection:
        connection.execute(update(jobs).where(jobs.c.id == ids[0]).values(priority=1))
        connection.execute(update(jobs).where(jobs.c.id == ids[1]).values(vt=2.5))
        connection.execute(update(jobs).where(jobs.c.id == ids[4]).values(priority=-1, vt=7))

    served = [claim_next(store)[1].id for _ in ids]

    assert served == [ids[4], ids[2], ids[3], ids[1], ids[0]]


def test_job_is_not_claimed_before_its_run_at(store: JobStore, database: Database, clock: Clock) -> None:
    store.submit(make_new_job())
    with write_transaction(database) as connection:
        connection.execute(update(jobs).values(run_at=START.replace(hour=13)))

    assert store.claim("w") is None
    clock.advance(3600)
    assert store.claim("w") is not None


def test_claim_reads_an_index_and_does_not_sort(database: Database) -> None:
    statement = first_in_line(["video"], START).compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    with read_transaction(database) as connection:
        plan = " ".join(row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")))

    assert "USING COVERING INDEX jobs_queued " in plan
    assert "TEMP B-TREE" not in plan


def test_poll_takes_no_longer_if_the_line_is_long_and_holds_no_job_of_the_loaded_models(
    store: JobStore, database: Database
) -> None:
    taker = Taker("w", ("video",), loaded=("a", "b"))

    def count_instructions() -> int:
        counted = []
        with read_transaction(database) as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.set_progress_handler(lambda: counted.append(1), 1)
            connection.execute(select(anything_to_take(taker, START)))
            driver.set_progress_handler(None, 1)
        return len(counted)

    store.submit(make_new_job(model_id="c"))
    short = count_instructions()
    for _ in range(100):
        store.submit(make_new_job(model_id="c"))

    assert count_instructions() == short


def test_heartbeat_extends_the_lease(store: JobStore, clock: Clock) -> None:
    store.submit(make_new_job())
    claim, _ = claim_next(store)
    for _ in range(5):
        clock.advance(29)
        assert store.heartbeat(claim) is False
        assert store.requeue_expired() == 0

    clock.advance(30)
    assert store.requeue_expired() == 1


def test_heartbeat_reports_a_cancel_request(store: JobStore) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)
    store.cancel(job.id)

    assert store.heartbeat(claim) is True


def test_late_heartbeat_keeps_a_job_that_was_not_reclaimed(store: JobStore, clock: Clock) -> None:
    store.submit(make_new_job())
    claim, _ = claim_next(store)
    clock.advance(100)

    store.heartbeat(claim)

    assert store.claim("other") is None


def test_report_shows_stage_and_progress(store: JobStore) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)

    store.report(claim, stage=JobStage.DENOISING, progress=0.25)

    assert (store.get(job.id).stage, store.get(job.id).progress) == (JobStage.DENOISING, 0.25)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_outside_0_to_1_is_refused(store: JobStore, progress: float) -> None:
    store.submit(make_new_job())
    claim, _ = claim_next(store)

    with pytest.raises(ValueError, match="from 0 to 1"):
        store.report(claim, stage=JobStage.DENOISING, progress=progress)


def test_finished_job_keeps_its_result(store: JobStore, database: Database, clock: Clock) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)
    store.report(claim, stage=JobStage.STORING, progress=0.9)
    clock.advance(3)

    store.finish(claim, make_result())

    done = store.get(job.id)
    assert (done.status, done.progress, done.stage, done.owner) == (JobStatus.SUCCEEDED, 1.0, None, None)
    assert (done.result, done.finished_at) == (make_result(), clock())
    assert outcomes(database) == [(1, "w", "succeeded")]


def test_failed_job_keeps_code_and_message(store: JobStore, database: Database) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)

    store.fail(claim, code="out_of_memory", message="Ask for fewer frames.")

    failed = store.get(job.id)
    assert (failed.status, failed.error_code, failed.error_message) == (
        JobStatus.FAILED,
        "out_of_memory",
        "Ask for fewer frames.",
    )
    assert outcomes(database) == [(1, "w", "failed")]


def test_acknowledged_cancel_ends_the_job(store: JobStore, database: Database, clock: Clock) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)
    store.cancel(job.id)

    store.acknowledge_cancel(claim)

    assert (store.get(job.id).status, store.get(job.id).finished_at) == (JobStatus.CANCELLED, clock())
    assert outcomes(database) == [(1, "w", "cancelled")]


def test_job_that_finished_before_its_worker_saw_the_cancel_keeps_its_video(store: JobStore) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)
    store.cancel(job.id)

    store.finish(claim, make_result())

    assert store.get(job.id).status == JobStatus.SUCCEEDED


def test_given_back_job_keeps_its_place_in_the_queue(store: JobStore, database: Database) -> None:
    first, _ = store.submit(make_new_job()), store.submit(make_new_job())
    claim, _ = claim_next(store)
    store.report(claim, stage=JobStage.DENOISING, progress=0.5)

    store.give_back(claim)

    waiting = store.get(first.id)
    assert (waiting.status, waiting.owner, waiting.stage, waiting.progress) == (JobStatus.QUEUED, None, None, 0.0)
    assert waiting.started_at is None
    assert claim_next(store, "other")[0] == Claim(first.id, 2, "other")
    assert outcomes(database) == [(1, "w", "given_back"), (2, "other", None)]


def test_giving_back_is_not_a_crash(store: JobStore, database: Database) -> None:
    job = store.submit(make_new_job())
    for _ in range(10):
        store.give_back(claim_next(store)[0])

    assert store.get(job.id).status == JobStatus.QUEUED
    with read_transaction(database) as connection:
        assert connection.execute(select(jobs.c.crashes)).scalar_one() == 0


def test_giving_back_a_job_that_is_to_be_cancelled_ends_it(store: JobStore, clock: Clock) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)
    store.cancel(job.id)

    store.give_back(claim)

    assert (store.get(job.id).status, store.get(job.id).finished_at) == (JobStatus.CANCELLED, clock())


def test_expired_lease_returns_job_to_queue(store: JobStore, database: Database, clock: Clock) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)
    store.report(claim, stage=JobStage.DENOISING, progress=0.5)
    clock.advance(30)

    assert store.requeue_expired() == 1

    waiting = store.get(job.id)
    assert (waiting.status, waiting.owner, waiting.stage, waiting.progress) == (JobStatus.QUEUED, None, None, 0.0)
    assert outcomes(database) == [(1, "w", "lost")]


def test_lease_is_valid_until_its_last_moment(store: JobStore, clock: Clock) -> None:
    store.submit(make_new_job())
    claim_next(store)
    clock.advance(29.999)

    assert store.requeue_expired() == 0
    assert store.claim("other") is None


def test_claim_itself_takes_over_an_expired_job(store: JobStore, clock: Clock) -> None:
    job = store.submit(make_new_job())
    claim_next(store, "dead")
    clock.advance(30)

    assert claim_next(store, "other")[0] == Claim(job.id, 2, "other")


def test_free_owner_requeues_only_the_dead_workers_jobs(store: JobStore) -> None:
    first, second, third = (store.submit(make_new_job()) for _ in range(3))
    for owner in ("dead", "alive", "dead"):
        claim_next(store, owner)

    assert store.free_owner("dead") == 2

    assert [store.get(job.id).status for job in (first, second, third)] == ["queued", "running", "queued"]
    assert store.free_owner("dead") == 0


def test_job_that_killed_too_many_workers_fails(store: JobStore, database: Database, clock: Clock) -> None:
    job = store.submit(make_new_job())
    store.give_back(claim_next(store)[0])
    claim_next(store)
    store.free_owner("w")
    claim_next(store)
    clock.advance(31)
    store.requeue_expired()
    assert store.get(job.id).status == JobStatus.QUEUED

    claim_next(store)
    store.free_owner("w")

    failed = store.get(job.id)
    assert (failed.status, failed.error_code, failed.finished_at) == (JobStatus.FAILED, "worker_lost", clock())
    assert "3 workers died" in (failed.error_message or "")
    assert [outcome for *_, outcome in outcomes(database)] == ["given_back", "lost", "lost", "lost"]
    assert store.claim("w") is None


def test_job_to_be_cancelled_ends_when_its_worker_dies(store: JobStore, clock: Clock) -> None:
    job = store.submit(make_new_job())
    claim_next(store)
    store.cancel(job.id)

    store.free_owner("w")

    assert (store.get(job.id).status, store.get(job.id).finished_at) == (JobStatus.CANCELLED, clock())


def test_stale_attempt_is_rejected_while_the_next_one_runs(store: JobStore, clock: Clock) -> None:
    job = store.submit(make_new_job())
    stale, _ = claim_next(store, "w")
    clock.advance(31)
    current, _ = claim_next(store, "w")  # the same owner: only the attempt differs

    assert_all_writes_are_rejected(store, stale)
    store.finish(current, make_result("good.mp4"))
    assert store.get(job.id).result == make_result("good.mp4")


def test_stale_attempt_is_rejected_while_the_job_waits(store: JobStore) -> None:
    store.submit(make_new_job())
    stale, _ = claim_next(store)
    store.free_owner("w")

    assert_all_writes_are_rejected(store, stale)


@pytest.mark.parametrize("forged", [Claim(1, 1, "thief"), Claim(1, 2, "w"), Claim(1, 0, "w"), Claim(2, 1, "w")])
def test_claim_that_differs_in_any_part_is_rejected(store: JobStore, forged: Claim) -> None:
    store.submit(make_new_job())
    claim_next(store)

    assert_all_writes_are_rejected(store, forged)


@pytest.mark.parametrize("ending", ENDINGS)
def test_job_that_ended_never_changes(store: JobStore, clock: Clock, ending: str) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)
    ENDINGS[ending](store, claim)
    ended = store.get(job.id)
    clock.advance(1000)

    assert_all_writes_are_rejected(store, claim)

    assert (store.requeue_expired(), store.free_owner("w"), store.claim("w")) == (0, 0, None)
    assert store.cancel(job.id) == store.get(job.id) == ended
    assert ended.status == ending


def test_fence_also_looks_at_the_status(store: JobStore, database: Database) -> None:
    store.submit(make_new_job())
    claim, _ = claim_next(store)
    with write_transaction(database) as connection:
        connection.execute(update(jobs).values(status=JobStatus.CANCELLED))  # with the owner left in the row

    assert_all_writes_are_rejected(store, claim)


def test_busy_worker_claims_the_next_job_only_if_it_has_the_same_model(store: JobStore) -> None:
    first, second, other_model, third = [
        store.submit(make_new_job(model_id=model_id)).id for model_id in ("cutout", "cutout", "big", "cutout")
    ]
    assert claim_next(store)[1].id == first

    joined = store.claim("w", beside=CUTOUT)
    assert joined is not None
    assert joined[1].id == second
    assert store.claim("w", beside=CUTOUT) is None  # the next in line has another model, and nothing overtakes it
    assert claim_next(store)[1].id == other_model
    assert claim_next(store)[1].id == third


def test_job_that_crashed_a_worker_does_not_run_beside_others(store: JobStore) -> None:
    crashed, healthy = (store.submit(make_new_job()).id for _ in range(2))
    claim_next(store, "dead")
    store.free_owner("dead")

    assert store.claim("w", beside=CUTOUT) is None
    _, job = claim_next(store)
    assert (job.id, job.crashes) == (crashed, 1)
    joined = store.claim("w", beside=CUTOUT)
    assert joined is not None
    assert joined[1].id == healthy
    assert joined[1].crashes == 0


def introduce(store: JobStore, *names: str) -> None:
    for name in names:
        store.record_worker(WorkerRecord(id=name, device="cpu", seconds_per_unit=None))


def test_second_job_is_left_to_an_idle_worker(store: JobStore) -> None:
    introduce(store, "w1", "w2")
    first, second, third = (store.submit(make_new_job()).id for _ in range(3))
    assert claim_next(store, "w1")[1].id == first

    assert store.claim("w1", beside=CUTOUT) is None
    assert claim_next(store, "w2")[1].id == second
    joined = store.claim("w1", beside=CUTOUT)  # now both have one
    assert joined is not None
    assert joined[1].id == third


def test_job_waits_only_a_moment_for_a_stuck_idle_worker(store: JobStore, clock: Clock) -> None:
    introduce(store, "w1", "stuck")
    for _ in range(3):
        store.submit(make_new_job())
    claim_next(store, "w1")
    clock.advance(0.9)
    assert store.claim("w1", beside=CUTOUT) is None
    clock.advance(0.1)

    assert store.claim("w1", beside=CUTOUT) is not None
    assert store.claim("w1", beside=CUTOUT) is not None  # they have waited together


def test_no_job_is_left_to_a_worker_that_is_not_live(store: JobStore, clock: Clock) -> None:
    introduce(store, "gone")
    clock.advance(31)
    introduce(store, "w1")
    for _ in range(2):
        store.submit(make_new_job())
    claim_next(store, "w1")

    assert store.claim("w1", beside=CUTOUT) is not None


@pytest.mark.parametrize("let_go", ["give_back", "free_owner"])
def test_requeued_job_is_left_to_idle_workers_too(store: JobStore, clock: Clock, let_go: str) -> None:
    introduce(store, "w1", "w2", "w3")
    for _ in range(2):
        store.submit(make_new_job())
    claim, _ = claim_next(store, "w1")
    claim_next(store, "w2")
    clock.advance(5)
    store.give_back(claim) if let_go == "give_back" else store.free_owner("w1")

    assert store.claim("w2", beside=CUTOUT) is None
    assert store.claim("w3") is not None


def test_wait_of_a_job_that_is_put_off_doubles_each_time(store: JobStore, clock: Clock) -> None:
    job = store.submit(make_new_job()).id
    for wait in (60, 120, 240):
        store.put_off(claim_next(store)[0], code="disk_full", message="No room.")
        assert store.get(job).status is JobStatus.QUEUED
        clock.advance(wait - 1)
        assert store.claim("w") is None
        clock.advance(1)

    assert claim_next(store)[1].id == job
    assert store.get(job).crashes == 0


def test_job_that_is_put_off_lets_others_pass(store: JobStore) -> None:
    _, other = (store.submit(make_new_job()).id for _ in range(2))
    store.put_off(claim_next(store)[0], code="disk_full", message="No room.")

    assert claim_next(store)[1].id == other


def test_job_that_was_put_off_for_most_of_a_day_fails_with_the_reason(store: JobStore, clock: Clock) -> None:
    job = store.submit(make_new_job())
    for _ in range(24):
        store.put_off(claim_next(store)[0], code="disk_full", message="No room.")
        clock.advance(3600)
    assert store.get(job.id).status is JobStatus.QUEUED
    store.put_off(claim_next(store)[0], code="disk_full", message="No room.")

    failed = store.get(job.id)
    assert (failed.status, failed.error_code, failed.error_message) == (JobStatus.FAILED, "disk_full", "No room.")


def test_job_to_be_cancelled_is_not_put_off(store: JobStore) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)
    store.cancel(job.id)
    store.put_off(claim, code="disk_full", message="No room.")

    assert store.get(job.id).status is JobStatus.CANCELLED


def take(store: JobStore, *, loaded: tuple[str, ...], **values: object) -> str | None:
    """The model of the job that a worker with these models loaded gets; the job ends at once."""
    taken = store.claim("w", loaded=loaded, **values)
    if taken is None:
        return None
    store.finish(taken[0], make_result(f"{taken[1].id}.mp4"))
    return taken[1].params.model_id


def test_jobs_whose_models_are_loaded_come_first(store: JobStore) -> None:
    for model_id in ("a", "b", "a", "b", "c"):
        store.submit(make_new_job(model_id=model_id))

    assert [take(store, loaded=("b",)) for _ in range(5)] == ["b", "b", "a", "a", "c"]


def test_first_in_line_is_passed_for_a_bounded_time(store: JobStore, clock: Clock) -> None:
    store.submit(make_new_job(model_id="a"))
    for _ in range(4):
        store.submit(make_new_job(model_id="b"))
    clock.advance(3600)  # the time in the queue does not matter

    assert take(store, loaded=("b",)) == "b"
    clock.advance(PASSED_FOR.total_seconds() - 1)
    assert take(store, loaded=("b",)) == "b"
    clock.advance(1)
    assert take(store, loaded=("b",)) == "a"
    assert take(store, loaded=("a",)) == "b"


def test_models_are_told_apart_whole(store: JobStore) -> None:
    store.submit(make_new_job(model_id="sd"))
    store.submit(make_new_job(model_id="sd-2"))
    store.submit(make_new_job(model_id="sd", motion_adapter="v3"))

    assert take(store, loaded=("sd-2",)) == "sd-2"
    claim = store.claim("w", loaded=("sd+v3",))
    assert claim is not None
    assert claim[1].params.motion_adapter == "v3"


def test_jobs_of_loaded_models_run_side_by_side(store: JobStore) -> None:
    for model_id in ("cutout", "a", "b"):
        store.submit(make_new_job(model_id=model_id))
    _, first = claim_next(store)

    assert store.claim("w", beside=first.params) is None
    beside = store.claim("w", beside=first.params, loaded=("cutout", "b"))
    assert beside is not None
    assert beside[1].params.model_id == "b"


def test_key_at_its_limit_is_not_preferred_for_its_model(database: Database, store: JobStore) -> None:
    key = KeyStore(database).create("shop", KeyLimits(max_running=1))[0].id
    store.submit(replace(make_new_job(model_id="b"), api_key_id=key))
    store.submit(replace(make_new_job(model_id="b"), api_key_id=key))
    store.submit(make_new_job(model_id="a"))
    assert store.claim("w", loaded=("b",)) is not None

    assert take(store, loaded=("b",)) == "a"


def test_what_a_result_writes_is_there_exactly_if_the_job_succeeds(store: JobStore, database: Database) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)
    written: list[str] = []

    def write(connection: Connection) -> None:
        written.append(connection.execute(select(jobs.c.status).where(jobs.c.id == job.id)).scalar_one())

    def fail(connection: Connection) -> None:
        write_fact(connection, "half", "done")
        raise ValueError("the id is taken")

    with pytest.raises(JobLost):
        store.finish(replace(claim, owner="another"), replace(make_result(), write=write))
    with pytest.raises(ValueError, match="taken"):
        store.finish(claim, replace(make_result(), write=fail))
    with read_transaction(database) as connection:
        assert read_fact(connection, "half") is None
    assert store.get(job.id).status is JobStatus.RUNNING
    assert written == []

    store.finish(claim, replace(make_result(), write=write))
    assert written == ["succeeded"]


def test_longest_wait_is_that_of_jobs_that_may_be_claimed(store: JobStore, clock: Clock) -> None:
    assert store.longest_wait("video") == 0

    store.submit(make_new_job())
    clock.advance(7)
    store.submit(make_new_job())
    assert (store.longest_wait("video"), store.longest_wait("import")) == (7, 0)

    claim_next(store)
    clock.advance(2)
    assert store.longest_wait("video") == 2
    claim, _ = claim_next(store)
    store.put_off(claim, code="disk_full", message="")
    assert store.longest_wait("video") == 0


def test_report_outlives_attempts_until_the_next_one_replaces_it(store: JobStore, clock: Clock) -> None:
    job = store.submit(make_new_job())
    assert job.report is None
    first, _ = claim_next(store)
    store.report(first, stage=JobStage.TRAINING, progress=0.5, report={"checkpoint": "step-000100"})
    store.report(first, stage=JobStage.SAMPLING, progress=0.5)  # without one, the last one stays
    store.give_back(first)
    assert (store.get(job.id).report, store.get(job.id).progress) == ({"checkpoint": "step-000100"}, 0.0)

    second, taken = claim_next(store)
    assert taken.report == {"checkpoint": "step-000100"}
    clock.advance(31)
    assert store.requeue_expired() == 1
    third, taken = claim_next(store)
    assert taken.report == {"checkpoint": "step-000100"}
    for stale in (first, second):
        with pytest.raises(JobLost):
            store.report(stale, stage=JobStage.TRAINING, progress=0.9, report={"checkpoint": "step-000200"})
    assert store.get(job.id).report == {"checkpoint": "step-000100"}

    store.report(third, stage=JobStage.TRAINING, progress=0.9, report={"checkpoint": "step-000300"})
    store.finish(third, make_result())
    assert store.get(job.id).report == {"checkpoint": "step-000300"}


def test_crashes_before_a_headway_do_not_count(store: JobStore) -> None:
    """Of the three lives, two go twice, with a headway in between."""
    job = store.submit(make_new_job())
    for made_headway in (False, False, True, False, False):
        claim, _ = claim_next(store)
        store.report(claim, stage=JobStage.TRAINING, progress=0.1, report={}, made_headway=made_headway)
        store.free_owner(claim.owner)

    assert (store.get(job.id).status, store.get(job.id).crashes) == (JobStatus.FAILED, 3)
    assert [attempt.outcome for attempt in store.list_attempts(job.id)] == ["lost"] * 5


def test_job_given_back_for_a_while_keeps_its_place_and_lets_others_pass(store: JobStore, clock: Clock) -> None:
    long, short = store.submit(make_new_job()), store.submit(make_new_job())
    claim, _ = claim_next(store)
    store.give_back(claim, wait_seconds=20)
    with pytest.raises(JobLost):
        store.give_back(claim, wait_seconds=0)  # it must not end the wait

    assert claim_next(store)[1].id == short.id
    clock.advance(19.9)
    assert store.claim("w") is None
    assert store.longest_wait("video") == 0
    clock.advance(0.1)
    assert claim_next(store)[1].id == long.id
    assert store.get(long.id).crashes == 0


def test_job_given_back_for_a_while_is_cancelled_at_once(store: JobStore) -> None:
    job = store.submit(make_new_job())
    claim, _ = claim_next(store)
    store.cancel(job.id)
    store.give_back(claim, wait_seconds=3600)

    assert store.get(job.id).status is JobStatus.CANCELLED


def test_file_prefix_of_an_unfinished_job(store: JobStore) -> None:
    job = store.submit(replace(make_new_job(), file_prefix="its-own"))
    assert (job.file_prefix, store.is_unfinished("its-own"), store.is_unfinished("another")) == ("its-own", True, False)
    assert (store.is_making("cutout", kind="video"), store.is_making("cutout", kind="import")) == (True, False)

    claim, _ = claim_next(store)
    assert store.is_unfinished("its-own")
    store.finish(claim, make_result())
    assert (store.is_unfinished("its-own"), store.is_making("cutout", kind="video")) == (False, False)
