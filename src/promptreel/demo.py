"""`python -m promptreel.demo`: starts the service, requests a video as any client would, and downloads the file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from promptreel.bootstrap import check_worker_extra
from promptreel.errors import BadConfiguration

FOLDER = Path("demo-out")
VIDEO_NAME = "a-cat-sitting-on-a-bench.mp4"
READY = re.compile(r"^Promptreel is ready on (\S+) ", re.MULTILINE)
START_SECONDS = 180.0
STOP_SECONDS = 40.0  # the supervisor gives its children 30
MAKE_SECONDS = 900.0
ANSWER_SECONDS = 30.0
POLL_SECONDS = 0.5
LOG_LINES_SHOWN = 30

# Mixes strings, numbers and nulls, as the hosted service's documentation does.
REQUEST: dict[str, Any] = {
    "key": "any key will do",
    "model_id": "cutout",
    "prompt": "a cat sitting on a bench",
    "negative_prompt": None,
    "height": "512",
    "width": "512",
    "num_inference_steps": "20",
    "guidance_scale": 7.5,
    "scheduler": "UniPCMultistepScheduler",
    "enhance_prompt": "no",
    "strength": 0.55,
    "seed": None,
    "webhook": None,
    "track_id": None,
}


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True)
class Playable:
    """The properties of a video file that can be decoded."""

    frames: int
    width: int
    height: int
    fps: float


def main(asked: dict[str, Any] = REQUEST) -> int:
    """Returns the exit code."""
    video = FOLDER / VIDEO_NAME
    try:
        check_worker_extra()
        FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="promptreel-demo-") as data_dir:
            _say("starting the service ...")
            with running_service(Path(data_dir), FOLDER / "service.log") as url:
                _say(f"it is ready on {url}; asking for: {asked['prompt']}")
                started = time.monotonic()
                success = make_video(url, asked)
                seconds = time.monotonic() - started
                download(success["output"][0], video)
        seen = decode(video)
    except (
        DemoFailed,
        BadConfiguration,
        OSError,
        ValueError,
        HTTPException,
    ) as error:  # the last three: from urllib and json
        print(f"The demo failed: {error}", file=sys.stderr)  # noqa: T201
        return 1
    _say(
        f"{video}: {seen.frames} frames, {seen.width}x{seen.height}, {seen.fps:g} fps, "
        f"seed {success['meta']['seed']}, made in {seconds:.1f} s"
    )
    _say("now make your own: `promptreel serve --open` opens the page, http://127.0.0.1:8000/")
    return 0


@contextmanager
def running_service(data_dir: Path, log: Path, **settings: object) -> Iterator[str]:
    """Runs a service on a free port during the block. Yields its URL once it is ready. Raises DemoFailed."""
    service = start_service(data_dir, log, **settings)
    try:
        yield wait_until_ready(service, log)
    finally:
        stop_service(service)


def start_service(data_dir: Path, log: Path, **settings: object) -> subprocess.Popen[bytes]:
    """Starts `promptreel serve` with these settings, by default on a free port. Its output goes to `log`.

    Ignores this process's PROMPTREEL_ variables except PROMPTREEL_THREADS, so that the demo is the same everywhere.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTREEL_")}
    settings = {"host": "127.0.0.1", "port": 0, "data_dir": data_dir} | settings
    if threads := os.environ.get("PROMPTREEL_THREADS"):
        settings.setdefault("threads", threads)
    environment = inherited | {f"PROMPTREEL_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "promptreel.cli", "serve"]
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)  # noqa: S603 - our own


def wait_until_ready(service: subprocess.Popen[bytes], log: Path, *, seconds: float = START_SECONDS) -> str:
    """The URL from the ready line. Raises DemoFailed, with the end of the log, if it does not appear in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended = service.poll() is not None  # read before the log: then the log is complete
        if ready := READY.search(_read(log)):
            return ready[1]
        if ended:
            raise DemoFailed(f"the service ended with code {service.returncode}. {_end_of(log)}")
        time.sleep(0.1)
    raise DemoFailed(f"the service was not ready after {seconds:.0f} s. {_end_of(log)}")


def stop_service(service: subprocess.Popen[bytes]) -> int:
    """Sends SIGTERM, and SIGKILL if that does not help. Returns the exit code."""
    service.terminate()
    try:
        return service.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        service.kill()
        return service.wait()


def make_video(url: str, asked: dict[str, Any] = REQUEST) -> dict[str, Any]:
    """Posts the request, and polls until the job succeeds. Returns the answer with `output`. Raises DemoFailed."""
    answer = post(f"{url}/api/v4/dreambooth/text2video", asked)
    deadline = time.monotonic() + MAKE_SECONDS
    fetch_result = answer.get("fetch_result", "")
    shown = None
    while answer["status"] == "processing":
        if time.monotonic() > deadline:
            raise DemoFailed(f"no video after {MAKE_SECONDS:.0f} s; job {answer['id']} is still processing")
        if answer["eta"] != shown:
            shown = answer["eta"]
            _say(f"job {answer['id']}: processing, eta {shown} s")
        time.sleep(POLL_SECONDS)
        answer = post(fetch_result, {"key": REQUEST["key"]})
    if answer["status"] != "success":
        raise DemoFailed(f"the service answered {answer['status']}: {answer.get('message')}")
    return answer


def download(url: str, path: Path) -> None:
    with open_url(urllib.request.Request(url)) as answer, path.open("wb") as file:  # noqa: S310 - the service's own link
        shutil.copyfileobj(answer, file)


def decode(path: Path) -> Playable:
    """Decodes the whole file. Raises DemoFailed if that fails."""
    import av  # noqa: PLC0415 - `main` first checks for the extra `worker`

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = sum(1 for _ in container.decode(stream))
            return Playable(frames, stream.width, stream.height, float(stream.average_rate or 0))
    except (av.error.FFmpegError, IndexError) as error:
        raise DemoFailed(f"{path} cannot be played: {error}") from error


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Posts a JSON body. Returns the JSON answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with open_url(request) as answer:
        fields: dict[str, Any] = json.load(answer)
        return fields


def open_url(request: urllib.request.Request) -> Any:
    """Opens a URL without the environment's proxies, because the service is on this machine."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=ANSWER_SECONDS)


def _read(log: Path) -> str:
    return log.read_text(errors="replace")


def _end_of(log: Path) -> str:
    lines = _read(log).splitlines()[-LOG_LINES_SHOWN:]
    return "\n    ".join([f"The end of its log, {log}:", *lines])


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
