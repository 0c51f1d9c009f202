"""A client for a Promptreel server, over `/v1/videos`: creates videos, waits for them and downloads them.

    with Client("http://127.0.0.1:8000") as client:
        video = client.wait(client.create("a red cat sitting on a bench"))
        client.download(video, "cat.mp4")

Requests are retried while the server is unavailable, for instance during a restart. The methods raise the errors of
errors.py. An error from the server keeps the server's code and message.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
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
"""The longest time to retry before the server's first answer. Shorter than `patience`, because the address may be wrong."""
POLL_SECONDS = 2.0
SILENCE_SECONDS = 45.0
"""After this much silence, a stream of events counts as broken. A healthy server sends something every 15 s."""
SHORTEST_TIMEOUT_SECONDS = 0.05
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 3.0

UNAVAILABLE = frozenset({502, 503, 504})  # from the server, or from a proxy while the server restarts
_RETRIED = UNAVAILABLE | {429}


class VideoOptions(TypedDict, total=False):
    """A request's options besides the prompt. For an option that is missing or None, the server uses its default.

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
    loras: Sequence[str | Mapping[str, Any]] | None
    embeddings: Sequence[str] | None
    output_type: str | None
    input_reference: Path | bytes | str | None
    strength: float | None
    webhook: str | None


class Client:
    """A client for the server at `base_url`, such as https://video.example.com. Thread-safe.

    `timeout` is the longest wait for a connection or for data, in seconds. While the server is unavailable, a request is
    retried for `patience` seconds. Every method may raise ServerUnreachable and the server's own errors.
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

        Raises InvalidParams for bad options, and ModelNotFound.
        """
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        body = _to_body({"prompt": prompt, **options})
        return read_video(self._ask("POST", "/v1/videos", retry_on=UNAVAILABLE, headers=headers, **body))

    def get(self, video: str | RemoteVideo) -> RemoteVideo:
        """The video's current state. Raises JobNotFound."""
        return self._poll(video, deadline=math.inf)

    def wait(
        self, video: str | RemoteVideo, *, on_progress: OnVideo | None = None, timeout: float | None = None
    ) -> RemoteVideo:
        """Returns once the video is done. Calls `on_progress` whenever its state changes.

        Raises JobFailed if the video fails, or the subclass with the server's code; the code is `cancelled` after a cancel.
        Raises JobNotFound if the video was deleted. Raises NotDoneInTime after `timeout` seconds.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        report = _skip_repeated(on_progress)
        latest = self._poll(video, deadline)
        report(latest)
        while not latest.is_done:
            with closing(self._stream_updates(latest, deadline)) as updates:
                for latest in updates:
                    report(latest)
            latest = self._poll(latest, deadline)
            report(latest)
            if not latest.is_done:
                _sleep_until_next_poll(latest, deadline)
        if latest.status == "failed":
            raise to_job_error(latest)
        return latest

    def download(self, video: str | RemoteVideo, path: str | Path) -> Path:
        """Writes the video's file to `path`. An existing file is replaced only once the download is complete.

        Raises RequestRefused with the code `content_unavailable` if the video has no file or none yet, and StorageFailed if
        the file cannot be written.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._retry(lambda: self._download_to(partial, f"{_path_of(video)}/content"))
            partial.replace(path)
        except OSError as error:
            raise StorageFailed(f"The video could not be written to {str(path)!r}: {error.strerror}.") from error
        finally:
            with suppress(OSError):
                partial.unlink()
        return path

    def cancel(self, video: str | RemoteVideo) -> RemoteVideo:
        """Cancels a video, which takes about a second. A finished video stays as it is. Raises JobNotFound."""
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

    def _poll(self, video: str | RemoteVideo, deadline: float) -> RemoteVideo:
        """The video's current state. If the server is unreachable until `deadline`, raises NotDoneInTime for a RemoteVideo that
        is not done (the message gives its last known state), else ServerUnreachable.
        """
        try:
            return read_video(self._ask("GET", _path_of(video), deadline=deadline))
        except ServerUnreachable:
            if isinstance(video, RemoteVideo) and not video.is_done:
                _check_deadline(video, deadline)
            raise

    def _ask(
        self, method: str, path: str, *, retry_on: frozenset[int] = _RETRIED, deadline: float = math.inf, **content: Any
    ) -> dict[str, Any]:
        """Sends a request and returns the answer's JSON object. Retries the statuses in `retry_on` until `deadline`."""
        request = self._http.build_request(method, path, **content)

        def send() -> dict[str, Any]:
            request.extensions["timeout"] = self._timeouts(deadline, silence=self._timeout).as_dict()
            return _read_answer(self._http.send(request), retry_on)

        return self._retry(send, deadline)

    def _timeouts(self, deadline: float, *, silence: float) -> httpx2.Timeout:
        """The timeouts of a request that starts now. `silence` is the longest wait for data, in seconds."""
        left = max(SHORTEST_TIMEOUT_SECONDS, deadline - time.monotonic())
        return httpx2.Timeout(min(self._timeout, left), read=min(silence, left))

    def _retry(self, attempt: Callable[[], T], deadline: float = math.inf) -> T:
        """Repeats `attempt`, with growing pauses, while the server is unavailable."""
        patience = self._patience if self._was_reached else min(self._patience, FIRST_PATIENCE_SECONDS)
        deadline = min(deadline, time.monotonic() + patience)
        for pause in _pauses():
            try:
                return attempt()
            except _RetryLater as later:
                error = later.error
                pause = max(pause, later.retry_after)  # noqa: PLW2901 - the server may ask for a longer one
            except httpx2.RequestError as failure:
                error = ServerUnreachable(
                    f"The server {self.base_url} does not answer: {_describe(failure)}. Check its address, and whether it runs."
                )
            if time.monotonic() + pause > deadline:
                raise error
            time.sleep(pause)
        raise AssertionError("pauses have no end")

    def _note_answer(self, _answer: httpx2.Response) -> None:
        self._was_reached = True

    # Streams

    def _stream_updates(self, video: RemoteVideo, deadline: float) -> Generator[RemoteVideo, None, None]:
        """Yields the video's new states from server-sent events. A broken stream just ends, because `wait` polls as well.

        Raises NotDoneInTime.
        """
        timeouts = self._timeouts(deadline, silence=SILENCE_SECONDS)
        with (
            suppress(httpx2.RequestError),
            self._http.stream("GET", f"{_path_of(video)}/events", timeout=timeouts) as answer,
        ):
            if not answer.is_success:
                return
            for event in httpx2.EventSource(answer):
                changes = _read_event(event)
                if event.event == "end" or changes.get("status") in FINAL_STATUSES:
                    return
                video = read_video({**video.answer, **changes})
                yield video
                _check_deadline(video, deadline)

    def _download_to(self, file: Path, path: str) -> None:
        with self._http.stream("GET", path) as answer:
            if not answer.is_success:
                answer.read()
                _read_answer(answer, _RETRIED)
            with file.open("wb") as output:
                for chunk in answer.iter_bytes():
                    output.write(chunk)


