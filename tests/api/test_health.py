from __future__ import annotations

from fastapi.testclient import TestClient

from promptreel.jobs.store import JobStore, WorkerRecord
from tests.api.conftest import SUBMIT


def test_health_counts_workers_and_jobs(client: TestClient, jobs: JobStore) -> None:
    for _ in range(3):
        client.post(SUBMIT, json={"prompt": "a red cat"})
    jobs.claim("worker-1")
    jobs.record_worker(WorkerRecord(id="worker-1", device="cpu", seconds_per_unit=None))

    answer = client.get("/health")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "version": "1.2.3", "workers": 1, "queued": 2, "running": 1}


def test_health_is_degraded_without_a_worker(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "degraded"
