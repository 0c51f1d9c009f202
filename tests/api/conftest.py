"""The application over real parts: SQLite, storage and a small models folder under tmp_path."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.api.authentication import Authenticator
from promptreel.api.sessions import SessionMaker
from promptreel.bootstrap import build_app
from promptreel.encoding.decoder import Decoder
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.changes import ChangeLog
from promptreel.jobs.database import Database, migrate, open_database
from promptreel.jobs.job import Result
from promptreel.jobs.keys import KeyStore
from promptreel.jobs.links import LinkMaker
from promptreel.jobs.store import JobStore
from promptreel.media import MEDIA_TYPES, Video
from promptreel.models.registry import ModelRegistry
from promptreel.settings import load_settings
from promptreel.storage.local import LocalStorage

SUBMIT = "/api/v4/dreambooth/text2video"
CARD = {
    "name": "Cutout",
    "family": "animatediff",
    "native_width": 96,
    "native_height": 96,
    "max_frames": 48,
    "fps": 8,
    "default_negative_prompt": "grey",
    "words": ["a", "on", "red", "cat", "ball", "bench", "sitting"],
    "reference_seconds_per_unit": 0.01,
}
# From the hosted service's documentation.
STYLED_CARD = {
    "name": "Midjourney",
    "family": "animatediff",
    "max_frames": 32,
    "fps": 8,
    "trigger_words": ["mdjrny-v4 style"],
    "quality_words": ["DSLR photography", "sharp focus"],
}
PLAIN_CARD = {"name": "Plain", "family": "animatediff", "max_frames": 240, "fps": 8}


def write_card(folder: Path, card: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "promptreel.json").write_text(json.dumps(card))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy. Migrating for each test would take most of the tests' time."""
    path = tmp_path_factory.mktemp("database") / "promptreel.db"
    database = open_database(f"sqlite:///{path}")
    migrate(database)
    database.dispose()
    return path


@pytest.fixture(scope="session")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The service's OpenAPI document, which takes a third of a second to write."""
    app = build_app(load_settings(data_dir=tmp_path_factory.mktemp("document")), serves_local=True)
    with TestClient(app, base_url="http://video.test:8000") as client:
        return client.get("/openapi.json").json()


@pytest.fixture
def database(tmp_path: Path, empty_database: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{shutil.copy(empty_database, tmp_path)}")
    yield database
    database.dispose()


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def keys(database: Database) -> KeyStore:
    return KeyStore(database)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "videos")


@pytest.fixture
def services(
    tmp_path: Path, database: Database, jobs: JobStore, keys: KeyStore, storage: LocalStorage, decoder: Decoder
) -> AppParts:
    write_card(tmp_path / "models" / "cutout", CARD)
    write_card(tmp_path / "models" / "plain", PLAIN_CARD)
    write_card(tmp_path / "models" / "midjourney", STYLED_CARD)
    models = ModelRegistry(built_in=tmp_path / "built_in", models_dir=tmp_path / "models")
    return AppParts(
        jobs=jobs,
        changes=ChangeLog(database),
        authenticator=Authenticator(keys, serves_local=True),
        models=models,
        storage=storage,
        fetcher=SafeFetcher(),
        decoder=decoder,
        link_maker=LinkMaker(secret=b"not told"),
        sessions=SessionMaker(secret=b"not told"),
        version="1.2.3",
    )


@pytest.fixture
def client(services: AppParts) -> Iterator[TestClient]:
    with TestClient(create_app(services), base_url="http://video.test:8000") as client:
        yield client


@pytest.fixture
def finish_next(tmp_path: Path, jobs: JobStore, storage: LocalStorage) -> Callable[[bytes], None]:
    """Finishes the next job as a worker would, with these bytes as the video."""

    def finish(content: bytes) -> None:
        claimed = jobs.claim("worker-1")
        assert claimed is not None
        claim, job = claimed
        path = tmp_path / "encoded"
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        key = f"{job.file_prefix}.{job.params.output_type}"
        storage.save(Video(path, MEDIA_TYPES[job.params.output_type], len(content), sha256), key)
        jobs.finish(claim, Result(key=key, size_bytes=len(content), sha256=sha256, facts={}))

    return finish
