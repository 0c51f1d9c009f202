"""`promptreel.Client` against the real application on a real port; the tests act as the worker."""

# ruff: noqa: F811 - the fixtures of the api's tests are used here too

from __future__ import annotations

import hashlib
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import uvicorn

from promptreel import Client, RemoteVideo
from promptreel.api.app import create_app
from promptreel.api.parts import AppParts
from promptreel.commands.generate import Wanted, complete_params, to_options
from promptreel.errors import (
    InvalidParams,
    JobFailed,
    JobNotFound,
    ModelNotFound,
    NotDoneInTime,
    OutOfMemory,
    RequestRefused,
    ServerUnreachable,
    StorageFailed,
)
from promptreel.jobs.job import JobStage, JobStatus
from promptreel.jobs.store import JobStore
from promptreel.media import Init
from promptreel.models.composition import AddOns, compose
from tests.api.conftest import database, empty_database, finish_next, jobs, keys, services, storage  # noqa: F401
from tests.api.test_inits import GIF, PNG
from tests.waiting import wait_for

Finish = Callable[[bytes], None]


class Server:
    """The application in a thread, on a port that it keeps across restarts."""

    def __init__(self, services: AppParts, port: int) -> None:
        self._services = services
        self._port = port
        self.url = f"http://127.0.0.1:{self._port}"
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        app = create_app(replace(self._services, is_stopping=lambda: server.should_exit))
        server = uvicorn.Server(uvicorn.Config(app, port=self._port, log_config=None, access_log=False))
        self._server, self._thread = server, threading.Thread(target=server.run)
        self._thread.start()
        wait_for(lambda: server.started)

    def stop(self) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def server(services: AppParts) -> Iterator[Server]:
    with socket.socket() as held:  # reserves the port while the application is stopped
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        server = Server(services, held.getsockname()[1])
        server.start()
        yield server
        server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


class Waiting(threading.Thread):
    """A wait in another thread, and the states that it reported."""

    def __init__(self, client: Client, video: RemoteVideo) -> None:
        super().__init__()
        self.told: list[RemoteVideo] = []
        self.ended: RemoteVideo | None = None
        self._wait = lambda: client.wait(video.id, on_progress=self.told.append, timeout=60)
        self.start()

    def run(self) -> None:
        self.ended = self._wait()

    def until_told(self, stage: str) -> None:
        wait_for(lambda: any(video.stage == stage for video in self.told), seconds=30)


def test_video_is_created_watched_and_downloaded(
    client: Client,
    jobs: JobStore,
    finish_next: Finish,
    tmp_path: Path,
) -> None:
    first = client.create("a red ball", model="cutout", size="96x64", seed=7)
    video = client.create("a red cat", num_frames=4)
    assert (first.id, first.status, first.seed, first.size) == ("video_1", "queued", 7, "96x64")
    assert (video.queue_position, video.is_done, client.get(video.id).prompt) == (2, False, "a red cat")

    finish_next(b"a ball")
    waiting = Waiting(client, video)
    wait_for(lambda: waiting.told)
    work, _ = jobs.claim("worker-1") or pytest.fail("nothing to claim")
    jobs.report(work, stage=JobStage.DENOISING, progress=0.25)
    waiting.until_told("denoising")
    jobs.give_back(work)
    finish_next(b"a cat")
    waiting.join()

    assert [(video.status, video.stage) for video in waiting.told[:1]] == [("queued", None)]
    shares = [(video.stage, video.progress, video.queue_position) for video in waiting.told]
    assert ("denoising", 25, 0) in shares
    assert waiting.told[-1] == waiting.ended == client.get(video)
    assert (waiting.told[-1].status, waiting.told[-1].progress) == ("completed", 100)
    assert client.download(video, tmp_path / "cat.mp4").read_bytes() == b"a cat"
    assert client.download("video_1", str(tmp_path / "cat.mp4")).read_bytes() == b"a ball"
    assert sorted(path.name for path in tmp_path.glob("*cat*")) == ["cat.mp4"]


