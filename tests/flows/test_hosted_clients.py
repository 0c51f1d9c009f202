"""The vendor's own clients, as they are on PyPI, against a running service: only the address is another one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelslab_py.core.apis.video import Video
from modelslab_py.core.client import Client
from modelslab_py.schemas.video import (
    Image2Video,
    Image2VideoUltra,
    Text2Video,
    Text2VideoUltra,
    WatermarkRemoverSchema,
)

from tests.encoding.files import encode_image, encode_video
from tests.flows.service import SHORT, Service, decode
from tests.models.checkpoints import make_card
from tests.waiting import LONGEST_SECONDS

PROMPT = str(SHORT["prompt"])
# Of a model that is not here: v6 replaces it.
BY_THE_SDK: dict[str, Any] = {**SHORT, "model_id": "zeroscope"}
RED = np.full((2, 96, 96, 3), (200, 40, 40), np.uint8)
PICTURE_BASE64 = b64encode(encode_image(RED[0])).decode()
PICTURE = f"data:image/png;base64,{PICTURE_BASE64}"
CLIP = f"data:video/mp4;base64,{b64encode(encode_video(RED)).decode()}"

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def broken_model(service: Service) -> Iterator[str]:
    """A model that has a card and no weights: its jobs are taken, and fail."""
    folder = make_card(service.data_dir / "models" / "broken")
    yield folder.name
    shutil.rmtree(folder)


@pytest.fixture
def sdk(service: Service) -> Client:
    return make_sdk(service, "any")


@pytest.fixture
def modelslab(service: Service, tmp_path: Path) -> CommandLine:
    return make_command_line(service, "any", tmp_path)


def make_sdk(service: Service, key: str) -> Client:
    client = Client(key, fetch_retry=2000, fetch_timeout=0.1)  # a fetch every tenth of a second, instead of every minute
    client.base_url = f"{service.url}/api/"
    return client


def make_command_line(service: Service, key: str, folder: Path) -> CommandLine:
    """Runs `modelslab generate` with these arguments, or another command if the first one is `models`, in this folder."""
    command = [str(Path(sys.executable).with_name("modelslab")), "--base-url", service.url, "--api-key", key]
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"]}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "--no-update-check", *(() if arguments[0] == "models" else ("generate",)), *arguments],
            check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=LONGEST_SECONDS,
        )  # fmt: skip

    return run


def test_command_line_generates_and_downloads(modelslab: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    size = ("--width", "64", "--height", "64")  # it has no options for fewer frames or steps
    done = modelslab("video", "--prompt", PROMPT, *size, "--download", "--output-dir", str(folder))

    assert done.returncode == 0, done.stderr
    (file,) = folder.iterdir()
    assert str(file) in done.stdout
    frames, fps = decode(file.read_bytes())
    assert (frames.shape, fps) == ((25, 64, 64, 3), 8)


def test_command_line_finds_and_describes_models(modelslab: CommandLine) -> None:
    found, described = modelslab("models", "search", "--search", "cut"), modelslab("models", "detail", "--id", "cutout")

    assert "1 results (1 total)" in found.stdout
    assert "Cutout" in found.stdout
    assert described.stdout.splitlines()[0].split() == ["model_id:", "cutout"]
    assert modelslab("models", "detail", "--id", "nowhere").returncode != 0


def test_command_line_lists_what_models_can_be_searched_by(modelslab: CommandLine) -> None:
    lists = {name: modelslab("models", name) for name in ("providers", "tags", "filters")}
    filters = json.loads(lists["filters"].stdout)["data"]
    found = modelslab("models", "search", "--model-type", filters["model_type"][0], "--provider", "promptreel")

    assert [done.returncode for done in lists.values()] == [0, 0, 0]
    assert (lists["providers"].stdout, lists["tags"].stdout) == ("promptreel\n", "")
    assert (filters["model_type"], filters["model_subcategory"]) == (["animatediff"], ["checkpoint"])
    assert "cutout" in found.stdout
    assert "0 results (0 total)" in modelslab("models", "search", "--base-model", "sdxl").stdout


def test_command_line_reports_a_failing_job_with_its_reason(modelslab: CommandLine, broken_model: str, tmp_path: Path) -> None:
    done = modelslab("video", "--prompt", PROMPT, "--model", broken_model, "--output-dir", str(tmp_path / "videos"))

    assert done.returncode == 1
    assert "model_index.json" in done.stderr
    assert not (tmp_path / "videos").exists()


def test_command_line_stops_on_what_is_refused(modelslab: CommandLine) -> None:
    unknown_model = modelslab("video", "--prompt", PROMPT, "--model", "nowhere")
    too_wide = modelslab("video", "--prompt", PROMPT, "--width", "5000")

    assert (unknown_model.returncode, "Model not found" in unknown_model.stderr) == (5, True)
    assert (too_wide.returncode, "The width must not be greater than 1024." in too_wide.stderr) == (1, True)


def test_command_line_starts_from_a_picture_and_asks_later(service: Service, modelslab: CommandLine) -> None:
    with service.no_job_begins():
        queued = modelslab("image-to-video", "--prompt", PROMPT, "--init-image", PICTURE, "--no-wait")
        (job,) = service.jobs.list(limit=1)
        running = modelslab("fetch", "--id", str(job.id), "--type", "video")
        service.jobs.cancel(job.id)

    assert f"Job queued: {job.id}" in queued.stdout
    assert job.params.init_key is not None
    assert (running.returncode, running.stdout.splitlines()[0]) == (0, "Status: processing")


@pytest.mark.parametrize("enterprise", [False, True])
def test_sdk_generates_through_its_base_url(service: Service, sdk: Client, enterprise: bool) -> None:
    video = Video(sdk, enterprise=enterprise)
    answer = video.text_to_video(Text2Video(**BY_THE_SDK, track_id="order 7"))
    done = video.fetch(str(answer["id"]))

    assert (answer["status"], done["status"]) == ("processing", "success")
    assert service.job(answer).track_id == "order 7"
    frames, _ = decode(service.download(done))
    assert frames.shape == (4, 96, 96, 3)


def test_sdk_starts_from_a_picture_and_hears_what_is_wrong(service: Service, sdk: Client) -> None:
    video = Video(sdk)
    body = BY_THE_SDK | {"num_inference_steps": 8, "guidance_scale": 1}
    answer = video.image_to_video(Image2Video(**body, init_image=PICTURE, strength=0.2))
    refused = video.image_to_video(Image2Video(**body))

    assert refused["message"] == {"init_image": ["The init image field is required."]}
    frames, _ = decode(service.download(video.fetch(str(answer["id"]))))
    assert np.abs(frames[0].astype(float).mean((0, 1)) - (200, 40, 40)).max() < 60


@pytest.mark.parametrize("enterprise", [False, True])
def test_sdk_asks_for_ultra_videos(service: Service, sdk: Client, enterprise: bool) -> None:
    video = Video(sdk, enterprise=enterprise)
    ultra = SHORT | {"resolution": 64, "portrait": True, "sample_shift": 3}
    from_text = video.text_to_video_ultra(Text2VideoUltra(**ultra))
    from_picture = video.image_to_video_ultra(Image2VideoUltra(**ultra, init_image=PICTURE))

    for answer in (from_text, from_picture):
        frames, _ = decode(service.download(video.fetch(str(answer["id"]))))
        assert frames.shape == (4, 112, 64, 3)


def test_sdk_hears_what_this_service_does_not_do(sdk: Client) -> None:
    """And what it does for enterprises."""
    refused = Video(sdk).watermark_remover(WatermarkRemoverSchema(init_video="https://videos.example/1.mp4"))
    enterprise = Video(sdk, enterprise=True)

    assert (refused["status"], refused["message"].split(":")[0]) == ("error", "Watermarks are not removed here")
    assert enterprise.system_details()["status"] == "ok"
    for answer in (enterprise.restart(), enterprise.update(), enterprise.clear_cache(), enterprise.clear_queue()):
        assert answer["status"] == "error"


def test_command_line_makes_a_video_of_a_video(service: Service, modelslab: CommandLine) -> None:
    with service.no_job_begins():
        queued = modelslab("video-to-video", "--prompt", PROMPT, "--init-video", CLIP, "--no-wait")
        (job,) = service.jobs.list(limit=1)
        service.jobs.cancel(job.id)

    assert f"Job queued: {job.id}" in queued.stdout
    assert (job.params.init_key or "").startswith("inits/video/")


@pytest.mark.parametrize(
    ("path", "started_from"),
    [
        ("/api/v6/video/img2video", {"init_image": PICTURE_BASE64, "base64": True}),
        ("/api/v1/enterprise/video/img2video", {"init_image": PICTURE}),
        ("/api/v7/video-fusion/image-to-video", {"init_image": [PICTURE]}),
        ("/api/v6/video/video2video", {"init_video": CLIP}),
    ],
)
def test_clip_is_made_without_a_prompt(service: Service, path: str, started_from: dict[str, Any]) -> None:
    """It is as red as what it started from."""
    body = SHORT | {"model_id": "cutout", "num_frames": 2, "strength": 0.2, "num_inference_steps": 5, "enhance_prompt": "yes"}
    del body["prompt"]
    answer = service.client.post(service.url + path, json=body | started_from).json()
    success = service.finish(answer)

    frames, _ = decode(service.download(success))
    assert (success["meta"]["prompt"], len(frames)) == ("", 2)
    assert np.abs(frames[0].astype(float).mean((0, 1)) - (200, 40, 40)).max() < 60