class _RetryLater(Exception):
    """The server cannot answer now. A retry may help after `retry_after` seconds; if none does, `error` is raised."""

    def __init__(self, error: PromptreelError, retry_after: float) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after = retry_after


def _check_address(given: str) -> str:
    """The address without a trailing slash or /v1. Raises InvalidParams."""
    try:
        url = httpx2.URL(given)
        has_host = url.scheme in {"http", "https"} and bool(url.host) and (url.port or 1) <= 65535
        usable = has_host and not url.query and not url.fragment and " " not in given
    except (httpx2.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise InvalidParams({"base_url": [f"{given!r} is not a server's address: give one such as http://127.0.0.1:8000."]})
    return given.rstrip("/").removesuffix("/v1")


def _authorization(api_key: str | None) -> dict[str, str]:
    """The Authorization header. Raises InvalidParams for a bad key; the message does not repeat the key."""
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidParams({"api_key": ["The API key contains invalid characters: copy it again."]})
    return {"Authorization": f"Bearer {key}"} if key else {}


def _is_loopback(base_url: str) -> bool:
    host = httpx2.URL(base_url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a host name
        return host == "localhost" or host.endswith(".localhost")


def _path_of(video: str | RemoteVideo) -> str:
    return f"/v1/videos/{quote(video if isinstance(video, str) else video.id, safe='')}"


def _to_body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The body as JSON, or as a multipart form if it contains a file.

    Raises InvalidParams for values that cannot be sent, and for a file that cannot be read.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    reference = given.get("input_reference")
    if not isinstance(reference, Path | bytes):
        _check_encodable(given)
        return {"json": given}
    del given["input_reference"]
    _check_encodable(given)
    try:
        data = reference if isinstance(reference, bytes) else reference.read_bytes()
    except OSError as error:
        why = f"The input reference {str(reference)!r} cannot be read: {error.strerror}."
        raise InvalidParams({"input_reference": [why]}) from error
    return {"data": given, "files": {"input_reference": ("input_reference", data)}}


def _check_encodable(fields: Mapping[str, Any]) -> None:
    """Raises InvalidParams for values that JSON or UTF-8 cannot express: NaN, infinity and lone surrogates."""
    bad: dict[str, list[str]] = {}
    for name, value in fields.items():
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:
            bad[name] = [f"The {name} cannot be written as UTF-8 and JSON: {error}."]
    if bad:
        raise InvalidParams(bad)


def _read_answer(answer: httpx2.Response, retry_on: frozenset[int]) -> dict[str, Any]:
    """The answer's JSON object. Raises _RetryLater for a status in `retry_on`, and the answer's error for any other."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if answer.is_success and isinstance(body, dict):
        return body
    retry_after = _retry_after(answer)
    error = to_refusal(answer.status_code, body, retry_after=retry_after)
    if answer.status_code in retry_on:
        raise _RetryLater(error, retry_after or 0)
    raise error


def _retry_after(answer: httpx2.Response) -> float | None:
    """Retry-After in seconds. None if the header is missing or holds a date."""
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _read_event(event: httpx2.ServerSentEvent) -> dict[str, Any]:
    """The changed fields of the video; empty for an event of an unknown type."""
    try:
        changes = json.loads(event.data) if event.event in {"stage", "progress"} else {}
    except ValueError:
        return {}
    return changes if isinstance(changes, dict) else {}


def _skip_repeated(on_progress: OnVideo | None) -> OnVideo:
    """Wraps `on_progress` so that it is not called twice in a row with the same state."""
    last: RemoteVideo | None = None

    def report(video: RemoteVideo) -> None:
        nonlocal last
        if on_progress is not None and video != last:
            last = video
            on_progress(video)

    return report


def _check_deadline(video: RemoteVideo, deadline: float) -> None:
    """Raises NotDoneInTime."""
    if time.monotonic() >= deadline:
        state = f"{video.stage or video.status}, {video.progress} %"
        raise NotDoneInTime(f"{video.id} is not done yet ({state}). It goes on: wait for it again, or cancel it.")


def _sleep_until_next_poll(video: RemoteVideo, deadline: float) -> None:
    """Raises NotDoneInTime."""
    _check_deadline(video, deadline)
    time.sleep(max(0.0, min(POLL_SECONDS, deadline - time.monotonic())))


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * 1.6, LONGEST_PAUSE_SECONDS)


def _describe(failure: httpx2.RequestError) -> str:
    """The failure's message, or its type if it has none."""
    return str(failure) or type(failure).__name__
