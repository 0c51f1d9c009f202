"""A Wan checkpoint as a hub has it: imported over HTTP, made videos with, and deleted."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from tests.fetching.file_host import FileHost
from tests.flows.service import Service, decode
from tests.generation.wan_checkpoints import WIDTH, make_tiny_wan
from tests.waiting import wait_for

SMALL: dict[str, Any] = {"width": 64, "height": 64, "num_frames": 8, "num_inference_steps": 2, "seed": 3}


def read_files(folder: Path) -> dict[str, bytes]:
    (folder / "promptreel.json").unlink()
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def picture() -> str:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def lora() -> bytes:
    layer = "diffusion_model.blocks.0.self_attn.q"
    generator = np.random.default_rng(0)
    down, up = (generator.standard_normal(shape, np.float32) for shape in ((2, WIDTH), (WIDTH, 2)))
    return save({f"{layer}.lora_down.weight": 9 * down, f"{layer}.lora_up.weight": 9 * up, f"{layer}.alpha": np.float32([2])})


@pytest.mark.parametrize("kind", ["t2v-a14b", "i2v"])
def test_wan_of_a_hub_makes_videos(calling_service: Service, file_host: FileHost, tmp_path: Path, kind: str) -> None:
    service = calling_service
    file_host.repositories[f"Wan-AI/{kind}"] = read_files(make_tiny_wan(tmp_path / kind, kind))
    file_host.repositories["me/lora"] = {"lora.safetensors": lora()}
    service.client.post(f"{service.url}/v1/models", json={"source": f"Wan-AI/{kind}", "id": kind})
    models = wait_for(
        lambda: [each for each in service.client.get(f"{service.url}/v1/models").json()["data"] if each["id"] == kind]
    )
    assert (models[0]["max_frames"], models[0]["fps"]) == (81, 16)

    service.client.post(f"{service.url}/v1/models", json={"source": "me/lora", "id": f"{kind}-lora", "expert": "high_noise"})
    given = {"init_image": picture()} if kind == "i2v" else {}
    made = service.make(prompt="a red cat", model_id=kind, guidance_scale=7.5, **SMALL, **given)
    frames, rate = decode(service.download(made))

    assert frames.shape == (9, 64, 64, 3)
    assert rate == 16
    assert made["meta"]["guidance_scale"] == (4.0 if kind == "t2v-a14b" else 5.0)
    assert made["meta"]["num_frames"] == 9
    wait_for(lambda: service.client.get(f"{service.url}/v1/models/{kind}-lora").status_code == 200)
    changed = service.make(prompt="a red cat", model_id=kind, lora_model=f"{kind}-lora", **SMALL, **given)
    assert changed["meta"]["lora_model"] == f"{kind}-lora"
    assert not np.array_equal(decode(service.download(changed))[0], frames)
    if kind == "i2v":
        lacking = service.ask(prompt="a red cat", model_id=kind, **SMALL)
        failed = service.finish(lacking)
        assert "makes videos from a picture: send one" in failed["message"]
    deleted = service.client.post(f"{service.url}/api/v1/enterprise/delete_model", json={"model_id": kind}).json()
    assert deleted["status"] == "success"
