"""Builds all objects from the settings: the api's application, workers, engines and the courier.

The functions that build a worker or an engine import torch themselves: it takes seconds and hundreds of megabytes. So the api
and the command line start without it.
"""

from __future__ import annotations

import fcntl
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptreel.api.app import create_app
from promptreel.api.authentication import Authenticator
from promptreel.api.parts import AppParts
from promptreel.api.sessions import SessionMaker
from promptreel.api.webhook_bodies import to_webhook
from promptreel.encoding.decoder import MOST_WAITING, PATIENCE_SECONDS, Decoder
from promptreel.errors import BadConfiguration
from promptreel.extras import imports_for_good, install_command, missing_modules
from promptreel.fetching.fetcher import AT_ONCE as FETCHES_AT_ONCE
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.fetching.hub import Hub
from promptreel.importing.gathering import Gatherer
from promptreel.importing.importer import Importer
from promptreel.jobs.changes import ChangeLog
from promptreel.jobs.clock import SteadyClock
from promptreel.jobs.database import Database, migrate, open_database
from promptreel.jobs.deliveries import DeliveryStore
from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.installation_facts import read_link_secret, read_session_secret
from promptreel.jobs.keys import KeyStore
from promptreel.jobs.links import LinkMaker
from promptreel.jobs.params import VideoParams
from promptreel.jobs.store import JobStore
from promptreel.jobs.training_params import TrainingParams
from promptreel.jobs.webhook_secrets import WebhookSecrets
from promptreel.models.registry import ModelRegistry
from promptreel.models.store import ModelStore
from promptreel.models.stored_files import StoredFiles
from promptreel.notify.courier import AT_ONCE as DELIVERIES_AT_ONCE
from promptreel.notify.courier import Courier
from promptreel.settings import PREFIX, Settings
from promptreel.storage.local import LocalStorage

if TYPE_CHECKING:
    from fastapi import FastAPI

    from promptreel.generation.devices import Device
    from promptreel.generation.engine import Engine
    from promptreel.worker.recipes.recipe import Recipe
    from promptreel.worker.recipes.training import TrainingRecipe
    from promptreel.worker.recipes.video import Makers
    from promptreel.worker.worker import Worker

log = logging.getLogger(__name__)

LOCK_NAME = "serve.lock"
BUILT_IN_MODELS = Path(__file__).parent / "models" / "built_in"


def build_database(settings: Settings) -> Database:
    """Opens the database, and creates or migrates it if necessary. Takes the write lock only then."""
    make_data_dir(settings)
    database = open_database(settings.database)
    migrate(database)
    return database


def find_database(settings: Settings) -> Database:
    """Opens and migrates an existing database. Raises BadConfiguration if there is none."""
    database = open_database(settings.database, create=False)
    migrate(database)
    return database


def look_for_database(settings: Settings) -> Database | None:
    """Opens and migrates the database if it is there: a command that only reads makes none."""
    exists = not isinstance(settings.database, Path) or settings.database.is_file()
    return find_database(settings) if exists else None


