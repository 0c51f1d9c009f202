from __future__ import annotations

from fastapi.testclient import TestClient

from promptreel.jobs.store import JobStore
from promptreel.jobs.worker_records import WorkerRecord
from tests.api.conftest import SUBMIT


def test_health_counts_workers_and_jobs(client: TestClient, jobs: JobStore) -> None:
    for _ in range(3):
        client.post(SUBMIT, json={"prompt": "a red cat"})
    jobs.claim("worker-1")
    jobs.record_worker(WorkerRecord(id="worker-1", device="cpu", seconds_per_unit=None))

    answer = client.get("/health")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "version": "1.2.3", "workers": 1, "queued": 2, "running": 1, "loaded": []}


def test_readiness_is_a_status_that_a_load_balancer_can_read(client: TestClient, jobs: JobStore) -> None:
    waiting = client.get("/health/ready")
    jobs.record_worker(WorkerRecord(id="worker-1", device="cpu", seconds_per_unit=None))
    ready = client.get("/health/ready")

    assert (waiting.status_code, waiting.json()["status"], waiting.json()["workers"]) == (503, "degraded", 0)
    assert (ready.status_code, ready.json()) == (200, client.get("/health").json())
    assert ready.json()["status"] == "ok"


def test_health_is_degraded_without_a_worker(client: TestClient) -> None:
    answer = client.get("/health")

    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
