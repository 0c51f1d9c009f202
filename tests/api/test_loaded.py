"""Which models are loaded, and where: each caller learns it of the models that they see, and strangers of public ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import create_app
from promptreel.api.parts import AppParts
from promptreel.jobs.database import Database
from promptreel.jobs.keys import KeyStore
from promptreel.jobs.store import JobStore
from promptreel.jobs.worker_records import WorkerRecord
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import ModelRegistry
from promptreel.models.store import ModelRecord, ModelStore
from promptreel.models.stored_files import StoredFile, StoredFiles
from tests.jobs.factories import Clock

CPU, GPU = "cpu (float32)", "cuda:0 (bfloat16)"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def owner(keys: KeyStore) -> str:
    return keys.create("owner")[1]


@pytest.fixture
def client(tmp_path: Path, services: AppParts, database: Database, clock: Clock, owner: str) -> Iterator[TestClient]:
    """Two workers with models loaded: one of everybody, one of a key alone, and one of the operator alone."""
    store = ModelStore(database)
    for name, api_key_id in (("secret", 1), ("operators", None)):
        store.add(
            ModelRecord(
                id=name, kind=ModelKind.CHECKPOINT, family="animatediff", base=None, card={}, source="here",
                files={"a.safetensors": StoredFile("0" * 64, 1)}, api_key_id=api_key_id, is_public=False,
            )
        )  # fmt: skip
    jobs = JobStore(database, now=clock)
    jobs.record_worker(WorkerRecord(id="a", device=CPU, seconds_per_unit=None, loaded=("cutout", "operators", "secret")))
    jobs.record_worker(WorkerRecord(id="b", device=GPU, seconds_per_unit=None, loaded=("cutout", "removed")))
    models = ModelRegistry(
        built_in=tmp_path / "built_in", models_dir=tmp_path / "models", store=store, files=StoredFiles(tmp_path / "files")
    )
    with TestClient(create_app(replace(services, jobs=jobs, models=models)), base_url="http://video.test:8000") as client:
        yield client


def loaded_on(client: TestClient, key: str) -> dict[str, list[str]]:
    listed = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).json()["data"]
    return {each["id"]: each["loaded_on"] for each in listed}


def test_models_say_which_workers_have_them_loaded(client: TestClient, owner: str) -> None:
    one = client.get("/v1/models/secret", headers={"Authorization": f"Bearer {owner}"}).json()

    assert loaded_on(client, owner) == {"cutout": [CPU, GPU], "midjourney": [], "plain": [], "secret": [CPU]}
    assert one["loaded_on"] == [CPU]


def test_nobody_else_learns_of_a_private_model(client: TestClient, keys: KeyStore) -> None:
    other = keys.create("other")[1]

    assert loaded_on(client, other) == {"cutout": [CPU, GPU], "midjourney": [], "plain": []}
    assert client.get("/health").json()["loaded"] == ["cutout"]


def test_worker_that_was_not_seen_lately_has_nothing_loaded(client: TestClient, owner: str, clock: Clock) -> None:
    clock.advance(31)

    assert loaded_on(client, owner)["cutout"] == []
    assert client.get("/health").json()["loaded"] == []