def make_data_dir(settings: Settings) -> None:
    """Creates the data directory, accessible only to its owner. Does not change the mode of an existing one."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BadConfiguration(
            f"The data directory {settings.data_dir} cannot be created: {error.strerror}. Give another --data-dir."
        ) from error


def is_served(settings: Settings) -> bool:
    """Whether a service runs on the data directory: it holds the lock."""
    try:
        with (settings.data_dir / LOCK_NAME).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def build_database_of_service(settings: Settings) -> Database:
    """Opens the database for a process of the service, and starts the steady clock (jobs/clock.py)."""
    database = build_database(settings)
    SteadyClock(database).begin()
    return database


def build_jobs(settings: Settings, database: Database | None = None) -> JobStore:
    database = database or build_database(settings)
    return JobStore(
        database,
        lease_seconds=settings.lease_seconds,
        max_attempts=settings.max_attempts,
        steady=SteadyClock(database),
    )


def build_keys(settings: Settings, database: Database | None = None) -> KeyStore:
    return KeyStore(database or build_database(settings))


def build_deliveries(settings: Settings, database: Database | None = None) -> DeliveryStore:
    database = database or build_database(settings)
    return DeliveryStore(database, steady=SteadyClock(database))


def build_webhook_secrets(settings: Settings) -> WebhookSecrets:
    return WebhookSecrets(build_database(settings))


def build_links(settings: Settings, database: Database) -> LinkMaker:
    return LinkMaker(secret=read_link_secret(database), seconds=settings.file_link_seconds)


def build_models(settings: Settings, database: Database | None = None) -> ModelRegistry:
    """`database`: opened and migrated. Without one, it is opened if it is there."""
    database = database or look_for_database(settings)
    return ModelRegistry(
        built_in=BUILT_IN_MODELS,
        models_dir=settings.data_dir / "models",
        store=None if database is None else ModelStore(database),
        files=build_model_files(settings),
        aliases=settings.models_by_alias,
    )


def build_model_files(settings: Settings) -> StoredFiles:
    return StoredFiles(settings.data_dir / "model-files")


def build_importer(settings: Settings, database: Database, *, hub_token: str | None = None) -> Importer:
    """`hub_token`: of the account whose private and gated repositories may be imported, too."""
    hub = Hub(settings.hub_endpoint, token=hub_token) if settings.hub == "on" else None
    return Importer(
        models=build_models(settings, database),
        store=ModelStore(database),
        files=build_model_files(settings),
        gatherer=Gatherer(build_fetcher(settings), hub, settings.model_megabytes << 20),
        folder=settings.data_dir / "scratch" / "imports",
    )


def build_storage(settings: Settings) -> LocalStorage:
    return LocalStorage(settings.data_dir / "results")


def build_fetcher(settings: Settings, *, at_once: int = FETCHES_AT_ONCE) -> SafeFetcher:
    return SafeFetcher(
        at_once=at_once,
        allow_hosts=settings.fetch_allow_hosts,
        allow_networks=settings.fetch_allow_networks,
        allow_ports=settings.fetch_allow_ports,
    )


def build_app(settings: Settings, *, serves_local: bool, is_stopping: Callable[[], bool] = lambda: False) -> FastAPI:
    """`serves_local`: only this machine can reach the api, which then needs no key until one is created."""
    database = build_database_of_service(settings)
    parts = AppParts(
        jobs=build_jobs(settings, database),
        changes=ChangeLog(database),
        authenticator=Authenticator(build_keys(settings, database), serves_local=serves_local),
        sessions=SessionMaker(secret=read_session_secret(database)),
        models=build_models(settings, database),
        storage=build_storage(settings),
        fetcher=build_fetcher(settings),
        decoder=Decoder(most_waiting=MOST_WAITING, patience_seconds=PATIENCE_SECONDS),
        link_maker=build_links(settings, database),
        public_url=settings.public_url,
        trusted_proxies=settings.trusted_proxies,
        cors_origins=settings.cors_origins,
        real_status_codes=settings.real_status_codes,
        track_id_is_idempotent=settings.track_id_is_idempotent,
        may_import=settings.imports == "on",
        may_use_hub=settings.hub == "on",
        has_page=settings.page == "on",
        may_train=settings.trainings == "on",
        slice_seconds=settings.training_slice_seconds,
        is_stopping=is_stopping,
    )
    return create_app(parts)


def check_worker_extra(*, instead: str = "") -> None:
    """Raises BadConfiguration if the extra `worker` is not installed. `instead` is a sentence that names an alternative."""
    if missing := missing_modules("worker"):
        raise BadConfiguration(
            f"Videos cannot be made here, because {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: "
            f"{install_command('worker')}.{instead and f' {instead}'}"
        )


def build_engine(settings: Settings, database: Database | None = None) -> Engine:
    """Builds an engine on the machine's best device. Raises BadConfiguration without the extra `worker`."""
    check_worker_extra()
    with imports_for_good():
        from promptreel.generation.devices import pick_device
        from promptreel.generation.engine import Engine
        from promptreel.generation.quiet import quiet_libraries

    quiet_libraries()
    device = pick_device()
    models, memory = build_models(settings, database), _model_memory(settings, device)
    return Engine(models, device, threads=settings.threads_per_worker, model_memory=memory)