def test_failure_is_raised_with_the_workers_code_and_reason(client: Client, jobs: JobStore) -> None:
    for code in ("out_of_memory", "something_new"):
        client.create("a cat")
        work, _ = jobs.claim("worker-1") or pytest.fail("nothing to claim")
        jobs.fail(work, code=code, message="Ask for fewer frames.")

    with pytest.raises(OutOfMemory, match="Ask for fewer frames") as known:
        client.wait("video_1")
    with pytest.raises(JobFailed, match="Ask for fewer frames") as unknown:
        client.wait("video_2")

    assert (known.value.code, unknown.value.code) == ("out_of_memory", "something_new")
    assert type(unknown.value) is JobFailed


def test_cancelled_and_deleted_videos_end_a_wait(client: Client, jobs: JobStore) -> None:
    cancelled, deleted = (client.create("a cat") for _ in range(2))

    assert client.cancel(cancelled).status == "failed"
    client.delete(deleted)

    with pytest.raises(JobFailed, match="Cancelled") as caught:
        client.wait(cancelled)
    assert caught.value.code == "cancelled"
    with pytest.raises(JobNotFound):
        client.wait(deleted)
    assert [job.status for job in jobs.list()] == [JobStatus.CANCELLED]


def test_wait_outlives_a_restart_of_the_server(
    server: Server,
    client: Client,
    jobs: JobStore,
    finish_next: Finish,
) -> None:
    waiting = Waiting(client, client.create("a cat"))
    wait_for(lambda: waiting.told)

    server.stop()
    finish_next(b"a cat")
    with pytest.raises(ServerUnreachable), Client(server.url, patience=0) as impatient:
        impatient.get("video_1")
    assert waiting.is_alive()
    server.start()
    waiting.join()

    assert waiting.ended is not None
    assert waiting.ended.status == "completed"


def test_wait_that_takes_too_long_says_where_the_video_is(client: Client, jobs: JobStore) -> None:
    video = client.create("a cat")

    with pytest.raises(NotDoneInTime, match=r"video_1 is not done yet \(queued, 0 %\)"):
        client.wait(video, timeout=0.3)
    assert not jobs.get(1).is_final


class Odd(BaseHTTPRequestHandler):
    """A foreign server; its `seen` holds the requests."""

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving(handler: type[Odd]) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.seen = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Silent(Odd):
    """Reports once that a video is queued, then falls silent."""

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        if len(self.server.seen) == 1:
            self.answer(200, b'{"id": "video_1", "status": "queued"}')
        else:
            self.rfile.read(1)  # blocks until the client hangs up


def test_server_that_falls_silent_does_not_keep_a_wait_from_ending_in_time() -> None:
    with serving(Silent) as server, Client(f"http://127.0.0.1:{server.server_port}") as client:
        video = client.get("video_1")
        with pytest.raises(NotDoneInTime, match=r"video_1 is not done yet \(queued, 0 %\)"):
            client.wait(video, timeout=0.1)
        with pytest.raises(ServerUnreachable):  # its state was never reported
            client.wait(video.id, timeout=0.1)


def test_errors_are_those_of_the_server(client: Client, jobs: JobStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="The seed must be at least 0") as wrong:
        client.create("a cat", seed=-2)
    assert list(wrong.value.fields) == ["seed"]
    with pytest.raises(ModelNotFound, match="Known models: cutout, midjourney, plain"):
        client.create("a cat", model="sora")
    with pytest.raises(ModelNotFound):
        client.model("sora")
    for unknown in ("video_9", "../models", ""):
        with pytest.raises((JobNotFound, RequestRefused)):
            client.get(unknown)
    client.create("a cat")
    with pytest.raises(RequestRefused, match="not there yet") as early:
        client.download("video_1", tmp_path / "cat.mp4")
    assert early.value.code == "content_unavailable"
    with pytest.raises(InvalidParams, match="UTF-8"):
        client.create("a \ud800 cat")
    with pytest.raises(InvalidParams, match="The guidance_scale cannot be written as UTF-8 and JSON") as unsendable:
        client.create("a cat", guidance_scale=math.nan)
    assert unsendable.value.fields.keys() == {"guidance_scale"}
    with pytest.raises(InvalidParams, match="cannot be read: No such file"):
        client.create("a cat", input_reference=tmp_path / "none.png")
    assert len(jobs.list()) == 1


