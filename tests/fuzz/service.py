"""An api without workers, over real parts and with jobs in every state, for programs that make up requests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakSet

import uvicorn

from promptreel.api.app import create_app
from promptreel.api.authentication import Authenticator
from promptreel.api.parts import AppParts
from promptreel.api.sessions import SessionMaker
from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.encoding.decoder import Decoder
from promptreel.encoding.video import encode
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.changes import ChangeLog
from promptreel.jobs.database import migrate, open_database
from promptreel.jobs.job import JobStage, NewJob, Result
from promptreel.jobs.keys import KeyStore
from promptreel.jobs.links import LinkMaker
from promptreel.jobs.params import VideoParams
from promptreel.jobs.store import JobStore
from promptreel.models.registry import ModelRegistry
from promptreel.storage.local import LocalStorage
from tests.encoding.clips import make_scene

PARAMS = VideoParams(model_id="cutout", prompt="a red cat", width=96, height=96, num_frames=4)


@contextmanager
def running_api(folder: Path) -> Iterator[str]:
    """The address of an api whose jobs are 1 succeeded, 2 failed, 3 cancelled, 4 running and 5 queued."""
    database = open_database(f"sqlite:///{folder / 'promptreel.db'}")
    migrate(database)
    services = AppParts(
        jobs=JobStore(database, lease_seconds=3600),
        changes=ChangeLog(database),
        models=ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=folder / "models"),
        storage=LocalStorage(folder / "results"),
        fetcher=SafeFetcher(),
        decoder=Decoder(),
        authenticator=Authenticator(KeyStore(database), serves_local=True),
        link_maker=LinkMaker(secret=b"not told"),
        sessions=SessionMaker(secret=b"not told"),
        is_stopping=make_brief(),
    )
    make_jobs(services, folder)
    server = uvicorn.Server(uvicorn.Config(create_app(services), port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        database.dispose()


def make_brief() -> Callable[[], bool]:
    """What ends a stream of events after its first look: the events of a job that nobody makes would have no end."""
    begun = WeakSet[asyncio.Task[None]]()

    def has_looked() -> bool:
        stream = asyncio.current_task()
        assert stream is not None
        if stream in begun:
            return True
        begun.add(stream)
        return False

    return has_looked


def make_jobs(services: AppParts, folder: Path) -> None:
    jobs, path = services.jobs, folder / "clip.mp4"
    for seed in range(5):
        jobs.submit(NewJob(params=VideoParams.from_json(PARAMS.to_json() | {"seed": seed}), request={}, cost=1))
    done, _ = jobs.claim("worker") or ()
    video = encode(make_scene(4), path, output_type="mp4", metadata={})
    services.storage.save(video, "1.mp4")
    facts = {"busy_seconds": 2.5, "device_seconds": 2.0, "stages": {"denoising": 2.0, "encoding": 0.5}, "device": "cpu"}
    jobs.finish(done, Result(key="1.mp4", size_bytes=video.size_bytes, sha256=video.sha256, facts=facts))
    lost, _ = jobs.claim("worker") or ()
    jobs.fail(lost, code="out_of_memory", message="Ask for fewer frames.")
    jobs.cancel(3)
    running, _ = jobs.claim("worker") or ()
    jobs.report(running, stage=JobStage.DENOISING, progress=0.4)
