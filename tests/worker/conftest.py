from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from promptreel.encoding.decoder import Decoder
from promptreel.generation.devices import Device
from promptreel.generation.engine import Engine
from promptreel.jobs.database import migrate, open_database
from promptreel.jobs.store import JobStore
from promptreel.models.registry import DEFAULT_MODEL_ID, ModelRegistry
from promptreel.storage.local import LocalStorage
from promptreel.worker.recipes.video import Makers, VideoRecipe
from promptreel.worker.room import Room
from promptreel.worker.worker import Worker
from tests.generation.checkpoints import make_tiny_checkpoint

LEASE_SECONDS = 3600  # no job is lost because the machine stalls


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'promptreel.db'}"
    database = open_database(url)
    migrate(database)
    database.dispose()
    return url


@pytest.fixture
def jobs(database_url: str) -> Iterator[JobStore]:
    database = open_database(database_url)
    yield JobStore(database, lease_seconds=LEASE_SECONDS)
    database.dispose()


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture(scope="session")
def built_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models for the tests of this folder: the built-in one is a tiny one with random weights."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("built_in")
    make_tiny_checkpoint(root / DEFAULT_MODEL_ID, native_width=32, native_height=32)
    return root


@pytest.fixture
def worker(jobs: JobStore, built_in: Path, tmp_path: Path, decoder: Decoder, stop: threading.Event) -> Worker:
    engine = Engine(ModelRegistry(built_in=built_in, models_dir=tmp_path / "models"), Device("cpu", torch.float32))
    storage = LocalStorage(tmp_path / "results")
    return Worker(
        owner="worker-1",
        jobs=jobs,
        engine=engine,
        recipes={"video": VideoRecipe(Makers(engine, decoder, threading.Semaphore(1)), storage, tmp_path / "scratch")},
        storage=storage,
        lease_seconds=LEASE_SECONDS,
        room=Room(jobs=4, memory=1 << 30),
        stop=stop,
    )


@contextmanager
def at_work(worker: Worker) -> Iterator[None]:
    """Runs it, without loading and measuring the built-in model first."""
    worker.startup()
    thread = threading.Thread(target=worker.main_loop)
    thread.start()
    try:
        yield
    finally:
        worker.stop.set()
        thread.join()
        worker.shutdown()
