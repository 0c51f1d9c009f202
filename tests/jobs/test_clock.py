"""The steady clock: processes agree on it, jumps of the wall clock do not move it, and a reboot ends all waits."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import insert, select, update

from promptreel.jobs.clock import SteadyClock, read_boot_id
from promptreel.jobs.database import Database, open_database, read_transaction, write_transaction
from promptreel.jobs.deliveries import DeliveryStore, Outcome
from promptreel.jobs.job import JobStatus
from promptreel.jobs.store import JobStore
from promptreel.jobs.tables import attempts, facts, jobs
from promptreel.jobs.worker_records import WorkerRecord
from tests.jobs.factories import START, WEBHOOK, make_new_job

HOUR = timedelta(hours=1)


class Machine:
    """A machine's wall clock, and its monotonic clock, which restarts at each boot."""

    def __init__(self) -> None:
        self.wall, self.seconds_up, self.starts = START, 1000.0, 1

    def pass_time(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.seconds_up += seconds

    def restart(self) -> None:
        self.seconds_up = 3.0
        self.starts += 1

    def steady_clock(self, database: Database) -> SteadyClock:
        return SteadyClock(
            database, read_boot_id=lambda: f"start-{self.starts}", monotonic=lambda: self.seconds_up, now=lambda: self.wall
        )

    def begin(self, database: Database) -> SteadyClock:
        clock = self.steady_clock(database)
        clock.begin()
        return clock


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_all_processes_read_the_same_steady_time_despite_jumps(database: Database, machine: Machine, jump: timedelta) -> None:
    first = machine.begin(database)
    assert first() == START
    machine.wall += jump
    second, reader = machine.begin(database), machine.steady_clock(database)
    machine.pass_time(5)

    assert first() == second() == reader() == START + timedelta(seconds=5)


def test_reading_the_clock_writes_nothing(database: Database, machine: Machine) -> None:
    assert machine.steady_clock(database)() == START

    with read_transaction(database) as connection:
        assert connection.execute(select(facts.c.name)).scalars().all() == ["made_by"]  # the migration's


def test_known_clock_begins_while_another_process_writes(database: Database, database_url: str, machine: Machine) -> None:
    machine.begin(database)
    impatient = open_database(database_url, busy_seconds=0)
    with write_transaction(database):
        assert machine.begin(impatient)() == START
    impatient.dispose()


def test_wall_clock_is_used_without_a_boot_id(database: Database, machine: Machine) -> None:
    clock = SteadyClock(database, read_boot_id=lambda: None, now=lambda: machine.wall)
    clock.begin()
    machine.wall += HOUR

    assert clock() == START + HOUR


def test_this_machine_has_a_boot_id() -> None:
    assert read_boot_id() == read_boot_id() is not None


@pytest.mark.parametrize("wall", [START - HOUR, START, START + HOUR])
def test_reboot_ends_all_waits(database: Database, machine: Machine, wall: datetime) -> None:
    store, deliveries = stores_of(database, machine)
    told = store.cancel(store.submit(make_new_job(webhook_url=WEBHOOK)).id).id
    claim, _ = deliveries.claim("courier")
    deliveries.record_failed(claim, Outcome(seconds=1.0, status=503), next_at=START + HOUR)
    put_off = store.submit(make_new_job()).id
    store.put_off(store.claim("dead")[0], code="disk_full", message="full")
    running = store.submit(make_new_job()).id
    store.claim("dead")
    store.record_worker(WorkerRecord(id="dead", device="cpu", seconds_per_unit=None))

    machine.restart()
    machine.wall = wall
    store, deliveries = stores_of(database, machine)

    assert store.live_workers() == []
    assert [store.claim("w")[1].id for _ in range(2)] == [put_off, running]
    taken = deliveries.claim("courier")
    assert taken is not None
    assert taken[1].job_id == told
    assert taken[1].tried_since <= wall


def stores_of(database: Database, machine: Machine) -> tuple[JobStore, DeliveryStore]:
    """As the processes of a service have them."""
    clocks = {"now": lambda: machine.wall, "steady": machine.begin(database)}
    return JobStore(database, **clocks), DeliveryStore(database, **clocks)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_queue_does_not_notice_that_the_wall_clock_jumps(database: Database, machine: Machine, jump: timedelta) -> None:
    store, deliveries = stores_of(database, machine)
    held, waiting = (store.submit(make_new_job(webhook_url=WEBHOOK)).id for _ in range(2))
    claim, _ = store.claim("w")
    store.record_worker(WorkerRecord(id="w", device="cpu", seconds_per_unit=None))
    machine.wall += jump

    assert store.requeue_expired() == 0
    assert [worker.id for worker in store.live_workers()] == ["w"]
    machine.pass_time(20)
    store.heartbeat(claim)
    machine.pass_time(29)
    assert store.requeue_expired() == 0
    machine.pass_time(1)
    assert store.live_workers() == []
    assert store.claim("other")[1].id == held
    assert store.claim("other")[1].id == waiting

    store.cancel(store.submit(make_new_job(webhook_url=WEBHOOK)).id)
    delivery_claim, delivery = deliveries.claim("courier")
    deliveries.record_failed(delivery_claim, Outcome(seconds=1.0, status=503), next_at=deliveries.now().steady + HOUR / 60)
    machine.wall -= 2 * jump
    ((shown, _),) = deliveries.list(delivery.job_id)
    assert shown.next_at == machine.wall + HOUR / 60  # as people's clocks will say then
    machine.pass_time(59)
    assert deliveries.claim("courier") is None
    machine.pass_time(1)
    assert deliveries.claim("courier") is not None


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_newest_successes_are_found_despite_clock_jumps(database: Database, machine: Machine, jump: timedelta) -> None:
    store, _ = stores_of(database, machine)
    for number in range(3):
        store.submit(make_new_job())
        with write_transaction(database) as connection:
            ended = {
                "status": JobStatus.SUCCEEDED,
                "finished_at": machine.wall,
                "result_facts": {"device_seconds": float(number)},
            }
            connection.execute(update(jobs).where(jobs.c.status == JobStatus.QUEUED).values(ended))
            attempt = {"job_id": number + 1, "attempt": 0, "worker": "w", "started_at": START, "units": 1.0, "seconds": 1.0}
            connection.execute(insert(attempts).values(attempt))
        machine.wall += jump

        assert [timing.call_seconds for timing in store.recent_timings("cutout")] == list(range(number, -1, -1))
