"""Teaching the packaged model a style: what is written, and that a stopped training goes on."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.models.registry import ModelRegistry
from recipes.cutout.finetune import known_caption, teach
from recipes.cutout.loop import Budget
from recipes.cutout.world import pick_scene

BASE = BUILT_IN_MODELS / "cutout"


def learn(folder: Path, form: str, steps: int) -> Path:
    return teach(folder, style="night", form=form, model=BASE, budget=Budget(steps=steps), clips=8)


def hashes(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.slow
def test_stopped_training_of_a_lora_continues_as_if_never_stopped(tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole", "lora", 2)
    learn(tmp_path / "parts", "lora", 1)
    parts = learn(tmp_path / "parts", "lora", 2)

    assert whole.stat().st_size < 1e6
    assert any(tensor.any() for name, tensor in load_file(whole).items() if name.endswith("lora_up.weight"))
    assert whole.read_bytes() == parts.read_bytes()


@pytest.mark.slow
def test_checkpoint_differs_from_its_base_in_the_unet_alone(tmp_path: Path) -> None:
    made = learn(tmp_path / "models", "checkpoint", 1)
    before, after = hashes(BASE), hashes(made)

    assert {name for name in before | after if before.get(name) != after.get(name)} == {
        "promptreel.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    registry = ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=made.parent)
    assert registry.get("night").name == "Cutout, night"


def test_captions_have_only_words_that_the_model_knows() -> None:
    words = frozenset(["a", "red", "blue", "green", "ball", "cat", "dog", "moving", "left", "right"])
    rng = random.Random(0)
    scene = next(
        scene
        for scene in (pick_scene(rng) for _ in range(10_000))
        if (scene.actors[0].colour, scene.actors[0].thing, scene.actors[0].motion) == ("red", "dog", "left")
    )

    assert {word for _ in range(5) for word in known_caption(scene, words, rng).split()} <= words
