from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from sqlalchemy import text

from promptreel.errors import JobCancelled, JobLost
from promptreel.jobs.database import open_database, write_transaction
from promptreel.jobs.job import Claim, JobStage
from promptreel.jobs.store import JobStore
from promptreel.worker.pulse import PRESENCE_SECONDS, Hold, Pulse, WorkerStopping
from tests.jobs.factories import Clock, make_new_job
from tests.waiting import wait_for

StartPulse = Callable[[], Hold]

LEASE_SECONDS = 60.0  # of real time: a machine that stalls for a while must not look silent


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(database_url: str, clock: Clock) -> Iterator[JobStore]:
    database = open_database(database_url)
    yield JobStore(database, lease_seconds=30, now=clock)
    database.dispose()


@pytest.fixture
def claim(jobs: JobStore) -> Claim:
    jobs.submit(make_new_job())
    taken = jobs.claim("worker-1")
    assert taken is not None
    return taken[0]


def quick_pulse(jobs: JobStore, stop: threading.Event) -> Pulse:
    """A pulse with short beats."""
    return Pulse(jobs, lease_seconds=LEASE_SECONDS, stop=stop, announce=lambda: None, beat_seconds=0.02)


@pytest.fixture
def start_pulse(jobs: JobStore, claim: Claim, stop: threading.Event) -> Iterator[StartPulse]:
    """Starts a pulse, and holds the claim until the test ends."""
    with ExitStack() as stack:

        def start() -> Hold:
            pulse = quick_pulse(jobs, stop)
            pulse.start()
            stack.callback(pulse.end)
            return stack.enter_context(pulse.hold(claim))

        yield start


def raised_by(hold: Hold) -> type[Exception]:
    """The first error that `on_progress` raises."""

    def error() -> type[Exception] | None:
        try:
            hold.on_progress(JobStage.DENOISING, 0.5)
        except Exception as raised:  # noqa: BLE001 - the test checks its class
            return type(raised)
        return None

    return wait_for(error)


def test_cancellation_is_seen(jobs: JobStore, claim: Claim, start_pulse: StartPulse) -> None:
    hold = start_pulse()
    hold.on_progress(JobStage.DENOISING, 0.1)
    jobs.cancel(claim.job_id)

    assert raised_by(hold) is JobCancelled


def test_job_that_another_worker_got_is_lost(jobs: JobStore, start_pulse: StartPulse) -> None:
    hold = start_pulse()
    jobs.free_owner("worker-1")
    assert jobs.claim("worker-2") is not None

    assert raised_by(hold) is JobLost


def test_worker_that_must_stop_says_so(start_pulse: StartPulse, stop: threading.Event) -> None:
    hold = start_pulse()
    stop.set()

    assert raised_by(hold) is WorkerStopping


def test_worker_without_heartbeats_stops_its_job(jobs: JobStore, claim: Claim, stop: threading.Event) -> None:
    silent = Pulse(jobs, lease_seconds=LEASE_SECONDS, stop=stop, announce=lambda: None)  # never started: no heartbeat goes out
    with silent.hold(claim) as hold:
        hold.on_progress(JobStage.LOADING, 0.0)
        hold.proven_at -= LEASE_SECONDS * 2 / 3

        assert raised_by(hold) is JobLost


def wait_for_heartbeat(hold: Hold) -> None:
    before = hold.proven_at
    wait_for(lambda: hold.proven_at > before)


def test_heartbeats_keep_a_job_for_longer_than_its_lease(jobs: JobStore, clock: Clock, start_pulse: StartPulse) -> None:
    hold = start_pulse()
    hold.proven_at -= LEASE_SECONDS
    clock.advance(29)
    for _ in range(2):  # the first one may have begun before the clock went on
        wait_for_heartbeat(hold)
    clock.advance(29)

    hold.on_progress(JobStage.DENOISING, 0.5)
    assert jobs.requeue_expired() == 0


def test_progress_is_reported_and_never_goes_back(jobs: JobStore, claim: Claim, start_pulse: StartPulse) -> None:
    """Each later stage counts from 0. If the progress fell with it, the ETA would rise near the end."""
    hold = start_pulse()
    hold.on_progress(JobStage.DENOISING, 0.95)
    wait_for(lambda: jobs.get(claim.job_id).stage is JobStage.DENOISING)
    hold.on_progress(JobStage.DECODING, 0.0)
    wait_for(lambda: jobs.get(claim.job_id).stage is JobStage.DECODING)

    assert jobs.get(claim.job_id).progress == 0.95


def test_released_job_is_left_alone(jobs: JobStore, claim: Claim, stop: threading.Event) -> None:
    pulse = quick_pulse(jobs, stop)
    pulse.start()
    with pulse.hold(claim):
        pass
    jobs.give_back(claim)
    again = jobs.claim("worker-1")
    assert again is not None
    with pulse.hold(again[0]) as hold:
        wait_for(lambda: hold.reported)
        hold.on_progress(JobStage.DENOISING, 0.2)  # the old claim's end is not held against the new one
    pulse.end()


