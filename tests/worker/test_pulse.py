from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text

from promptreel.errors import JobCancelled, JobLost
from promptreel.jobs.database import open_database, write_transaction
from promptreel.jobs.job import Claim, JobStage
from promptreel.jobs.store import JobStore
from promptreel.worker.pulse import Pulse, WorkerStopping
from tests.jobs.factories import make_new_job
from tests.waiting import wait_for

StartPulse = Callable[[], Pulse]


@pytest.fixture
def claim(jobs: JobStore) -> Claim:
    jobs.submit(make_new_job())
    taken = jobs.claim("worker-1")
    assert taken is not None
    return taken[0]


@pytest.fixture
def start_pulse(jobs: JobStore, claim: Claim, stop: threading.Event) -> Iterator[StartPulse]:
    """A pulse that beats ten times a second and holds the claim."""
    started: list[Pulse] = []

    def start() -> Pulse:
        pulse = Pulse(jobs, lease_seconds=0.6, stop=stop, announce=lambda: None)
        pulse.start()
        pulse.hold(claim)
        started.append(pulse)
        return pulse

    yield start
    for pulse in started:
        pulse.end()


def raised_by(pulse: Pulse) -> type[Exception]:
    """The first error that `on_progress` raises."""

    def error() -> type[Exception] | None:
        try:
            pulse.on_progress(JobStage.DENOISING, 0.5)
        except Exception as raised:  # noqa: BLE001 - the test looks at which it is
            return type(raised)
        return None

    return wait_for(error)


def test_cancellation_is_seen(jobs: JobStore, claim: Claim, start_pulse: StartPulse) -> None:
    pulse = start_pulse()
    pulse.on_progress(JobStage.DENOISING, 0.1)
    jobs.cancel(claim.job_id)

    assert raised_by(pulse) is JobCancelled


def test_job_that_another_worker_got_is_lost(jobs: JobStore, start_pulse: StartPulse) -> None:
    pulse = start_pulse()
    jobs.free_owner("worker-1")
    assert jobs.claim("worker-2") is not None

    assert raised_by(pulse) is JobLost


def test_worker_that_must_stop_says_so(start_pulse: StartPulse, stop: threading.Event) -> None:
    pulse = start_pulse()
    stop.set()

    assert raised_by(pulse) is WorkerStopping


def test_worker_that_cannot_prove_itself_alive_stops_by_itself(jobs: JobStore, claim: Claim, stop: threading.Event) -> None:
    silent = Pulse(jobs, lease_seconds=0.3, stop=stop, announce=lambda: None)  # never started: no heartbeat goes out
    silent.hold(claim)
    silent.on_progress(JobStage.LOADING, 0.0)

    assert raised_by(silent) is JobLost


def test_heartbeats_keep_a_job_for_longer_than_its_lease(jobs: JobStore, start_pulse: StartPulse) -> None:
    pulse = start_pulse()
    for _ in range(20):
        threading.Event().wait(0.06)
        pulse.on_progress(JobStage.DENOISING, 0.5)

    assert jobs.requeue_expired() == 0


def test_progress_is_reported_and_never_goes_back(jobs: JobStore, claim: Claim, start_pulse: StartPulse) -> None:
    """The later stages count from 0; if the job did too, its ETA would rise just before the end."""
    pulse = start_pulse()
    pulse.on_progress(JobStage.DENOISING, 0.95)
    wait_for(lambda: jobs.get(claim.job_id).stage is JobStage.DENOISING)
    pulse.on_progress(JobStage.DECODING, 0.0)
    wait_for(lambda: jobs.get(claim.job_id).stage is JobStage.DECODING)

    assert jobs.get(claim.job_id).progress == 0.95


def test_released_job_is_left_alone(jobs: JobStore, claim: Claim, start_pulse: StartPulse) -> None:
    pulse = start_pulse()
    pulse.release()
    jobs.give_back(claim)
    again = jobs.claim("worker-1")
    assert again is not None
    pulse.hold(again[0])
    wait_for(lambda: jobs.heartbeat(again[0]) is False)

    pulse.on_progress(JobStage.DENOISING, 0.2)  # the old claim's end is not held against the new one


def test_pulse_outlives_an_absent_job_table(
    jobs: JobStore, claim: Claim, stop: threading.Event, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    pulse = Pulse(jobs, lease_seconds=6, stop=stop, announce=lambda: None)
    database = open_database(database_url)
    with write_transaction(database) as connection:
        connection.execute(text("ALTER TABLE jobs RENAME TO away"))
    pulse.start()
    pulse.hold(claim)
    wait_for(lambda: "could not reach the job table" in caplog.text)
    with write_transaction(database) as connection:
        connection.execute(text("ALTER TABLE away RENAME TO jobs"))
    database.dispose()
    jobs.cancel(claim.job_id)

    assert raised_by(pulse) is JobCancelled
    pulse.end()


def test_worker_announces_itself_at_the_first_beat(jobs: JobStore, stop: threading.Event) -> None:
    announced = threading.Event()
    pulse = Pulse(jobs, lease_seconds=0.6, stop=stop, announce=announced.set)
    pulse.start()

    assert announced.wait(30)
    pulse.end()
