"""Real processes: they race for jobs, and they are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from promptreel.jobs.database import Database, open_database
from promptreel.jobs.job import JobStatus
from promptreel.jobs.store import JobStore
from tests.jobs.factories import make_new_job

ROOT = Path(__file__).parents[2]

WORK_UNTIL_KILLED = """
import sys
from promptreel.jobs.database import open_database
from promptreel.jobs.store import JobStore
from tests.jobs.factories import make_new_job, make_result

store = JobStore(open_database(sys.argv[1]), lease_seconds=3600)
while True:
    print("submitted", store.submit(make_new_job()).id, flush=True)
    claim, job = store.claim("victim")
    print("running", job.id, flush=True)
    if job.id % 2:
        store.finish(claim, make_result(f"{job.id}.mp4"))
        print("succeeded", job.id, flush=True)
"""

SUBMIT_TOGETHER_UNTIL_KILLED = """
import os, sys, threading
from promptreel.jobs.database import open_database
from promptreel.jobs.store import JobStore
from tests.jobs.factories import make_new_job

store = JobStore(open_database(sys.argv[1]))

def submit():
    while True:
        os.write(1, f"submitted {store.submit(make_new_job()).id}\\n".encode())

threads = [threading.Thread(target=submit) for _ in range(16)]
for thread in threads:
    thread.start()
"""

STOP_IN_MID_TRANSACTION = """
import sys, time
from sqlalchemy import delete, update
from promptreel.jobs.database import open_database, write_transaction
from promptreel.jobs.store import JobStore
from promptreel.jobs.tables import attempts, jobs
from tests.jobs.factories import make_new_job

database = open_database(sys.argv[1])
print("submitted", JobStore(database).submit(make_new_job()).id, flush=True)
with write_transaction(database) as connection:
    connection.execute(update(jobs).values(status="succeeded"))
    connection.execute(delete(attempts))
    print("changed", 0, flush=True)
    time.sleep(60)
"""


@contextmanager
def running(script: str, url: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    process = subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read_until(process: subprocess.Popen[str], word: str, job_id: int) -> list[tuple[str, int]]:
    """The process's acknowledgements up to this line, inclusive."""
    said: list[tuple[str, int]] = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append((line.split()[0], int(line.split()[1])))
        if said[-1] == (word, job_id):
            return said
    raise AssertionError(f"the process ended early, after {said}")


def kill(process: subprocess.Popen[str]) -> list[tuple[str, int]]:
    """Sends SIGKILL, and returns the acknowledgements not read yet."""
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    return [(line.split()[0], int(line.split()[1])) for line in rest.splitlines() if len(line.split()) == 2]


def test_kill_in_mid_transaction_loses_nothing_and_leaves_no_lock(database_url: str, database: Database) -> None:
    store = JobStore(database)
    mine = store.submit(make_new_job())
    with running(STOP_IN_MID_TRANSACTION, database_url) as process:
        said = read_until(process, "changed", 0)
        kill(process)

    assert said[0] == ("submitted", 2)
    assert [job.status for job in store.list()] == [JobStatus.QUEUED, JobStatus.QUEUED]
    claimed = store.claim("next")
    assert claimed is not None
    assert claimed[1].id == mine.id


def test_kill_at_any_moment_loses_nothing_that_was_acknowledged(database_url: str, database: Database) -> None:
    store = JobStore(database)
    with running(WORK_UNTIL_KILLED, database_url) as process:
        said = read_until(process, "submitted", 30)
        said += kill(process)

    last_word = {job_id: JobStatus.QUEUED if word == "submitted" else JobStatus(word) for word, job_id in said}
    found = {job.id: job for job in store.list(limit=10_000)}
    assert last_word.keys() <= found.keys()
    order = [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED]
    behind = {i: (found[i].status, word) for i, word in last_word.items() if order.index(found[i].status) < order.index(word)}
    assert behind == {}
    assert all((job.result is not None) == (job.status == JobStatus.SUCCEEDED) for job in found.values())

    lost = [job.id for job in found.values() if job.status == JobStatus.RUNNING]
    assert store.free_owner("victim") == len(lost) > 0
    assert {store.get(job_id).status for job_id in lost} == {JobStatus.QUEUED}


def test_kill_among_many_submits_loses_none_that_returned(database_url: str, database: Database) -> None:
    with running(SUBMIT_TOGETHER_UNTIL_KILLED, database_url) as process:
        said = read_until(process, "submitted", 300)
        said += kill(process)

    acknowledged = [job_id for _, job_id in said]
    assert len(acknowledged) == len(set(acknowledged)) >= 250  # ids are printed after their commits, in any order
    assert set(acknowledged) <= {job.id for job in JobStore(database).list(limit=100_000)}


def claim_in_step(url: str, owner: str, start: Barrier, taken: SimpleQueue[tuple[str, list[int]]]) -> None:
    store = JobStore(open_database(url), lease_seconds=3600)
    ids: list[int] = []
    for _ in range(100):
        start.wait(timeout=60)  # every claim races with another: neither process can take all jobs before the other starts
        claimed = store.claim(owner)
        assert claimed is not None
        ids.append(claimed[1].id)
    taken.put((owner, ids))


@pytest.mark.slow
def test_processes_never_claim_the_same_job(database_url: str, database: Database) -> None:
    store = JobStore(database)
    submitted = [store.submit(make_new_job()).id for _ in range(200)]
    spawn = multiprocessing.get_context("spawn")
    start, taken = spawn.Barrier(2), spawn.SimpleQueue()
    processes = [spawn.Process(target=claim_in_step, args=(database_url, owner, start, taken)) for owner in ("w1", "w2")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]

    ids_of = dict(taken.get() for _ in processes)
    assert sorted(ids_of["w1"] + ids_of["w2"]) == submitted
    owners = {job.id: job.owner for job in store.list(limit=200)}
    assert owners == {job_id: owner for owner, ids in ids_of.items() for job_id in ids}