def test_unwritable_file_raises_storage_failed(client: Client, finish_next: Finish, tmp_path: Path) -> None:
    client.create("a cat")
    finish_next(b"a cat")

    with pytest.raises(StorageFailed, match="No such file or directory"):
        client.download("video_1", tmp_path / "nowhere" / "cat.mp4")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8000", "ftp://host", "http://", "http://host/?a=b", "http://[::1", "http://a b", "http://host:99999"]
)
def test_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidParams, match="is not a server's address"):
        Client(address)


def test_key_that_cannot_be_sent_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidParams, match="copy it again") as caught:
        Client("http://127.0.0.1:1", "schlüssel")
    assert "schlüssel" not in str(caught.value)


def test_server_that_never_answered_is_given_up_soon(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url, patience=0.2) as client, pytest.raises(ServerUnreachable, match="refused"):
            client.models()


def test_models_are_listed(client: Client) -> None:
    assert [model.id for model in client.models()] == ["cutout", "midjourney", "plain"]
    assert (client.model("midjourney").name, client.model("midjourney").max_frames) == ("Midjourney", 32)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"model": "midjourney", "fps": 5, "seed": 0, "height": 100},
        {"model": "midjourney", "enhance": False, "negative_prompt": "", "frames": 7, "output": Path("a.GIF")},
        {"init": Init("video", "gif", GIF), "strength": 1.0, "guidance": 1.0, "scheduler": "LCMScheduler"},
        {"init": Init("image", "png", PNG), "negative_prompt": 'null, "fog"\r\nand é', "prompt": " a  cat\n"},
    ],
)
def test_server_understands_the_command_line_as_this_machine_does(
    client: Client,
    services: AppParts,
    jobs: JobStore,
    changed: dict[str, object],
) -> None:
    """`promptreel generate` must make the same bytes with --server and without."""
    plain = Wanted(
        output=Path("a.mp4"), prompt="a cat", model="cutout", motion_adapter=None, loras=(), enhance=True, seed=7,
        embeddings=(), negative_prompt=None, steps=3, guidance=7.5, scheduler="DDIMScheduler", frames=None, fps=None,
        width=96, height=64, init=None, strength=0.5,
    )  # fmt: skip
    wanted = replace(plain, **changed)  # type: ignore[arg-type]

    client.create(wanted.prompt, **to_options(wanted, client.model(wanted.model)))

    assert jobs.get(1).params == complete_params(wanted, compose(services.models, wanted.model), AddOns())[0]


class Unreliable(Odd):
    """Hangs up on the first request, is busy for the second, and answers the third with an error."""

    def do_POST(self) -> None:
        self.server.seen.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        match len(self.server.seen):
            case 1:
                self.close_connection = True
            case 2:
                self.send_error(503)
            case _:
                self.answer(401, b'{"error": {"message": "Wrong key.", "type": "a", "param": null, "code": "key_of_tomorrow"}}')


def test_create_is_sent_again_under_the_same_idempotency_key_and_with_the_api_key() -> None:
    with serving(Unreliable) as server, Client(f"http://127.0.0.1:{server.server_port}/v1/", "sesame\n") as client:
        with pytest.raises(RequestRefused):  # there is no GET; a server that has answered is given a minute, not 3 s
            client.models()
        for reference in (PNG, None):
            with pytest.raises(RequestRefused, match="Wrong key") as caught:
                client.create("a cat", input_reference=reference)

    assert caught.value.code == "key_of_tomorrow"
    sent, other = server.seen[:3], server.seen[3:]
    assert len({headers["Idempotency-Key"] for headers, _ in sent}) == 1
    assert len({hashlib.sha256(body).hexdigest() for _, body in sent}) == 1
    assert PNG in sent[0][1]
    assert other[0][0]["Idempotency-Key"] != sent[0][0]["Idempotency-Key"]
    assert {headers["Authorization"] for headers, _ in server.seen} == {"Bearer sesame"}


def test_client_is_imported_lazily_and_without_torch_or_the_service() -> None:
    code = (
        "import sys, promptreel; assert 'httpx2' not in sys.modules; from promptreel import Client, RemoteModel, RemoteVideo; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'fastapi', 'sqlalchemy', 'av', 'numpy', 'pydantic')))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
