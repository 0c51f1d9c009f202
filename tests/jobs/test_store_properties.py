"""The promises of the queue, under any order of events: a state machine drives the store and a model side by side."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from promptreel.errors import JobLost
from promptreel.jobs.database import open_database, read_transaction
from promptreel.jobs.job import Claim, Job, JobStage, JobStatus
from promptreel.jobs.store import JobStore
from promptreel.jobs.tables import attempts, deliveries
from tests.jobs.factories import WEBHOOK, Clock, make_new_job, make_result

LEASE_SECONDS = 30
OWNERS = st.sampled_from(["w1", "w2"])


class QueueMachine(RuleBasedStateMachine):
    """`live` is the model's claims: job id -> (claim, when its lease runs out)."""

    migrated_file: Path
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "queue.db"
        shutil.copy(self.migrated_file, path)
        self.database = open_database(f"sqlite:///{path}")
        self.clock = Clock()
        self.store = JobStore(self.database, lease_seconds=LEASE_SECONDS, max_attempts=3, now=self.clock)
        self.accepted: set[int] = set()
        self.ended: dict[int, Job] = {}
        self.live: dict[int, tuple[Claim, float]] = {}
        self.elapsed = 0.0

    def teardown(self) -> None:
        self.drain()
        self.database.dispose()
        self.folder.cleanup()

    @rule(webhook_url=st.sampled_from([None, WEBHOOK]))
    def submit(self, webhook_url: str | None) -> None:
        job = self.store.submit(make_new_job(webhook_url=webhook_url))
        assert job.id not in self.accepted
        self.accepted.add(job.id)

    @rule(seconds=st.sampled_from([1, 10, 29, 31, 100]))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.elapsed += seconds

    @rule(target=claims, owner=OWNERS)
    def claim(self, owner: str) -> object:
        self.forget_expired()
        taken = self.store.claim(owner)
        if taken is None:
            return multiple()
        claim, job = taken
        assert claim.job_id not in self.live
        assert job.status == JobStatus.RUNNING
        self.live[claim.job_id] = (claim, self.elapsed + LEASE_SECONDS)
        return claim

    @rule(claim=claims, action=st.sampled_from(["heartbeat", "report", "finish", "fail", "acknowledge_cancel", "give_back"]))
    def write(self, claim: Claim, action: str) -> None:
        held = self.live.get(claim.job_id, (None, 0.0))[0] == claim
        try:
            self.act(claim, action)
        except JobLost:
            assert not held
            return
        assert held
        if action == "heartbeat":
            self.live[claim.job_id] = (claim, self.elapsed + LEASE_SECONDS)
        elif action != "report":
            del self.live[claim.job_id]

    def act(self, claim: Claim, action: str) -> None:
        if action == "heartbeat":
            self.store.heartbeat(claim)
        elif action == "report":
            self.store.report(claim, stage=JobStage.DENOISING, progress=0.5)
        elif action == "finish":
            self.store.finish(claim, make_result(f"{claim.job_id}.{claim.attempt}.mp4"))
        elif action == "fail":
            self.store.fail(claim, code="generation_failed", message="no")
        elif action == "acknowledge_cancel":
            self.store.acknowledge_cancel(claim)
        else:
            self.store.give_back(claim)

    @rule(number=st.integers(0, 10))
    def cancel(self, number: int) -> None:
        if self.accepted:
            job = self.store.cancel(sorted(self.accepted)[number % len(self.accepted)])
            assert job.status != JobStatus.QUEUED
            assert job.is_final or job.cancel_requested

    @rule(number=st.integers(0, 10))
    def delete(self, number: int) -> None:
        if self.accepted:
            job_id = sorted(self.accepted)[number % len(self.accepted)]
            assert self.store.delete(job_id).id == job_id
            self.accepted.remove(job_id)
            self.live.pop(job_id, None)
            self.ended.pop(job_id, None)

    @rule()
    def sweep(self) -> None:
        assert self.store.requeue_expired() == self.forget_expired()

    @rule(owner=OWNERS)
    def worker_dies(self, owner: str) -> None:
        dead = [job_id for job_id, (claim, _) in self.live.items() if claim.owner == owner]
        for job_id in dead:
            del self.live[job_id]
        assert self.store.free_owner(owner) == len(dead)

    def forget_expired(self) -> int:
        expired = [job_id for job_id, (_, until) in self.live.items() if until <= self.elapsed]
        for job_id in expired:
            del self.live[job_id]
        return len(expired)

    @invariant()
    def queue_agrees_with_the_model(self) -> None:
        found = self.store.list(limit=1000)
        self.check_that_no_job_is_lost_and_what_ended_stays(found)
        running = {job.id: (job.attempt, job.owner) for job in found if job.status == JobStatus.RUNNING}
        assert running == {job_id: (claim.attempt, claim.owner) for job_id, (claim, _) in self.live.items()}
        with read_transaction(self.database) as connection:
            open_attempts = connection.execute(select(attempts.c.job_id).where(attempts.c.ended_at.is_(None))).scalars().all()
            to_deliver = connection.execute(select(deliveries.c.job_id)).scalars().all()
        assert sorted(open_attempts) == sorted(running)
        assert sorted(to_deliver) == sorted(job.id for job in found if job.is_final and job.webhook_url)

    def check_that_no_job_is_lost_and_what_ended_stays(self, found: list[Job]) -> None:
        assert {job.id for job in found} == self.accepted
        for job in found:
            if job.id in self.ended:
                assert job == self.ended[job.id]
            elif job.is_final:
                self.ended[job.id] = job
            assert job.is_final == (job.finished_at is not None)
            assert (job.result is not None) == (job.status == JobStatus.SUCCEEDED)

    def drain(self) -> None:
        """After any run, a live worker can end every accepted job."""
        self.pass_time(100)
        while taken := self.store.claim("last"):
            self.store.finish(taken[0], make_result())
        found = self.store.list(limit=1000)
        assert all(job.is_final for job in found)
        self.check_that_no_job_is_lost_and_what_ended_stays(found)


@pytest.mark.slow
def test_queue_keeps_its_promises_in_any_order_of_events(migrated_file: Path) -> None:
    QueueMachine.migrated_file = migrated_file
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(max_examples=20, stateful_step_count=30, suppress_health_check=list(HealthCheck)),
    )