def test_several_jobs_are_held_separately(jobs: JobStore, claim: Claim, stop: threading.Event) -> None:
    jobs.submit(make_new_job())
    other = jobs.claim("worker-1")
    assert other is not None
    pulse = quick_pulse(jobs, stop)
    pulse.start()
    with pulse.hold(claim) as first, pulse.hold(other[0]) as second:
        jobs.cancel(claim.job_id)

        assert raised_by(first) is JobCancelled
        second.on_progress(JobStage.DENOISING, 0.75)
        wait_for(lambda: jobs.get(other[0].job_id).progress == 0.75)
    pulse.end()


def test_pulse_outlives_an_absent_job_table(
    jobs: JobStore, claim: Claim, stop: threading.Event, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    pulse = quick_pulse(jobs, stop)
    database = open_database(database_url)
    with write_transaction(database) as connection:
        connection.execute(text("ALTER TABLE jobs RENAME TO away"))
    pulse.start()
    with pulse.hold(claim) as hold:
        wait_for(lambda: "could not reach the job table" in caplog.text)
        with write_transaction(database) as connection:
            connection.execute(text("ALTER TABLE away RENAME TO jobs"))
        database.dispose()
        jobs.cancel(claim.job_id)

        assert raised_by(hold) is JobCancelled
    pulse.end()


def test_worker_announces_itself_at_the_first_beat(jobs: JobStore, stop: threading.Event) -> None:
    announced = threading.Event()
    pulse = Pulse(jobs, lease_seconds=0.6, stop=stop, announce=announced.set)
    pulse.start()

    assert announced.wait(30)
    pulse.end()


def test_worker_announces_itself_now_and_then_and_when_it_has_news(jobs: JobStore, stop: threading.Event) -> None:
    news, told = ["cutout"], list[str]()
    pulse = Pulse(jobs, lease_seconds=30, stop=stop, announce=lambda: told.append(news[0]), news=lambda: news[0])
    for now in (0.0, 1.0, PRESENCE_SECONDS, PRESENCE_SECONDS + 1):
        pulse.present(now)
    news[0] = "other"
    pulse.present(PRESENCE_SECONDS + 2)
    pulse.present(PRESENCE_SECONDS + 3)

    assert told == ["cutout", "cutout", "other"]


@pytest.fixture
def stalled() -> list[Hold]:
    return []


@pytest.fixture
def watching(jobs: JobStore, stop: threading.Event, stalled: list[Hold]) -> Pulse:
    """A pulse that beats when the test says so, and gives a job a minute."""
    return Pulse(jobs, lease_seconds=LEASE_SECONDS, stop=stop, announce=lambda: None, stall_seconds=60, on_stall=stalled.append)


def test_job_without_progress_is_noticed_once(watching: Pulse, claim: Claim, stalled: list[Hold]) -> None:
    with watching.hold(claim) as hold, hold.watched():
        for _ in range(13):
            hold.on_progress(JobStage.DENOISING, 0.5)  # the same again is a sign of life too
            watching.watch(5)
        for _ in range(12):
            watching.watch(5)
        assert stalled == []
        for _ in range(3):
            watching.watch(5)

    assert stalled == [hold]


def test_job_may_be_silent_ten_times_as_long_as_any_was(watching: Pulse, claim: Claim, stalled: list[Hold]) -> None:
    with watching.hold(claim) as hold, hold.watched():
        watching.watch(40)
        hold.on_progress(JobStage.DENOISING, 0.5)
        watching.watch(1)
        watching.watch(400)
        assert stalled == []
        watching.watch(1)

    assert stalled == [hold]


def test_job_that_waits_to_record_its_end_is_not_stalled(watching: Pulse, claim: Claim, stalled: list[Hold]) -> None:
    with watching.hold(claim) as hold:
        with hold.watched():
            watching.watch(1)
        watching.watch(1000)

    assert stalled == []


def test_first_silent_job_counts_as_the_stalled_one(watching: Pulse, claim: Claim, stalled: list[Hold]) -> None:
    """The other jobs wait for it, and fall silent in the same beat."""
    holds = [Hold(replace(claim, attempt=attempt), silence_seconds=60, stop=threading.Event()) for attempt in range(8)]
    for hold in [*holds[3:], *holds[:3]]:
        hold.on_progress(JobStage.DENOISING, 0.5)
    with ExitStack() as watched:
        for hold in holds:
            watched.enter_context(hold.watched())
        watching._holds = frozenset(holds)
        for _ in range(14):
            watching.watch(5)

    assert stalled == [holds[3]]
