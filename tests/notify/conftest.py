from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from promptreel.api.webhook_bodies import to_webhook
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.database import Database, migrate, open_database
from promptreel.jobs.deliveries import DeliveryStore
from promptreel.jobs.links import LinkMaker
from promptreel.jobs.store import JobStore
from promptreel.jobs.webhook_secrets import WebhookSecrets
from promptreel.notify.courier import Courier
from tests.jobs.factories import Clock, make_new_job
from tests.notify.receiver import Receiver, receiving


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "migrated.db"
    database = open_database(f"sqlite:///{path}")
    migrate(database)
    database.dispose()
    return path


@pytest.fixture
def database(migrated_file: Path, tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'promptreel.db')}")
    yield database
    database.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(database: Database, clock: Clock) -> JobStore:
    return JobStore(database, lease_seconds=30, max_attempts=1, now=clock)


@pytest.fixture
def deliveries(database: Database, clock: Clock) -> DeliveryStore:
    return DeliveryStore(database, now=clock)


@pytest.fixture
def secret(database: Database) -> str:
    return WebhookSecrets(database).of_installation()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def courier(database: Database, jobs: JobStore, deliveries: DeliveryStore, receiver: Receiver) -> Courier:
    """May call the receiver, and waits long for its answers."""
    return Courier(
        owner="courier-1",
        jobs=jobs,
        deliveries=deliveries,
        secrets=WebhookSecrets(database),
        fetcher=SafeFetcher(allow_networks=[ip_network("127.0.0.0/8")], allow_ports=[receiver.port], seconds=60),
        to_body=lambda job, delivery_id: to_webhook(job, delivery_id, LinkMaker(secret=b"not told")),
        stop=threading.Event(),
    )


@pytest.fixture
def end_job(jobs: JobStore) -> Callable[[str], int]:
    """Submits a job with this webhook, cancels it, and returns its id."""
    return lambda url: jobs.cancel(jobs.submit(make_new_job(webhook_url=url)).id).id
