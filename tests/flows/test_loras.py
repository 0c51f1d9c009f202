"""LoRAs: imported by command, named in a request, side by side with others, gone when nobody asks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.encoding.video import read_metadata
from promptreel.generation.engine import Engine
from promptreel.models.registry import ModelRegistry
from tests.command_line import run_promptreel as run
from tests.flows.service import SHORT, Service
from tests.generation import loras
from tests.generation.conftest import CPU
from tests.generation.loras import draw_lora, save_lora

SMALL = {**SHORT, "width": 64, "height": 64, "num_inference_steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def folder(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of the files of the LoRAs that the service, which runs, has during these tests."""
    folder = tmp_path_factory.mktemp("loras")
    model = Engine(ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=folder / "none"), CPU).load("cutout")
    save_lora(folder / "sharp.safetensors", draw_lora(model, seed=1))
    save_lora(folder / "soft.safetensors", draw_lora(model, loras.diffusers, seed=2))
    names = {"sharp": ["--trigger-words", "paper"], "soft": []}
    for name, more in names.items():
        added = run("models", "add", folder / f"{name}.safetensors", "--data-dir", service.data_dir, *more)
        assert added.returncode == 0, added.stderr
    yield folder
    for name in names:
        removed = run("models", "remove", name, "--data-dir", service.data_dir)
        assert removed.returncode == 0, removed.stderr


def make(service: Service, **fields: object) -> tuple[bytes, dict[str, Any]]:
    done = service.finish(service.ask(**SMALL, **fields))
    return service.download(done), done["meta"]


def test_lora_changes_the_video_and_leaves_nothing_behind(service: Service, folder: Path, tmp_path: Path) -> None:
    before, _ = make(service)
    changed, meta = make(service, lora_model="sharp", lora_strength="0.7")
    both, _ = make(service, lora_model="sharp,soft", lora_strength="0.7,0.2")
    again, _ = make(service, lora_model="sharp", lora_strength=0.7)
    after, _ = make(service)

    assert (meta["lora_model"], meta["lora_strength"]) == ("sharp", "0.7")
    assert meta["prompt"].startswith("paper")
    assert before == after
    assert changed == again
    assert len({before, changed, both}) == 3
    (tmp_path / "video.mp4").write_bytes(changed)
    told = read_metadata(tmp_path / "video.mp4")
    assert told["loras"] == [{"model_id": "sharp", "strength": 0.7}]
    sha256 = hashlib.sha256((folder / "sharp.safetensors").read_bytes()).hexdigest()
    assert told["lora_sha256"] == {"sharp": sha256}


@pytest.mark.usefixtures("folder")
def test_requests_with_other_loras_run_side_by_side_and_have_the_bytes_that_they_have_alone(service: Service) -> None:
    wishes: list[dict[str, object]] = [{}, {"lora_model": "sharp"}, {"lora_model": "soft"}, {"lora_model": "sharp,soft"}]
    alone = [make(service, **wish)[0] for wish in wishes]
    together = [service.ask(**SMALL, **wish) for wish in wishes]

    assert [service.download(service.finish(answer)) for answer in together] == alone
    assert len(set(alone)) == 4


@pytest.mark.usefixtures("folder")
def test_openais_api_and_the_command_line_take_loras_too(service: Service, tmp_path: Path) -> None:
    body = {"prompt": "a red ball", "size": "64x64", "num_frames": 4, "num_inference_steps": 2, "seed": 3}
    asked = httpx.post(f"{service.url}/v1/videos", json=body | {"loras": [{"model": "sharp", "strength": 0.5}]})
    video = asked.json()
    assert video["loras"] == [{"model": "sharp", "strength": 0.5}]
    remixed = httpx.post(f"{service.url}/v1/videos/{video['id']}/remix", json={"prompt": "a blue cat"}).json()
    assert remixed["loras"] == video["loras"]
    made = run(
        "generate", "a red ball", "-o", tmp_path / "a.mp4", "--lora", "sharp:0.5", "--frames", 4, "--fps", 8, "--steps", 2,
        "--seed", 3, "--width", 64, "--height", 64, "--no-enhance-prompt", "--server", service.url,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with httpx.Client(base_url=service.url) as client:
        while client.get(f"/v1/videos/{video['id']}").json()["status"] != "completed":
            pass
        content = client.get(f"/v1/videos/{video['id']}/content").content
    assert (tmp_path / "a.mp4").read_bytes() == content


@pytest.mark.usefixtures("folder")
def test_lora_of_a_waiting_job_is_not_removed(service: Service) -> None:
    answer = service.ask(**{**SMALL, "num_frames": 240, "num_inference_steps": 50}, lora_model="soft")
    refused = run("models", "remove", "soft", "--data-dir", service.data_dir)

    assert refused.returncode == 2
    assert "needs the model 'soft'" in refused.stderr
    httpx.post(f"{service.url}/v1/videos/video_{answer['id']}/cancel").raise_for_status()
    service.finish(answer)
