"""The load of the service, from the rows of the queue."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from promptreel.jobs.job import JobStage
from promptreel.jobs.store import JobStore
from promptreel.jobs.worker_records import WorkerRecord
from tests.api.conftest import SUBMIT


def record_worker(jobs: JobStore, name: str = "worker-1") -> None:
    jobs.record_worker(WorkerRecord(id=name, device="cpu", seconds_per_unit=None))


@pytest.mark.parametrize("generation", ["v3", "v1/enterprise"])
def test_idle_service_answers_the_documented_zeros(client: TestClient, jobs: JobStore, generation: str) -> None:
    record_worker(jobs)

    load = client.post(f"/api/{generation}/system_load", json={"key": "k"}).json()
    details = client.post(f"/api/{generation}/system_details", json={"key": "k"}).json()

    assert load == {"queue_num": 0, "queue_time": 0, "status": "ok"}
    assert details == {"model_count": 3, "queue_time": 0, "status": "ok"}


def test_load_counts_waiting_jobs_and_the_seconds_until_all_are_done(client: TestClient, jobs: JobStore) -> None:
    record_worker(jobs)
    etas = [client.post(SUBMIT, json={"prompt": "a red cat"}).json()["eta"] for _ in range(3)]
    claimed = jobs.claim("worker-1")
    assert claimed is not None

    load = client.post("/api/v3/system_load").json()
    for name in ("worker-1", "worker-2"):
        record_worker(jobs, name)
    shared = client.post("/api/v3/system_load").json()

    assert load == {"queue_num": 2, "queue_time": etas[-1], "status": "ok"}
    assert shared["queue_time"] == pytest.approx(etas[-1] / 2, abs=1)


def test_job_faster_than_estimated_shortens_all_estimates(client: TestClient, jobs: JobStore) -> None:
    """The card says more than a minute per job, but the first job has made its calls at once."""
    body = {"prompt": "a red cat", "num_frames": 48, "num_inference_steps": 50, "scheduler": "HeunDiscreteScheduler"}
    record_worker(jobs)
    first, second = (client.post(SUBMIT, json=body).json() for _ in range(2))
    assert first["eta"] > 60
    claim, _ = jobs.claim("worker-1") or pytest.fail("nothing to claim")
    jobs.report(claim, stage=JobStage.DENOISING, progress=0.999)

    assert client.post(second["fetch_result"]).json()["eta"] < first["eta"]
    assert client.post("/api/v3/system_load").json()["queue_time"] < first["eta"]


def test_service_without_a_worker_is_degraded(client: TestClient) -> None:
    assert client.post("/api/v3/system_load").json()["status"] == "degraded"
