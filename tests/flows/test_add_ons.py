"""LoRAs and embeddings: imported, named in a request, side by side with others, gone when nobody asks for them.

One LoRA was trained: the style "night" of the built-in model's world. The others are random.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.encoding.video import read_metadata
from promptreel.generation.engine import Engine
from promptreel.models.registry import ModelRegistry
from recipes.cutout.finetune import KEPT_LORA
from recipes.cutout.styles import IS_NIGHT, nightness
from tests.command_line import run_promptreel as run
from tests.flows.service import SHORT, Service, decode
from tests.generation import loras
from tests.generation.conftest import CPU
from tests.generation.loras import draw_lora, save_lora

SMALL = {**SHORT, "width": 64, "height": 64, "num_inference_steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("loras")
    model = Engine(ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=folder / "none"), CPU).load("cutout")
    save_lora(folder / "sharp.safetensors", draw_lora(model, seed=1))
    save_lora(folder / "soft.safetensors", draw_lora(model, loras.diffusers, seed=2))
    width = model.prompts.text_encoder.config.hidden_size  # type: ignore[attr-defined]
    for name, key in (("ghost", "emb_params"), ("toy", "<cat-toy>")):
        save_file(
            {key: torch.randn((2, width), generator=torch.Generator().manual_seed(len(name)))}, folder / f"{name}.safetensors"
        )
    service = Service(folder)
    service.data_dir.mkdir()
    own = [folder / f"{name}.safetensors" for name in ("soft", "ghost", "toy")]
    for file, more in (
        (folder / "sharp.safetensors", ["--trigger-words", "paper"]),
        *((each, []) for each in (*own, KEPT_LORA)),
    ):
        added = run("models", "add", file, "--data-dir", service.data_dir, *more)
        assert added.returncode == 0, added.stderr
    twin = ("--id", "twin", "--trigger-words", "Ghost")
    assert run("models", "add", folder / "ghost.safetensors", "--data-dir", service.data_dir, *twin).returncode == 0
    service.start()
    yield service
    service.stop()


def make(service: Service, **fields: object) -> tuple[bytes, dict[str, Any]]:
    done = service.finish(service.ask(**SMALL | fields))
    return service.download(done), done["meta"]


@pytest.mark.slow
def test_lora_changes_the_video_and_leaves_nothing_behind(service: Service, tmp_path: Path) -> None:
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
    sha256 = hashlib.sha256((service.data_dir.parent / "sharp.safetensors").read_bytes()).hexdigest()
    assert told["lora_sha256"] == {"sharp": sha256}


@pytest.mark.slow
def test_trained_style_is_seen_in_the_clips_that_ask_for_it_and_in_no_others(service: Service) -> None:
    queued = [service.ask(**SMALL | {"num_inference_steps": 8}, **wish) for wish in ({}, {"lora_model": "night-lora"}, {})]
    plain, night, again = (service.download(service.finish(answer)) for answer in queued)

    assert plain == again
    assert nightness(decode(plain)[0]) < IS_NIGHT < nightness(decode(night)[0])


@pytest.mark.slow
def test_requests_with_other_add_ons_run_side_by_side_and_have_the_bytes_that_they_have_alone(service: Service) -> None:
    wishes: list[dict[str, object]] = [
        {},
        {"lora_model": "sharp"},
        {"lora_model": "soft"},
        {"lora_model": "sharp,soft"},
        {"prompt": "a red ball, ghost"},
        {"prompt": "a red ball, ghost", "embeddings_model": "ghost"},
        {"negative_prompt": "<cat-toy>", "embeddings_model": "ghost,toy", "lora_model": "soft"},
    ]
    alone = [make(service, **wish)[0] for wish in wishes]
    together = [service.ask(**SMALL | wish) for wish in wishes]

    assert [service.download(service.finish(answer)) for answer in together] == alone
    assert len(set(alone)) == len(wishes)


@pytest.mark.slow
def test_embedding_changes_the_video_and_is_verified_from_its_comment(service: Service, tmp_path: Path) -> None:
    prompt = {"prompt": "a red <CAT-TOY>"}
    plain, _ = make(service, **prompt)
    changed, meta = make(service, **prompt, embeddings_model="toy")
    after, _ = make(service, **prompt)

    assert meta["embeddings_model"] == "toy"
    assert plain == after != changed
    (tmp_path / "video.mp4").write_bytes(changed)
    told = read_metadata(tmp_path / "video.mp4")
    assert told["embeddings"] == ["toy"]
    sha256 = hashlib.sha256((service.data_dir.parent / "toy.safetensors").read_bytes()).hexdigest()
    assert told["embedding_sha256"] == {"toy": sha256}
    again = run("verify", tmp_path / "video.mp4", "--data-dir", service.data_dir, threads="1")
    assert (again.returncode, again.stdout) == (0, "video.mp4: made again, and every byte is the same.\n")


@pytest.mark.slow
def test_embedding_that_was_replaced_is_named_by_verify(service: Service, tmp_path: Path) -> None:
    made, _ = make(service, prompt="a red ghost", embeddings_model="twin")
    (tmp_path / "video.mp4").write_bytes(made)
    then, now = (service.data_dir.parent / f"{name}.safetensors" for name in ("ghost", "toy"))
    other = ("--id", "twin", "--trigger-words", "Ghost", "--replace")
    assert run("models", "add", now, "--data-dir", service.data_dir, *other).returncode == 0
    again = run("verify", tmp_path / "video.mp4", "--data-dir", service.data_dir, threads="1")

    assert again.returncode == 1
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (then, now)]
    assert f"embedding twin: {hashes[0]} then, {hashes[1]} now" in again.stdout


def test_embedding_that_nobody_writes_is_told(service: Service) -> None:
    told = service.ask(**SMALL, embeddings_model="ghost,toy", negative_prompt="Ghost")["tip"]

    assert "the embedding 'toy' does nothing: write '<cat-toy>' in the prompt or the negative prompt" in told
    assert "ghost" not in told


def test_two_embeddings_with_one_word_are_refused(service: Service) -> None:
    refused = httpx.post(f"{service.url}/v1/videos", json={"prompt": "a ghost", "embeddings": "ghost,twin"})

    assert refused.status_code == 400
    assert "'Ghost' stands for 'ghost' and for 'twin': name only one" in refused.json()["error"]["message"]


@pytest.mark.slow
def test_openais_api_and_the_command_line_take_add_ons_too(service: Service, tmp_path: Path) -> None:
    body = {"prompt": "a red ball", "size": "64x64", "num_frames": 4, "num_inference_steps": 2, "seed": 3}
    body |= {"prompt": "a red ghost", "loras": [{"model": "sharp", "strength": 0.5}], "embeddings": ["ghost"]}
    video = httpx.post(f"{service.url}/v1/videos", json=body).json()
    assert video["loras"] == [{"model": "sharp", "strength": 0.5}]
    assert video["embeddings"] == ["ghost"]
    assert "tip" not in video
    remixed = httpx.post(f"{service.url}/v1/videos/{video['id']}/remix", json={"prompt": "a blue cat"}).json()
    assert (remixed["loras"], remixed["embeddings"]) == (video["loras"], video["embeddings"])
    made = run(
        "generate", "a red ghost", "-o", tmp_path / "a.mp4", "--lora", "sharp:0.5", "--embedding", "ghost", "--frames", 4,
        "--fps", 8, "--steps", 2, "--seed", 3, "--width", 64, "--height", 64, "--no-enhance-prompt", "--server", service.url,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with httpx.Client(base_url=service.url) as client:
        while client.get(f"/v1/videos/{video['id']}").json()["status"] != "completed":
            pass
        content = client.get(f"/v1/videos/{video['id']}/content").content
    assert (tmp_path / "a.mp4").read_bytes() == content


@pytest.mark.slow
def test_add_on_of_a_waiting_job_is_not_removed(service: Service) -> None:
    long = {**SMALL, "num_frames": 240, "num_inference_steps": 50}
    answer = service.ask(**long, lora_model="soft", embeddings_model="ghost")
    for name in ("soft", "ghost"):
        refused = run("models", "remove", name, "--data-dir", service.data_dir)
        assert refused.returncode == 2
        assert re.search(f"needs? the model '{name}'", refused.stderr)
    httpx.post(f"{service.url}/v1/videos/video_{answer['id']}/cancel").raise_for_status()
