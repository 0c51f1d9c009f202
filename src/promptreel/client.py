"""A client for a Promptreel server, over `/v1/videos`: creates videos, waits for them and downloads them.

    with Client("http://127.0.0.1:8000") as client:
        video = client.wait(client.create("a red cat sitting on a bench"))
        client.download(video, "cat.mp4")

Requests are retried while the server is unavailable, for instance during a restart. Errors are those of errors.py, with the
server's code and message.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx2

from promptreel.errors import InvalidParams, NotDoneInTime, PromptreelError, ServerUnreachable, StorageFailed
from promptreel.remote import FINAL_STATUSES, RemoteModel, RemoteVideo, read_model, read_video, to_job_error, to_refusal

T = TypeVar("T")
OnVideo = Callable[[RemoteVideo], None]

FIRST_PATIENCE_SECONDS = 3.0
"""How long a server that has never answered is retried: its address may be wrong."""
POLL_SECONDS = 2.0
SILENCE_SECONDS = 45.0
"""A stream of events that is silent this long counts as broken; the server sends something every 15 s."""
SHORTEST_SECONDS = 0.05
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 3.0

_AWAY = frozenset({502, 503, 504})  # what proxies answer while the server behind them restarts
_BUSY = frozenset({429})


class VideoOptions(TypedDict, total=False):
    """The options of a request besides the prompt. The server decides those that are missing or None.

    `input_reference` is a picture or short video to start from: a file or its bytes, or a URL that the server fetches.
    """

    model: str | None
    size: str | None
    seconds: int | None
    num_frames: int | None
    fps: int | None
    negative_prompt: str | None
    enhance_prompt: bool | None
    num_inference_steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    seed: int | None
    clip_skip: int | None
    motion_adapter: str | None
    output_type: str | None
    input_reference: Path | bytes | str | None
    strength: float | None
    webhook: str | None


class Client:
    """A client for the server at `base_url`, such as https://video.example.com. Thread-safe.

    `timeout` limits one answer, `patience` the retries while the server is unavailable, both in seconds. All methods raise
    ServerUnreachable after that, and the server's own errors.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout: float = 30.0, patience: float = 60.0) -> None:
        """Sends nothing yet. Raises InvalidParams for a bad address or key."""
        self.base_url = _check_address(base_url)
        self._timeout = timeout
        self._patience = patience
        self._was_reached = False
        self._http = httpx2.Client(
            base_url=self.base_url,
            headers=_authorization(api_key),
            timeout=timeout,
            trust_env=not _is_loopback(self.base_url),  # a proxy cannot reach this machine's loopback
            event_hooks={"response": [self._note_answer]},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def create(self, prompt: str, **options: Unpack[VideoOptions]) -> RemoteVideo:
        """Queues a video. Retries are safe: an Idempotency-Key lets the server recognize a repeated request.

        Raises InvalidParams, ModelNotFound and the like.
        """
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        body = _to_body({"prompt": prompt, **options})
        return read_video(self._ask("POST", "/v1/videos", retried=_AWAY, headers=headers, **body))

    def get(self, video: str | RemoteVideo) -> RemoteVideo:
        """The video's current state. Raises JobNotFound."""
        return self._look(video, until=math.inf)

    def wait(
        self, video: str | RemoteVideo, *, on_progress: OnVideo | None = None, timeout: float | None = None
    ) -> RemoteVideo:
        """Returns once the video is done. Calls `on_progress` whenever its state changes.

        Raises JobFailed, or the subclass with the server's code, if the video fails (code `cancelled` after a cancel);
        JobNotFound if it was deleted; NotDoneInTime after `timeout` seconds, even if the server stops answering after it
        reported the video's state once.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        tell = _tell_changes(on_progress)
        now = self._look(video, until)
        tell(now)
        while not now.is_done:
            with closing(self._hear(now, until)) as news:
                for now in news:
                    tell(now)
            now = self._look(now, until)
            tell(now)
            if not now.is_done:
                _pause(now, until)
        if now.status == "failed":
            raise to_job_error(now)
        return now

    def download(self, video: str | RemoteVideo, path: str | Path) -> Path:
        """Writes the video's file to `path`. An existing file is replaced only once the download is complete.

        Raises RequestRefused (code `content_unavailable`) when there is no file (yet), and StorageFailed.
        """
        path = Path(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._retry(lambda: self._stream(f"{_path_of(video)}/content", beside))
            beside.replace(path)
        except OSError as error:
            raise StorageFailed(f"The video could not be written to {str(path)!r}: {error.strerror}.") from error
        finally:
            with suppress(OSError):
                beside.unlink()
        return path

    def cancel(self, video: str | RemoteVideo) -> RemoteVideo:
        """Cancels a video within a second or so; a finished one stays as it is. Raises JobNotFound."""
        return read_video(self._ask("POST", f"{_path_of(video)}/cancel"))

    def delete(self, video: str | RemoteVideo) -> None:
        """Deletes a video and its file from the server; cancels it first if it is not done. Raises JobNotFound."""
        self._ask("DELETE", _path_of(video))

    def models(self) -> list[RemoteModel]:
        """The server's models."""
        return [read_model(each) for each in self._ask("GET", "/v1/models").get("data", [])]

    def model(self, model_id: str) -> RemoteModel:
        """One of the server's models. Raises ModelNotFound."""
        return read_model(self._ask("GET", f"/v1/models/{quote(model_id, safe='')}"))

    # One request

    def _look(self, video: str | RemoteVideo, until: float) -> RemoteVideo:
        """The video's state. Raises NotDoneInTime if no answer comes before `until` and an earlier state is known."""
        try:
            return read_video(self._ask("GET", _path_of(video), until=until))
        except ServerUnreachable:
            if isinstance(video, RemoteVideo) and not video.is_done:
                _check_time(video, until)
            raise

    def _ask(
        self, method: str, path: str, *, retried: frozenset[int] = _AWAY | _BUSY, until: float = math.inf, **content: Any
    ) -> dict[str, Any]:
        """Sends a request, and again on the statuses `retried` until `until`. Returns the server's answer."""
        try:
            request = self._http.build_request(method, path, **content)
            request.read()
        except ValueError as error:  # a lone surrogate, or NaN
            raise InvalidParams({"prompt": [f"The request cannot be written as UTF-8 and JSON: {error}."]}) from error

        def send() -> dict[str, Any]:
            request.extensions["timeout"] = self._times(until, silence=self._timeout).as_dict()
            return _read_answer(self._http.send(request), retried)

        return self._retry(send, until)

    def _times(self, until: float, *, silence: float) -> httpx2.Timeout:
        """Timeouts for an exchange that must end by `until`; `silence` is the longest wait for a byte, in seconds."""
        left = max(SHORTEST_SECONDS, until - time.monotonic())
        return httpx2.Timeout(min(self._timeout, left), read=min(silence, left))

    def _retry(self, attempt: Callable[[], T], until: float = math.inf) -> T:
        """Repeats `attempt`, with growing pauses, while the server is unavailable."""
        patience = self._patience if self._was_reached else min(self._patience, FIRST_PATIENCE_SECONDS)
        until = min(until, time.monotonic() + patience)
        for pause in _pauses():
            try:
                return attempt()
            except _TryAgain as again:
                error, pause = again.error, max(pause, again.seconds)  # noqa: PLW2901 - the server may ask for a longer one
            except httpx2.RequestError as failure:
                error = ServerUnreachable(
                    f"The server {self.base_url} does not answer: {_spell(failure)}. Check its address, and whether it runs."
                )
            if time.monotonic() + pause > until:
                raise error
            time.sleep(pause)
        raise AssertionError("pauses have no end")

    def _note_answer(self, _answer: httpx2.Response) -> None:
        self._was_reached = True

    # Streams

    def _hear(self, video: RemoteVideo, until: float) -> Generator[RemoteVideo, None, None]:
        """Yields the video's states from server-sent events, until they end or break. Errors are ignored: `wait` polls too."""
        times = self._times(until, silence=SILENCE_SECONDS)
        with (
            suppress(httpx2.RequestError),
            self._http.stream("GET", f"{_path_of(video)}/events", timeout=times) as answer,
        ):
            if not answer.is_success:
                return
            for event in httpx2.EventSource(answer):
                told = _read_event(event)
                if event.event == "end" or told.get("status") in FINAL_STATUSES:
                    return
                video = read_video({**video.answer, **told})
                yield video
                _check_time(video, until)

    def _stream(self, path: str, file: Path) -> None:
        with self._http.stream("GET", path) as answer:
            if not answer.is_success:
                answer.read()
                _read_answer(answer, _AWAY | _BUSY)
            with file.open("wb") as output:
                for chunk in answer.iter_bytes():
                    output.write(chunk)


class _TryAgain(Exception):
    """The server is unavailable or busy now; `error` is what to raise if it stays so."""

    def __init__(self, error: PromptreelError, seconds: float) -> None:
        super().__init__(error.message)
        self.error = error
        self.seconds = seconds


def _check_address(given: str) -> str:
    """The address without a trailing slash or /v1. Raises InvalidParams."""
    try:
        url = httpx2.URL(given)
        whole = url.scheme in {"http", "https"} and bool(url.host) and (url.port or 1) <= 65535
        usable = whole and not url.query and not url.fragment and " " not in given
    except (httpx2.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise InvalidParams({"base_url": [f"{given!r} is not a server's address: give one such as http://127.0.0.1:8000."]})
    return given.rstrip("/").removesuffix("/v1")


def _authorization(api_key: str | None) -> dict[str, str]:
    """The header for a key. Raises InvalidParams, whose message does not contain the key."""
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidParams({"api_key": ["The API key contains invalid characters: copy it again."]})
    return {"Authorization": f"Bearer {key}"} if key else {}


def _is_loopback(base_url: str) -> bool:
    host = httpx2.URL(base_url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost" or host.endswith(".localhost")


def _path_of(video: str | RemoteVideo) -> str:
    return f"/v1/videos/{quote(video if isinstance(video, str) else video.id, safe='')}"


def _to_body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON, or a multipart form if there is a file to send. Raises InvalidParams if the file cannot be read."""
    given = {name: value for name, value in fields.items() if value is not None}
    reference = given.get("input_reference")
    if not isinstance(reference, Path | bytes):
        return {"json": given}
    del given["input_reference"]
    try:
        data = reference if isinstance(reference, bytes) else reference.read_bytes()
    except OSError as error:
        why = f"The input reference {str(reference)!r} cannot be read: {error.strerror}."
        raise InvalidParams({"input_reference": [why]}) from error
    return {"data": given, "files": {"input_reference": ("input_reference", data)}}


def _read_answer(answer: httpx2.Response, retried: frozenset[int]) -> dict[str, Any]:
    """The answer's JSON object. Raises _TryAgain for the statuses `retried`, else the answer's error."""
    try:
        told = answer.json()
    except ValueError:
        told = None
    if answer.is_success and isinstance(told, dict):
        return told
    seconds = _retry_after(answer)
    error = to_refusal(answer.status_code, told, retry_after=seconds)
    if answer.status_code in retried:
        raise _TryAgain(error, seconds or 0)
    raise error


def _retry_after(answer: httpx2.Response) -> float | None:
    """The header's seconds; None if it is missing or a date."""
    sent = answer.headers.get("Retry-After", "")
    return float(sent) if sent.isascii() and sent.isdigit() else None


def _read_event(event: httpx2.ServerSentEvent) -> dict[str, Any]:
    """The fields that have changed; empty for an unknown event."""
    try:
        told = json.loads(event.data) if event.event in {"stage", "progress"} else {}
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _tell_changes(on_progress: OnVideo | None) -> OnVideo:
    """Wraps `on_progress` to skip states that equal the last one."""
    told: list[RemoteVideo] = []

    def tell(video: RemoteVideo) -> None:
        if on_progress is not None and told != [video]:
            told[:] = [video]
            on_progress(video)

    return tell


def _check_time(video: RemoteVideo, until: float) -> None:
    """Raises NotDoneInTime."""
    if time.monotonic() >= until:
        state = f"{video.stage or video.status}, {video.progress} %"
        raise NotDoneInTime(f"{video.id} is not done yet ({state}). It goes on: wait for it again, or cancel it.")


def _pause(video: RemoteVideo, until: float) -> None:
    """Raises NotDoneInTime."""
    _check_time(video, until)
    time.sleep(max(0.0, min(POLL_SECONDS, until - time.monotonic())))


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * 1.6, LONGEST_PAUSE_SECONDS)


def _spell(failure: httpx2.RequestError) -> str:
    """The failure's message, or its type if it has none."""
    return str(failure) or type(failure).__name__