def _model_memory(settings: Settings, device: Device) -> int:
    """Bytes that a worker's loaded models may take."""
    from promptreel.generation.devices import device_memory
    from promptreel.worker.room import machine_memory

    if settings.model_memory_per_worker is not None:
        return settings.model_memory_per_worker * 1024 * 1024
    of_gpu = device_memory(device)
    return machine_memory() // 4 // max(1, settings.workers) if of_gpu is None else of_gpu * 6 // 10


def build_worker(settings: Settings, *, owner: str, stop: threading.Event, kinds: Collection[str] | None = None) -> Worker:
    """`kinds`: the kinds of job that it does; None means all."""
    check_worker_extra()
    # This comes before the slow import of torch: a wrong data directory is then reported at once.
    database = build_database_of_service(settings)
    jobs = build_jobs(settings, database)
    log.info("worker %s is loading PyTorch", owner)
    with imports_for_good():
        from promptreel.encoding.mp4 import ENCODER_THREADS
        from promptreel.worker.recipes.importing import ImportRecipe
        from promptreel.worker.recipes.video import Makers, VideoRecipe
        from promptreel.worker.room import Room, machine_memory
        from promptreel.worker.worker import Worker

    megabytes = settings.memory_per_worker
    memory = machine_memory() // 4 // max(1, settings.workers) if megabytes is None else megabytes * 1024 * 1024
    engine, storage = build_engine(settings, database), build_storage(settings)
    encoders = threading.Semaphore(max(1, settings.threads_per_worker // ENCODER_THREADS))
    makers, scratch = Makers(engine, Decoder(), encoders), settings.data_dir / "scratch"
    recipes: dict[str, Recipe[Any]] = {
        VideoParams.kind: VideoRecipe(makers, storage, scratch=scratch),
        ImportParams.kind: ImportRecipe(build_importer(settings, database), storage),
        TrainingParams.kind: _build_trainings(settings, database, makers, jobs),
    }
    return Worker(
        owner=owner,
        jobs=jobs,
        engine=engine,
        recipes={kind: recipe for kind, recipe in recipes.items() if kinds is None or kind in kinds},
        storage=storage,
        lease_seconds=settings.lease_seconds,
        room=Room(settings.jobs_at_once, memory),
        stall_seconds=settings.stall_seconds,
        stop=stop,
    )


def _build_trainings(settings: Settings, database: Database, makers: Makers, jobs: JobStore) -> TrainingRecipe:
    from promptreel.worker.recipes.trained_model import TrainedModels
    from promptreel.worker.recipes.training import TrainingRecipe
    from promptreel.worker.recipes.training_samples import SampleMaker

    storage = build_storage(settings)
    return TrainingRecipe(
        jobs=jobs,
        storage=storage,
        samples=SampleMaker(makers, storage, settings.data_dir / "scratch"),
        trained=TrainedModels(makers.engine.models, ModelStore(database), build_model_files(settings)),
        folder=settings.data_dir / "trainings",
        device=makers.engine.device.name,
        threads=settings.threads_per_worker,
        models={
            "built_in": str(BUILT_IN_MODELS),
            "models_dir": str(settings.data_dir / "models"),
            "database": str(settings.database),
            "model_files": str(settings.data_dir / "model-files"),
        },
        slice_seconds=settings.training_slice_seconds,
        checkpoint_seconds=settings.training_checkpoint_seconds,
    )


def build_courier(settings: Settings, *, owner: str, stop: threading.Event) -> Courier:
    database = build_database_of_service(settings)
    links = build_links(settings, database)
    return Courier(
        owner=owner,
        jobs=build_jobs(settings, database),
        deliveries=build_deliveries(settings, database),
        secrets=WebhookSecrets(database),
        fetcher=build_fetcher(settings, at_once=2 * DELIVERIES_AT_ONCE),  # one API key gets half
        to_body=lambda job, delivery_id: to_webhook(job, delivery_id, links),
        stop=stop,
    )


def new_owner() -> str:
    """A unique name for one run of a process that claims jobs or deliveries."""
    return f"{socket.gethostname()}/{secrets.token_hex(6)}"


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, for child processes."""
    values = settings.model_dump(mode="json", exclude_none=True)
    return {
        PREFIX + name.upper(): ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in values.items()
    }
