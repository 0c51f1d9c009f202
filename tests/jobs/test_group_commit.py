"""Many threads, one transaction. test_crashes.py checks that acknowledged writes survive a killed process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, event, insert, select, text

from promptreel.errors import DiskFull, JobNotFound
from promptreel.jobs.database import Database, read_transaction, write_transaction
from promptreel.jobs.group_commit import GroupCommit
from promptreel.jobs.job import Job, JobStatus
from promptreel.jobs.store import JobStore
from promptreel.jobs.tables import facts
from tests.jobs.factories import full_database, make_new_job
from tests.waiting import wait_for

Write = Callable[[Connection], object]


def write_fact(name: str) -> Write:
    def write(connection: Connection) -> str:
        connection.execute(insert(facts).values(name=name, value=""))
        return f"wrote {name}"

    return write


def found_facts(database: Database) -> list[str]:
    with read_transaction(database) as connection:
        found = connection.execute(select(facts.c.name).order_by(facts.c.name)).scalars()
        return [name for name in found if name != "made_by"]  # the migration's own


@pytest.fixture
def commits(database: Database) -> list[Connection]:
    """Grows with every commit of this database."""
    commits: list[Connection] = []
    event.listen(database, "commit", commits.append)
    return commits


def run_at_once(group: GroupCommit, writes: list[Write]) -> list[Future[object]]:
    """Runs the writes as one group: a first write keeps the database busy until all others wait."""
    all_called = threading.Barrier(len(writes) + 1)

    def call(write: Write) -> object:
        all_called.wait()
        return group.run(write)

    with ThreadPoolExecutor(len(writes)) as threads:
        outcomes: list[Future[object]] = []

        def start_the_others(_connection: Connection) -> None:
            outcomes.extend(threads.submit(call, write) for write in writes)
            all_called.wait()
            wait_for(lambda: len(group._waiting) == len(writes), every=0.001)

        group.run(start_the_others)
    return outcomes


def test_writes_that_come_together_share_one_transaction(database: Database, commits: list[Connection]) -> None:
    names = [f"fact {number:02}" for number in range(20)]

    outcomes = run_at_once(GroupCommit(database), [write_fact(name) for name in names])

    assert [outcome.result() for outcome in outcomes] == [f"wrote {name}" for name in names]
    assert len(commits) == 2  # that of the first write, and that of all others
    assert found_facts(database) == names


def test_failing_write_is_undone_alone_and_fails_its_caller_alone(database: Database) -> None:
    def fail(connection: Connection) -> None:
        write_fact("of the failing one")(connection)
        raise JobNotFound("no such job")

    outcomes = run_at_once(GroupCommit(database), [write_fact("a"), fail, write_fact("b"), write_fact("b"), write_fact("c")])

    assert isinstance(outcomes[1].exception(), JobNotFound)
    assert sorted(type(outcome.exception()).__name__ for outcome in outcomes[2:4]) == ["IntegrityError", "NoneType"]
    assert [outcomes[0].result(), outcomes[4].result()] == ["wrote a", "wrote c"]
    assert found_facts(database) == ["a", "b", "c"]


def break_the_commit(connection: Connection) -> None:
    """Violates a foreign key that is checked at the commit."""
    connection.execute(text("PRAGMA defer_foreign_keys = ON"))
    connection.execute(text("INSERT INTO attempts (job_id, attempt, worker, started_at, units) VALUES (99, 1, 'w', 0, 0)"))


def lose_the_transaction(connection: Connection) -> None:
    """Rolls back, as SQLite itself does when the disk is full or fails."""
    connection.execute(text("ROLLBACK"))
    raise OSError("disk full")


@pytest.mark.parametrize("disaster", [break_the_commit, lose_the_transaction])
def test_failed_commit_raises_for_every_caller_and_keeps_nothing(database: Database, disaster: Write) -> None:
    group = GroupCommit(database)

    outcomes = run_at_once(group, [write_fact("a"), disaster, write_fact("b")])

    assert all(outcome.exception() is not None for outcome in outcomes)
    assert found_facts(database) == []
    assert group.run(write_fact("later")) == "wrote later"


def test_lone_caller_gets_a_transaction_at_once_and_no_thread(database: Database, commits: list[Connection]) -> None:
    before = set(threading.enumerate())

    caller = GroupCommit(database).run(lambda _connection: threading.current_thread())

    assert caller is threading.current_thread()
    assert len(commits) == 1
    assert set(threading.enumerate()) <= before  # a thread of an earlier test may have ended meanwhile


def test_interrupted_leader_leaves_nobody_waiting(database: Database) -> None:
    def interrupt(_connection: Connection) -> None:
        raise KeyboardInterrupt

    group = GroupCommit(database)
    outcomes = run_at_once(group, [write_fact("a"), interrupt])

    assert [type(outcome.exception()) for outcome in outcomes] == [KeyboardInterrupt] * 2
    assert group.run(write_fact("later")) == "wrote later"


def test_sixty_four_threads_submit_in_few_transactions(store: JobStore, database: Database, commits: list[Connection]) -> None:
    all_there = threading.Barrier(65)

    def submit(number: int) -> Job:
        all_there.wait()
        return store.submit(make_new_job(f"a red cat, number {number}"))

    with ThreadPoolExecutor(64) as threads:
        outcomes = [threads.submit(submit, number) for number in range(64)]
        with write_transaction(database):  # as another process would: the first one waits, and the others gather behind it
            all_there.wait()
        submitted = [outcome.result() for outcome in outcomes]

    assert len(commits) <= 16
    assert sorted(job.id for job in submitted) == list(range(1, 65))
    assert [job.params.prompt for job in submitted] == [f"a red cat, number {number}" for number in range(64)]
    assert {job.id: job for job in submitted} == {job.id: job for job in store.list(limit=100)}


def test_cancel_in_a_group_returns_its_own_job(store: JobStore) -> None:
    first, second = store.submit(make_new_job()), store.submit(make_new_job())

    with ThreadPoolExecutor(3) as threads:
        outcomes = [threads.submit(store.cancel, job_id) for job_id in (first.id, 99, second.id)]

    assert [outcomes[i].result().id for i in (0, 2)] == [first.id, second.id]
    assert isinstance(outcomes[1].exception(), JobNotFound)
    assert {job.status for job in store.list()} == {JobStatus.CANCELLED}


def test_full_disk_raises_for_the_whole_group_and_keeps_nothing(database: Database) -> None:
    """SQLite has rolled back the whole transaction by then: later writes of the group must not be committed without it."""
    full = full_database(database.url.render_as_string())
    outcomes = run_at_once(GroupCommit(full), [write_fact("a"), write_fact("b" * 10_000), write_fact("c")])

    for outcome in outcomes:
        with pytest.raises(DiskFull):
            outcome.result(60)
    assert found_facts(database) == []
    full.dispose()
    assert GroupCommit(database).run(write_fact("d")) == "wrote d"
